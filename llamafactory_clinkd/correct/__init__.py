# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Reflective Correction Training (section 3.3): judging answers, and rewording the ground truth of bad ones.

``judge`` says which answers need correction, ``make_corrector`` builds what rewords, ``rejection_reasons`` says
whether a rewording may be used, ``correct_round`` does all of it for one round and records it. No trainer is needed.
"""

from .correction_round import RoundSummary, correct_round
from .corrector import CorrectionItem, CorrectionResult, Corrector, Usage, make_corrector
from .judge import Verdict, judge
from .privacy import describe_recipe, describe_sending
from .rewording_validation import rejection_reasons
from .similarity import Similarity, check_similarity, load_similarity


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
