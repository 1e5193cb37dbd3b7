# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd reproduce``: the paper's tables 1 to 3 and figure 4, at the paper's scale and in miniature.

- :mod:`.table_rows`: the rows of each table
- :mod:`.row_recipes`: the recipe of a row with a seed
- :mod:`.run`, :mod:`.launch`: the missing runs, each a ``llamafactory-cli train``
- :mod:`.results`, :mod:`.statistics`: results of runs, and differences over seeds
- :mod:`.table`, :mod:`.write`: the tables and the figure
- :mod:`.costs`: ``--dry-run``
- :mod:`.prepare`: data and models that the runs start from
"""
