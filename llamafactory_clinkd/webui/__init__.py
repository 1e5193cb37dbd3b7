# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""LLaMA Board: ClinKD's options, and what a run started there shows.

- :mod:`.elements`: the boxes as data, and which of them apply
- :mod:`.recipe`: boxes to recipe keys and back, into and out of a saved configuration
- :mod:`.validation`: the recipe's own validators, asked before a run starts
- :mod:`.accordion`: the boxes as gradio components
- :mod:`.runner`: wrappers of stock's ``Runner``
- :mod:`.progress`, :mod:`.monitor`: a run under way and at its end
- :mod:`.trainer_log`: cross-entropy and KL divergence in ``trainer_log.jsonl``
- :mod:`.evaluation`: the Evaluate & Predict tab
- :mod:`.loading`, :mod:`.chat`, :mod:`.chat_texts`, :mod:`.candidates`, :mod:`.drawing`: the Chat tab
- :mod:`.locales`: every text in the five languages

:mod:`llamafactory_clinkd.attach` puts them in place; gradio is imported when a page is built, never before.
"""
