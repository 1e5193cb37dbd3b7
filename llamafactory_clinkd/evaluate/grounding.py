# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Visual grounding and referring object classification: per-row counts, of which every score is a ratio of sums."""

from collections.abc import Sequence

import numpy as np

from ..utils.boxes import iou_matrix, parse_boxes, strip_boxes


IOU_THRESHOLD = 0.5
CURVE = tuple(round(0.1 * step, 1) for step in range(1, 10))  # IoU thresholds of the recall curve
_COLUMNS = 7 + len(CURVE)


def grounding_counts(annotation: str, response: str) -> tuple[int, int]:
    """Number of matched targets and of targets of one VG row (paper section 4.2; BiRD's released code).

    A target matches if its IoU with any predicted box is strictly above 0.5; one box may match several targets.
    """
    targets, predicted = parse_boxes(annotation), parse_boxes(response)
    matched = (iou_matrix(targets, predicted) > IOU_THRESHOLD).any(axis=1)
    return int(matched.sum()), len(targets)


def label_found(annotation: str, response: str) -> bool:
    """Whether a ROC row is right, as in BiRD's released code; tags and boxes are removed first.

    Every space-separated token of the lower-case ground truth must occur as a substring of the lower-case response.
    """
    words = strip_boxes(response).lower()
    return bool(words) and all(token in words for token in strip_boxes(annotation).lower().split(" "))


def grounding_statistics(rows: Sequence[dict]) -> np.ndarray:
    """float64 ``[rows, 16]``, the columns of :func:`grounding_scores`; the boxes of all references are targets."""
    table = np.zeros((len(rows), _COLUMNS))
    for line, row in zip(table, rows, strict=True):
        targets = [box for text in references(row) for box in parse_boxes(text)]
        predicted = parse_boxes(row["response"])
        line[[1, 5, 6]] = len(targets), len(predicted), 1
        if targets and predicted:
            iou = iou_matrix(targets, predicted)  # [targets, predicted]
            line[0] = (iou > IOU_THRESHOLD).any(axis=1).sum()
            line[2] = _matched_pairs(iou)
            best = iou[:, : len(targets)].max(axis=1)
            line[3] = best.sum()
            line[4] = _centre_hits(targets, predicted[: len(targets)])
            line[7:] = (best[:, None] > CURVE).sum(axis=0)
    return table


def grounding_scores(sums: np.ndarray) -> dict[str, np.ndarray]:
    """The scores of summed columns ``[..., 16]``, each ``[...]``.

    ``value`` is the paper's Recall@0.5, which more boxes can only raise. ``precision`` and ``f1`` at 0.5 pair each
    predicted box with at most one target, by the assignment of the largest total IoU. ``mean_iou`` (of a target's best
    box), ``centre_accuracy`` (a predicted box's centre is within the target) and ``recall@0.1`` to ``recall@0.9`` look
    at a row's first boxes only, as many as it has targets: what is printed beyond them is not rewarded.
    """
    targets, boxes = sums[..., 1], sums[..., 5]
    scores = {
        "value": safe_divide(sums[..., 0], targets),
        "precision": safe_divide(sums[..., 2], boxes),
        "f1": safe_divide(2 * sums[..., 2], targets + boxes),
        "mean_iou": safe_divide(sums[..., 3], targets),
        "centre_accuracy": safe_divide(sums[..., 4], targets),
        "boxes_per_answer": safe_divide(boxes, sums[..., 6]),
    }
    scores |= {f"recall@{t}": safe_divide(sums[..., 7 + i], targets) for i, t in enumerate(CURVE)}
    return scores | {"targets": targets}


def label_statistics(rows: Sequence[dict]) -> np.ndarray:
    """float64 ``[rows, 2]``: 1 where a reference's label was found, and 1."""
    return np.array(
        [(any(label_found(label, row["response"]) for label in references(row)), 1) for row in rows], dtype=float
    )


def references(row: dict) -> list[str]:
    """All ground truths of a row: its ``annotations`` if it has several, else its ``annotation``."""
    return row.get("annotations") or [row["annotation"]]


def recall(sums: np.ndarray) -> np.ndarray:
    """First over second column, ``[..., 2]`` to ``[...]``; 0 where the second is 0, which no evaluated row has."""
    return safe_divide(sums[..., 0], sums[..., 1])


def safe_divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient of two arrays of one shape, and 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(denominator)), where=denominator > 0)


def _matched_pairs(iou: np.ndarray) -> int:
    """How many pairs of the one-to-one assignment of the largest total IoU are above 0.5, of ``[targets, boxes]``."""
    if 1 in iou.shape:
        return int(iou.max() > IOU_THRESHOLD)
    from scipy.optimize import linear_sum_assignment  # slow to import, and only several boxes need it

    return int((iou[linear_sum_assignment(iou, maximize=True)] > IOU_THRESHOLD).sum())


def _centre_hits(targets: Sequence[Sequence[float]], predicted: Sequence[Sequence[float]]) -> int:
    """How many targets contain the centre of a predicted box."""
    low, high = (np.array(targets)[:, None, side] for side in (slice(0, 2), slice(2, 4)))
    centres = np.array(predicted).reshape(-1, 2, 2).mean(axis=1)
    return int(((low <= centres) & (centres <= high)).all(axis=-1).any(axis=1).sum())
