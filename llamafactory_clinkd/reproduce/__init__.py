# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd reproduce``: the paper's tables 1 to 3 and figure 4, at the paper's scale and in miniature.

:mod:`.table_rows` and :mod:`.row_recipes` plan the runs, :mod:`.run` and :mod:`.launch` run them.
"""
