# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd reproduce``: the paper's tables 1 to 3 and figure 4, at the paper's scale and in miniature.

- :mod:`.rows`: which rows each table has
- :mod:`.recipes`: a row, a seed -> the recipe of a run
- :mod:`.run`, :mod:`.launch`: the runs that are missing, each a ``llamafactory-cli train``
- :mod:`.results`, :mod:`.statistics`: what runs left, and what seeds do
- :mod:`.table`, :mod:`.long_form`, :mod:`.figure`: the tables and the figure
- :mod:`.plan`: what it all would take
- :mod:`.mini`, :mod:`.held_out`, :mod:`.blind`, :mod:`.mean_box`: the miniature benchmark and its sanity rows
"""
