# Copyright 2026 the llamafactory-clinkd team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

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
