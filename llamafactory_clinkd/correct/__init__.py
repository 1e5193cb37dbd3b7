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

"""Reflective Correction Training (section 3.3): judging answers, and rewording the ground truth of bad ones.

``judge`` says which answers need correction, ``make_corrector`` builds what rewords, ``rejection_reasons`` says
whether a rewording may be used, ``correct_round`` does all of it for one round and records it. No trainer is needed.
"""

from .correctors import CorrectionItem, CorrectionResult, Corrector, Usage, make_corrector
from .judge import Verdict, judge
from .remote import describe_recipe, describe_sending
from .round import RoundSummary, correct_round
from .similarity import Similarity, check_similarity, load_similarity
from .validate import rejection_reasons


__all__ = [
    "CorrectionItem",
    "CorrectionResult",
    "Corrector",
    "RoundSummary",
    "Similarity",
    "Usage",
    "Verdict",
    "check_similarity",
    "correct_round",
    "describe_recipe",
    "describe_sending",
    "judge",
    "load_similarity",
    "make_corrector",
    "rejection_reasons",
]
