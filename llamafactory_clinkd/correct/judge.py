# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Which answers of the model need correction: low similarity, or a grounding that is missing or wrong (section 3.3).

Boxes and tags are taken out of both texts before their similarity is measured, and judged by themselves.

=================================  =========================================================================
texts without boxes and tags       similarity
=================================  =========================================================================
both empty (box-only answers)      1.0: the boxes alone decide
one empty                          0.0
neither empty                      the model's score
=================================  =========================================================================

============  ==============================================================================================
grounding     meaning
============  ==============================================================================================
none          no box in the ground truth, none in the answer
ok            every box of the ground truth has its own box in the answer with an IoU of at least the bound
missing       the ground truth has boxes, the answer has none
malformed     tags that do not close, or a box tag without coordinates
wrong_number  more boxes or fewer than the ground truth has
low_iou       as many boxes, but one of them below the bound in the best one-to-one matching
============  ==============================================================================================
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

from scipy.optimize import linear_sum_assignment

from ..utils.boxes import TAGS, iou_matrix, parse_boxes, strip_boxes, tags_balanced
from .similarity import Similarity


Grounding = Literal["none", "ok", "missing", "malformed", "wrong_number", "low_iou"]


class Verdict(TypedDict):
    """What was found about one row, JSON-able."""

    id: str
    similarity: float
    grounding: Grounding
    iou: list[float]
    """For each box of the ground truth, in order, the IoU with its partner; 0 without a partner."""
    needs_correction: bool
    reason: str
    """``ok``, ``similarity``, a wrong grounding, or ``similarity+<wrong grounding>``."""


class GroundingResult(NamedTuple):
    """A grounding and the IoU of each box of the ground truth."""

    grounding: Grounding
    iou: list[float]


def judge(
    rows: Sequence[Mapping[str, Any]],
    similarity: Similarity,
    *,
    threshold: float = 0.8,
    iou_threshold: float = 0.5,
) -> list[Verdict]:
    """Judges rows in one batch.

    Args:
        rows: Each with ``id``, ``annotation`` (the ground truth) and ``response`` (the model's answer), strings.
        similarity: Scores the texts.
        threshold: A similarity below it needs correction.
        iou_threshold: A box whose IoU is below it is wrong.

    Returns:
        One verdict a row, in order.

    Raises:
        ValueError: If a row lacks one of the strings; the message names the row.
    """
    for number, row in enumerate(rows):
        for key in ("id", "annotation", "response"):
            if not isinstance(row.get(key), str):
                found = type(row.get(key)).__name__
                raise ValueError(f"Row {number} (id {row.get('id')!r}): {key} is {found}, expected a string.")

    scores = text_similarity([row["annotation"] for row in rows], [row["response"] for row in rows], similarity)
    verdicts = []
    for row, score in zip(rows, scores, strict=True):
        grounding, ious = judge_grounding(row["annotation"], row["response"], iou_threshold)
        reasons = ["similarity"] if score < threshold else []
        reasons += [] if grounding in ("none", "ok") else [grounding]
        verdicts.append(
            Verdict(
                id=row["id"],
                similarity=score,
                grounding=grounding,
                iou=ious,
                needs_correction=bool(reasons),
                reason="+".join(reasons) or "ok",
            )
        )
    return verdicts


def text_similarity(a: Sequence[str], b: Sequence[str], similarity: Similarity) -> list[float]:
    """The similarity of each pair without boxes and tags, by the first table at the top of this file."""
    pairs = [(strip_boxes(left), strip_boxes(right)) for left, right in zip(a, b, strict=True)]
    worded = [pair for pair in pairs if all(pair)]
    scores = iter(similarity.scores([left for left, _ in worded], [right for _, right in worded]))
    return [next(scores) if left and right else float(left == right) for left, right in pairs]


def judge_grounding(annotation: str, response: str, iou_threshold: float) -> GroundingResult:
    """Compares the boxes of an answer with those of the ground truth, by the second table at the top of this file."""
    truth, found = parse_boxes(annotation), parse_boxes(response)
    ious = [0.0] * len(truth)
    if truth and found:
        matrix = iou_matrix(truth, found)  # [truth, found]
        for row, column in zip(*linear_sum_assignment(matrix, maximize=True), strict=True):
            ious[row] = float(matrix[row, column])

    if not tags_balanced(response) or (_box_tags(response) and not found):
        return GroundingResult("malformed", ious)
    if not truth and not found:
        return GroundingResult("none", ious)
    if not found:
        return GroundingResult("missing", ious)
    if len(found) != len(truth):
        return GroundingResult("wrong_number", ious)
    return GroundingResult("ok" if min(ious) >= iou_threshold else "low_iou", ious)


def _box_tags(text: str) -> int:
    """How many opening box tags of any style ``text`` has."""
    return sum(text.count(style["box"]) for style in TAGS.values())
