# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Reflective Correction (section 3.3): judges answers, rewords the ground truth of wrong ones, validates rewordings.

:func:`correct_round` runs and records a whole round; it needs no trainer. ``docs/correction.md`` has the formats.
"""

from typing import Any, Literal

from .correction_round import RoundSummary, correct_round
from .corrector import CorrectionItem, CorrectionResult, Corrector, Usage
from .judge import Verdict, judge
from .offline import OfflineCorrector
from .privacy import describe_recipe, describe_sending
from .rewording_validation import check_validation, rejection_reasons
from .similarity import Similarity, check_similarity, load_similarity


__all__ = [
    "CorrectionItem", "CorrectionResult", "Corrector", "RoundSummary", "Similarity", "Usage", "Verdict",
    "check_similarity", "check_validation", "correct_round", "describe_recipe", "describe_sending", "judge",
    "load_similarity", "make_corrector", "rejection_reasons",
]  # fmt: skip


def make_corrector(kind: Literal["offline", "openai"], *, candidates: int = 3, **server: Any) -> Corrector:
    """Builds a corrector that needs no model of the run.

    Args:
        kind: ``offline`` (rules, no network), or ``openai`` (any compatible server).
        candidates: Rewordings for each row, >= 1.
        server: The other arguments of :class:`.client.OpenAICorrector`; ``offline`` uses none of them.

    Raises:
        ValueError: If a value is out of range or unknown, a remote server is not allowed, or its key is missing.
        ImportError: If the openai client is not installed; the message gives the command.
    """
    if kind == "offline":
        return OfflineCorrector(candidates=candidates)
    if kind == "openai":
        from .client import OpenAICorrector

        return OpenAICorrector(candidates=candidates, **server)
    raise ValueError(f"Unknown corrector {kind!r}: expected one of offline, openai.")
