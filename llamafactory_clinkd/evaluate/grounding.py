# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Visual grounding and referring object classification: per-row counts, from which any recall is a ratio of sums."""

from collections.abc import Sequence

import numpy as np

from ..utils.boxes import iou_matrix, parse_boxes, strip_boxes


IOU_THRESHOLD = 0.5


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
    """float64 ``[rows, 2]``: matched targets, and targets."""
    return np.array([grounding_counts(row["annotation"], row["response"]) for row in rows], dtype=float)


def label_statistics(rows: Sequence[dict]) -> np.ndarray:
    """float64 ``[rows, 2]``: 1 where the label was found, and 1."""
    return np.array([(label_found(row["annotation"], row["response"]), 1) for row in rows], dtype=float)


def recall(sums: np.ndarray) -> np.ndarray:
    """First over second column, ``[..., 2]`` to ``[...]``; 0 where the second is 0, which no evaluated row has."""
    return safe_divide(sums[..., 0], sums[..., 1])


def safe_divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient of two arrays of one shape, and 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(denominator)), where=denominator > 0)
