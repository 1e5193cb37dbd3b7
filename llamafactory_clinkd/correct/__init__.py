# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Reflective Correction (section 3.3): judges answers, rewords the ground truth of wrong ones, validates rewordings.

:func:`correct_round` runs and records a whole round; it needs no trainer. ``docs/correction.md`` has the formats.
"""

from pathlib import Path
from typing import Literal

from .correction_round import RoundSummary, correct_round
from .corrector import CorrectionItem, CorrectionResult, Corrector, Usage
from .judge import Verdict, judge
from .offline import OfflineCorrector
from .privacy import describe_recipe, describe_sending
from .rewording_validation import check_validation, rejection_reasons
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
    "check_validation",
    "correct_round",
    "describe_recipe",
    "describe_sending",
    "judge",
    "load_similarity",
    "make_corrector",
    "rejection_reasons",
]


def make_corrector(
    kind: Literal["offline", "openai"],
    *,
    candidates: int = 3,
    model: str = "gpt-4o",
    base_url: str | None = None,
    concurrency: int = 16,
    max_requests: int | None = None,
    allow_remote: bool = False,
    allow_http: bool = False,
    prompt_path: str | Path | None = None,
) -> Corrector:
    """Builds a corrector from the values of the YAML keys ``corrector`` and ``correction_*``.

    Args:
        kind: ``offline`` (rules, no network; uses only ``candidates``), or ``openai`` (any compatible server).
        candidates: Rewordings for each row, >= 1.
        model: The model's name on the server.
        base_url: The server; default ``OPENAI_BASE_URL``, else OpenAI's own.
        concurrency: Requests in flight at once, >= 1.
        max_requests: Budget of requests a round, retries included; rows beyond it keep their ground truth.
        allow_remote: Whether texts may go to another machine.
        allow_http: Whether they may go there by plain http.
        prompt_path: A template in place of the built-in ``prompts/correction.txt``.

    Raises:
        ValueError: If a value is out of range or unknown, a remote server is not allowed, or its key is missing.
        ImportError: If the openai client is not installed; the message gives the command.
    """
    if kind == "offline":
        return OfflineCorrector(candidates=candidates)
    if kind == "openai":
        from .client import OpenAICorrector

        return OpenAICorrector(
            base_url=base_url, model=model, allow_remote=allow_remote, allow_http=allow_http, candidates=candidates,
            concurrency=concurrency, max_requests=max_requests, prompt_path=prompt_path,
        )  # fmt: skip
    raise ValueError(f"Unknown corrector {kind!r}: expected one of offline, openai.")
