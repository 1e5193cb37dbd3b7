# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Reflective Correction in the page: the counts of each round, and rows before and after."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..utils.boxes import convert_tags
from . import figures
from .excerpts import Segment, added_words, sample_rows, segments
from .load import CorrectionRound, RunData


EXAMPLES_OF_STATUS = {"corrected": 3, "rejected": 1, "kept": 1}
"""Number of examples of a round by status, in this order."""


@dataclass(frozen=True)
class CorrectionExample:
    """A row of a round: the student's answer, and the corrected wording with the words it adds marked, or None."""

    status: str
    question: list[Segment]
    answer: list[Segment]
    truth: list[Segment]
    corrected: list[Segment] | None
    similarity: float | None
    reason: str
    why_rejected: str


@dataclass(frozen=True)
class RoundView:
    """A round's counts, causes and examples."""

    title: str
    counts: dict[str, int]
    reasons: dict[str, int]
    rejections: dict[str, int]
    usage: dict[str, Any]
    finished: bool
    examples: list[CorrectionExample]


def round_views(runs: Sequence[RunData], seed: int) -> list[RoundView]:
    """A view of every round of every run; only the first run with rounds has examples, chosen by ``seed``."""
    views, first = [], next((run for run in runs if run.rounds), None)
    for run in runs:
        for each in run.rounds:
            title = f"Round {each.number}" + (f", {run.name}" if len(runs) > 1 else "")
            summary = each.summary or {}
            counted = Counter(row.get("status") for row in each.rows)
            views.append(
                RoundView(
                    title,
                    {status: summary.get(status, counted[status]) for status in figures.STATUS_COLOURS},
                    summary.get("reasons") or {},
                    summary.get("rejections") or {},
                    summary.get("usage") or {},
                    each.summary is not None,
                    _examples(each, seed) if run is first else [],
                )
            )
    return views


def rounds_figure(rounds: Sequence[RoundView]) -> str | None:
    """The counts of all rounds as stacked bars, None without a round."""
    if not rounds:
        return None
    counts = "; ".join(
        f"{view.title}: " + ", ".join(f"{count} {status}" for status, count in view.counts.items()) for view in rounds
    )
    bars = [(view.title, view.counts) for view in rounds]
    return figures.status_bars(bars, "rounds", f"Rows of each round. {counts}.")


def _examples(each: CorrectionRound, seed: int) -> list[CorrectionExample]:
    examples = []
    for status, count in EXAMPLES_OF_STATUS.items():
        rows = [row for row in each.rows if row.get("status") == status]
        seed_text = f"{seed} round {each.number}"
        examples += map(_example, sample_rows(rows, count, group=lambda row: str(row.get("reason")), seed=seed_text))
    return examples


def _example(row: dict[str, Any]) -> CorrectionExample:
    truth, corrected, similarity = row.get("annotation"), row.get("corrected"), row.get("similarity")
    marked = None
    if isinstance(corrected, str):
        marked = added_words(_without_tags(truth if isinstance(truth, str) else ""), _without_tags(corrected))
    reasons = Counter(reason for candidate in row.get("candidates") or [] for reason in candidate.get("reasons") or [])
    return CorrectionExample(
        str(row.get("status")),
        segments(row.get("question")),
        segments(row.get("response")),
        segments(truth),
        marked,
        similarity if isinstance(similarity, int | float) else None,
        str(row.get("reason") or ""),
        row.get("error") or ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common()),
    )


def _without_tags(text: str) -> str:
    """The text without its tags, the coordinates kept."""
    plain = convert_tags(text, "qwen_vl")
    for tag in ("<ref>", "</ref>", "<box>", "</box>"):
        plain = plain.replace(tag, " ")
    return " ".join(plain.split())
