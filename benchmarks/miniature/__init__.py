# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The miniature benchmark: real scans, small models trained on them, and the rows that they are compared on."""
