# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Scores candidates by each other (self-consistency, Wang et al., ICLR 2023), by stored probabilities, or by several.

A score needs no second model here; a weighted sum may have image-text scorers among its parts.
"""

import math
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..utils.boxes import Box, iou_matrix, parse_boxes, strip_boxes
from .image_scores import Row, RowScores, unranked


class LogprobScorer:
    """The generating model's own mean log-probability per token. Not the paper's CLIP score, and named accordingly."""

    identity = {"name": "logprob", "kind": "the model's own mean log-probability per token (no image-text model)"}
    short_name = "logprob (not CLIP)"
    reads_images = False

    def score_rows(self, rows: Sequence[Row]) -> list[RowScores]:
        """Each row's stored log-probabilities, or the error."""
        missing = "A candidate has no stored `logprob` to be ranked by: choose another scorer, or generate again."
        table = [[candidate.get("logprob") for candidate in row["candidates"]] for row in rows]
        return [
            unranked(row, missing) if not all(_is_number(score) for score in scores) else _scored(scores)
            for row, scores in zip(rows, table, strict=True)
        ]


class ConsensusScorer:
    """A candidate's mean similarity to the row's others: IoU of boxes, F1 of words."""

    identity = {"name": "consensus", "kind": "mean similarity to the other candidates (no image-text model)"}
    short_name = "consensus (not CLIP)"
    reads_images = False

    def score_rows(self, rows: Sequence[Row]) -> list[RowScores]:
        """Similarities in [0, 1]; 0 for the only candidate of a row."""
        results = []
        for row in rows:
            answers = [Answer(candidate["text"]) for candidate in row["candidates"]]
            others = max(len(answers) - 1, 1)
            scores = [
                sum(similarity(a, b) for j, b in enumerate(answers) if j != i) / others for i, a in enumerate(answers)
            ]
            results.append(_scored(scores))
        return results


class Answer:
    """The boxes and words of a text."""

    def __init__(self, text: str) -> None:
        self.boxes: list[Box] = parse_boxes(text)
        self.words = Counter(re.findall(r"\w+", strip_boxes(text).lower()))


def similarity(a: Answer, b: Answer) -> float:
    """Similarity in [0, 1]: if either has a box the matched IoU of the boxes, else the F1 of the words.

    Boxes are matched one to one so that the sum of IoUs is largest; it is divided by the larger number of boxes.
    """
    if a.boxes or b.boxes:
        if not (a.boxes and b.boxes):
            return 0.0
        from scipy.optimize import linear_sum_assignment

        ious = iou_matrix(a.boxes, b.boxes)
        return float(ious[linear_sum_assignment(-ious)].sum()) / max(ious.shape)
    total = a.words.total() + b.words.total()
    return 2 * (a.words & b.words).total() / total if total else 1.0


class WeightedScorer:
    """A weighted sum of scorers, each standardised within a row; weights may differ by task.

    Args:
        parts: Scorers by name, in the order of the file.
        regions: The region of each part that reads images.
        weights: Task (or ``default``) -> name -> weight.
        fitted_on: :func:`row_mark` of the rows that the weights were fitted on.
        identity: Of all parts and weights.
    """

    reads_images = False

    def __init__(
        self,
        parts: dict[str, Any],
        regions: dict[str, str],
        weights: dict[str, dict[str, float]],
        fitted_on: Sequence[str],
        identity: Any,
    ) -> None:
        self.parts, self.regions, self.weights = parts, regions, weights
        self.fitted_on, self.identity = frozenset(fitted_on), identity
        self.short_name = f"weighted ({', '.join(part.short_name for part in parts.values())})"

    def combine(self, row: Row, parts: dict[str, RowScores]) -> RowScores:
        """The weighted sum of a row's standardised scores; a part that cannot rank the row counts 0."""
        weights = self.weights.get(str(row.get("task"))) or self.weights["default"]
        usable = {name: scores for name, scores in parts.items() if scores.error is None and weights.get(name)}
        if not usable:
            return unranked(row, "; ".join(f"{name}: {scores.error}" for name, scores in parts.items()))
        columns = {name: standardised(scores.scores) for name, scores in usable.items()}
        names, table = list(columns), zip(*columns.values(), strict=True)
        return _scored([sum(weights[name] * z for name, z in zip(names, line, strict=True)) for line in table])


def standardised(scores: Sequence[float | None]) -> list[float]:
    """Scores with mean 0 and standard deviation 1; all 0 if they are equal. One without a score gets the lowest."""
    known = [score for score in scores if score is not None]
    if not known:
        return [0.0] * len(scores)
    filled = [min(known) if score is None else score for score in scores]
    mean, deviation = statistics.fmean(filled), statistics.pstdev(filled)
    return [(score - mean) / deviation if deviation > 1e-12 else 0.0 for score in filled]


def _scored(scores: Sequence[float]) -> RowScores:
    return RowScores(list(scores), [None] * len(scores))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
