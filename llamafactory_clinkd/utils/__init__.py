# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Helpers that several folders share: files, boxes, patching, ranks. Nothing here imports the rest of the package."""
