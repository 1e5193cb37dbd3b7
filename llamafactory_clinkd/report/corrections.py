# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Reflective Correction in the page: the counts of each round, and rows before and after."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..utils.boxes import TAGS, convert_tags
from . import figures
from .excerpts import added_words, sample_rows, segments
from .load import CorrectionRound, RunData


EXAMPLES_OF_STATUS = {"corrected": 3, "rejected": 1, "kept": 1}
"""Number of examples of a round by status, in this order."""


def round_views(runs: Sequence[RunData], seed: int) -> list[dict[str, Any]]:
    """The counts of every round of every run; only the first run with rounds has examples, chosen by ``seed``."""
    first = next((run for run in runs if run.rounds), None)
    views = []
    rounds = [(run, correction_round) for run in runs for correction_round in run.rounds]
    for run, correction_round in rounds:
        summary = correction_round.summary or {}
        counted = Counter(row.get("status") for row in correction_round.rows)
        views.append(
            {
                "title": f"Round {correction_round.number}" + (f", {run.name}" if len(runs) > 1 else ""),
                "counts": {status: summary.get(status, counted[status]) for status in figures.STATUS_COLOURS},
                "causes": [summary.get(key) or {} for key in ("reasons", "rejections", "usage")],
                "finished": correction_round.summary is not None,
                "examples": _examples(correction_round, seed) if run is first else [],
            }
        )
    return views


def rounds_figure(rounds: Sequence[dict[str, Any]]) -> str | None:
    """The counts of all rounds as stacked bars, None without a round."""
    if not rounds:
        return None
    bars = [(view["title"], view["counts"]) for view in rounds]
    texts = [f"{title}: " + ", ".join(f"{n} {status}" for status, n in counts.items()) for title, counts in bars]
    return figures.status_bars(bars, "rounds", f"Rows of each round. {'; '.join(texts)}.")


def _examples(correction_round: CorrectionRound, seed: int) -> list[dict[str, Any]]:
    """A seeded choice of rows of each status, one from each reason in turn."""
    rows, seed_text = [], f"{seed} round {correction_round.number}"
    for status, count in EXAMPLES_OF_STATUS.items():
        of_status = [row for row in correction_round.rows if row.get("status") == status]
        rows += sample_rows(of_status, count, group=lambda row: str(row.get("reason")), seed=seed_text)
    return [_example(row) for row in rows]


def _example(row: dict[str, Any]) -> dict[str, Any]:
    """The student's answer, and the corrected wording with the words that it adds to the ground truth marked."""
    truth, corrected, similarity = row.get("annotation"), row.get("corrected"), row.get("similarity")
    reasons = Counter(reason for candidate in row.get("candidates") or [] for reason in candidate.get("reasons") or [])
    return {
        "status": str(row.get("status")),
        "question": segments(row.get("question")),
        "answer": segments(row.get("response")),
        "truth": segments(truth),
        "corrected": added_words(_without_tags(truth), _without_tags(corrected))
        if isinstance(corrected, str)
        else None,
        "similarity": similarity if isinstance(similarity, int | float) else None,
        "reason": str(row.get("reason") or ""),
        "why_rejected": row.get("error") or ", ".join(f"{reason} ({n})" for reason, n in reasons.most_common()),
    }


def _without_tags(text: Any) -> str:
    """A text without its tags, the coordinates kept; empty if it is no text."""
    plain = convert_tags(text, "qwen_vl") if isinstance(text, str) else ""
    for tag in TAGS["qwen_vl"].values():
        plain = plain.replace(tag, " ")
    return " ".join(plain.split())
