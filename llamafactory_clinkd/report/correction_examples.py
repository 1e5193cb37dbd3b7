# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Reflective Correction on the page: counts of each round, and rows before and after."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..utils.boxes import convert_tags
from .examples import sample_rows
from .load import CorrectionRound, RunData
from .texts import Segment, added_words, segments


STATUSES = ("kept", "corrected", "rejected")


@dataclass(frozen=True)
class Example:
    """A row of a round: the model's answer before, and what the student learns after."""

    status: str
    question: list[Segment]
    answer: list[Segment]
    truth: list[Segment]
    corrected: list[Segment] | None
    """The corrected wording with what it adds to the ground truth marked; None where there is none."""
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
    examples: list[Example]


def round_views(runs: Sequence[RunData], seed: int, examples: Sequence[tuple[str, int]]) -> list[RoundView]:
    """A view of every round of every run.

    Args:
        runs: The runs; with several, titles name the run.
        seed: Seed of the choice of examples.
        examples: (status, how many) to show of each round of the first run that has any.
    """
    views, shown = [], next((run.name for run in runs if run.rounds), None)
    for run in runs:
        for found in run.rounds:
            title = f"Round {found.number}" + (f", {run.name}" if len(runs) > 1 else "")
            views.append(_view(title, found, seed, examples if run.name == shown else ()))
    return views


def _view(title: str, found: CorrectionRound, seed: int, examples: Sequence[tuple[str, int]]) -> RoundView:
    summary = found.summary or {}
    counted = Counter(row.get("status") for row in found.rows)
    counts = {status: summary.get(status, counted.get(status, 0)) for status in STATUSES}
    chosen = [
        _example(row)
        for status, wanted in examples
        for row in sample_rows(
            [row for row in found.rows if row.get("status") == status],
            wanted,
            group=lambda row: str(row.get("reason")),
            seed=f"{seed} round {found.number}",
        )
    ]
    return RoundView(
        title,
        counts,
        summary.get("reasons") or {},
        summary.get("rejections") or {},
        summary.get("usage") or {},
        found.summary is not None,
        chosen,
    )


def _example(row: dict[str, Any]) -> Example:
    truth, corrected = row.get("annotation"), row.get("corrected")
    marked = None
    if isinstance(corrected, str):
        known = truth if isinstance(truth, str) else ""
        marked = added_words(*(_without_tag_marks(text) for text in (known, corrected)))
    reasons = Counter(reason for candidate in row.get("candidates") or [] for reason in candidate.get("reasons") or [])
    why = row.get("error") or ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
    similarity = row.get("similarity")
    return Example(
        str(row.get("status")),
        segments(row.get("question")),
        segments(row.get("response")),
        segments(truth),
        marked,
        similarity if isinstance(similarity, int | float) else None,
        str(row.get("reason") or ""),
        why,
    )


def _without_tag_marks(text: str) -> str:
    """The text with its tags taken off and a blank in their place, the coordinates kept."""
    plain = convert_tags(text, "qwen_vl")
    for tag in ("<ref>", "</ref>", "<box>", "</box>"):
        plain = plain.replace(tag, " ")
    return " ".join(plain.split())
