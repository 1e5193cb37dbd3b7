# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

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
