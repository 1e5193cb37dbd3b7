# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Fits the weights of several scorers on validation rows, and loads them for ranking other rows.

The file is JSON. It holds marks of the rows that it was fitted on, and ranking one of them is refused: scores on these
rows would be scores on training data.
"""

import itertools
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..utils.io import content_hash, read_json
from .consensus import Answer, WeightedScorer, similarity, standardised
from .image_scores import Row, RowScores


STEPS = 10  # weights are multiples of a tenth
MIN_ROWS = 30  # of a task that gets weights of its own


def row_mark(row: Row) -> str:
    """Identifies a row's image and question, 16 hexadecimal digits."""
    return content_hash([row.get("image"), row.get("question")])[:16]


def fit_weights(rows: Sequence[Row], scores: dict[str, list[RowScores]]) -> dict[str, Any]:
    """The weights with the best mean quality of the chosen candidate, by task and over all rows.

    The quality of a candidate is its :func:`.consensus.similarity` to the ground truth. All multiples of 0.1 that sum
    to 1 are tried; among equals the first counts, in which earlier scorers weigh more.

    Args:
        rows: Validation rows with ``candidates`` and ``annotation``.
        scores: Scorer -> the scores of every row.

    Returns:
        ``{"weights": {task or "default": {scorer: weight}}, "quality": {task: {"rows", "first", "best", scorer...,
        "weighted"}}, "fitted_on"}``.

    Raises:
        ValueError: If no row has two candidates and an annotation.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if len(row.get("candidates") or []) > 1 and row.get("annotation"):
            groups["default"].append(index)
            groups[str(row.get("task"))].append(index)
    if not groups:
        raise ValueError("No row has two candidates and an annotation to fit weights on. Predict a validation part.")
    names = list(scores)
    qualities = {
        index: [
            similarity(Answer(candidate["text"]), Answer(str(rows[index]["annotation"])))
            for candidate in rows[index]["candidates"]
        ]
        for index in groups["default"]
    }
    columns = {index: [standardised(scores[name][index].scores) for name in names] for index in groups["default"]}

    def quality(weights: Sequence[float], members: list[int]) -> float:
        chosen = []
        for index in members:
            sums = [sum(map(float.__mul__, weights, values)) for values in zip(*columns[index], strict=True)]
            chosen.append(qualities[index][sums.index(max(sums))])
        return statistics.fmean(chosen)

    result: dict[str, Any] = {"weights": {}, "quality": {}}
    for task, members in groups.items():
        if task != "default" and len(members) < MIN_ROWS:
            continue
        best = max(_simplex(len(names)), key=lambda weights: quality(weights, members))
        result["weights"][task] = dict(zip(names, best, strict=True))
        alone = {name: quality([float(other == name) for other in names], members) for name in names}
        result["quality"][task] = {
            "rows": len(members),
            "first": statistics.fmean(qualities[index][0] for index in members),
            "best": statistics.fmean(max(qualities[index]) for index in members),
            **alone,
            "weighted": quality(best, members),
        }
    result["fitted_on"] = sorted({row_mark(rows[index]) for index in groups["default"]})
    return result


def _simplex(count: int) -> list[list[float]]:
    """All weights of multiples of 1 / STEPS that sum to 1, those with large first weights first."""
    steps = itertools.product(range(STEPS, -1, -1), repeat=count)
    return [[step / STEPS for step in each] for each in steps if sum(each) == STEPS]


def load_weighted(path: Path, load: Callable[[str], Any]) -> WeightedScorer:
    """Loads a file of :func:`.rank.fit_scorers`; ``load`` loads a scorer by name.

    Raises:
        ValueError: If the file is not such a file.
    """
    stored = read_json(path)
    if not isinstance(stored, dict) or not {"scorers", "weights", "fitted_on"} <= stored.keys():
        raise ValueError(f"{path} holds no weights of scorers. Write it with `clinkd select --fit`.")
    parts = {name: load(name) for name in stored["scorers"]}
    identity = {
        "name": path.name,
        "kind": "weighted sum of scorers",
        "weights": stored["weights"],
        "regions": stored["scorers"],
        "parts": [part.identity for part in parts.values()],
    }
    return WeightedScorer(parts, stored["scorers"], stored["weights"], stored["fitted_on"], identity)
