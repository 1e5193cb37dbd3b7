# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Which answers of the model need correction: low similarity, or a grounding that is missing or wrong (section 3.3).

Text and boxes are judged separately. The similarity is that of both texts without boxes and tags: 1 if both are empty
(the boxes alone decide), 0 if one is empty. ``docs/correction.md`` lists the groundings and what each means.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

from scipy.optimize import linear_sum_assignment

from ..utils.boxes import TAGS, iou_matrix, parse_boxes, strip_boxes, tags_balanced
from .similarity import Similarity


Grounding = Literal["none", "ok", "missing", "malformed", "wrong_number", "low_iou"]


class Verdict(TypedDict):
    """The judgement of one row, JSON-able."""

    id: str
    similarity: float
    grounding: Grounding
    iou: list[float]  # for each box of the ground truth, in order, the IoU with its partner; 0 without a partner
    needs_correction: bool
    reason: str  # ``ok``, ``similarity``, a wrong grounding, or ``similarity+<wrong grounding>``


class GroundingResult(NamedTuple):
    """A grounding and the IoU of each box of the ground truth."""

    grounding: Grounding
    iou: list[float]


def judge(
    rows: Sequence[Mapping[str, Any]], similarity: Similarity, *, threshold: float = 0.8, iou_threshold: float = 0.5
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
            if not isinstance(value := row.get(key), str):
                kind = type(value).__name__
                raise ValueError(f"Row {number} (id {row.get('id')!r}): {key} is {kind}, expected a string.")

    scores = text_similarity([row["annotation"] for row in rows], [row["response"] for row in rows], similarity)
    verdicts = []
    for row, score in zip(rows, scores, strict=True):
        grounding, ious = judge_grounding(row["annotation"], row["response"], iou_threshold)
        reasons = ["similarity"] if score < threshold else []
        reasons += [] if grounding in ("none", "ok") else [grounding]
        verdict = {"id": row["id"], "similarity": score, "grounding": grounding, "iou": ious}
        verdicts.append(Verdict(**verdict, needs_correction=bool(reasons), reason="+".join(reasons) or "ok"))
    return verdicts


def text_similarity(a: Sequence[str], b: Sequence[str], similarity: Similarity) -> list[float]:
    """The similarity of each pair without boxes and tags; 1 if both texts are empty then, 0 if one is."""
    pairs = [(strip_boxes(left), strip_boxes(right)) for left, right in zip(a, b, strict=True)]
    nonempty = [pair for pair in pairs if all(pair)]
    scores = iter(similarity.scores([left for left, _ in nonempty], [right for _, right in nonempty]))
    return [next(scores) if left and right else float(left == right) for left, right in pairs]


def judge_grounding(annotation: str, response: str, iou_threshold: float) -> GroundingResult:
    """Compares the boxes of an answer with those of the ground truth by the best one-to-one matching."""
    true_boxes, boxes = parse_boxes(annotation), parse_boxes(response)
    ious = [0.0] * len(true_boxes)
    if true_boxes and boxes:
        matrix = iou_matrix(true_boxes, boxes)  # [true, predicted]
        for row, column in zip(*linear_sum_assignment(matrix, maximize=True), strict=True):
            ious[row] = float(matrix[row, column])

    has_box_tag = any(style["box"] in response for style in TAGS.values())
    if not tags_balanced(response) or (has_box_tag and not boxes):
        return GroundingResult("malformed", ious)
    if not boxes:
        return GroundingResult("missing" if true_boxes else "none", ious)
    if len(boxes) != len(true_boxes):
        return GroundingResult("wrong_number", ious)
    return GroundingResult("ok" if min(ious) >= iou_threshold else "low_iou", ious)
