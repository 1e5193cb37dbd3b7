# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""LLaMA Board: ClinKD's options, and the progress and results of a run.

- :mod:`.elements`: the elements of the accordion as data
- :mod:`.recipe_keys`: element values to recipe keys and back, and their validation
- :mod:`.presets`, :mod:`.plan_estimate`: the elements' values from a shipped recipe, and the plan of the page's recipe
- :mod:`.accordion`: the elements as gradio components in the Train tab
- :mod:`.board_runner`: wrappers of LLaMA Board's ``Runner``
- :mod:`.run_progress`, :mod:`.monitor`: a run in progress and its results
- :mod:`.chat_model`, :mod:`.chat_tab`: candidates with scores and boxes in the Chat tab
- :mod:`.locales`: every text in five languages

:mod:`llamafactory_clinkd.attach` installs them; gradio is imported when a page is built.
"""
