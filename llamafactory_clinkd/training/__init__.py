# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The SFT trainer that the other trainers extend, and the data set that keeps the rows behind its tokens."""
