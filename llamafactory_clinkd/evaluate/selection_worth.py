# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What selecting one of several candidates is worth: the first, a random, the chosen and the best one of each row."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from ..utils.boxes import TASKS, VQA, iou_matrix, parse_boxes
from .model_answer import read_answer
from .resampling import Clusters, cluster_weights, interval, mean_draws, p_value, part_draws
from .task_statistics import resample, task_statistics


CHOICES = {"first": "first", "random": "random", "chosen": "chosen", "best": "best of n"}


def selection_worth(
    rows: Sequence[dict[str, Any]],
    *,
    clusters: Clusters,
    resamples: int,
    seed: int,
    confidence: float,
    **options: Any,
) -> dict[str, dict[str, Any]]:
    """Scores of the rows with two or more ``candidates``, which are in the order of generation, by task.

    ``random`` is the expected score: the mean of the candidates' statistics. ``best`` is the oracle's: of each row the
    candidate whose score by itself is highest, the first of equal ones. Intervals are those of the whole evaluation.

    Returns:
        For each task with such rows ``{"n", "candidates", "distinct_texts", "pairwise_iou"}``, the means over rows of
        the number of candidates, of different texts among them and, for VG, of the IoU of two candidates; for each of
        :data:`CHOICES` ``{"value", "ci"}``; and ``gain``, chosen minus first, ``{"value", "ci", "p"}``. A task whose
        score cannot be computed is left out.
    """
    worth = {}
    for task in (*TASKS, VQA):
        texts = {index: _texts(row) for index, row in enumerate(rows) if row["task"] == task}
        texts = {index: candidates for index, candidates in texts.items() if len(candidates) > 1}
        if texts and (found := _task_worth(rows, task, texts, clusters, resamples, seed, confidence, options)):
            worth[task] = found
    return worth


def _task_worth(
    rows: Sequence[dict[str, Any]],
    task: str,
    texts: Mapping[int, list[str]],
    clusters: Clusters,
    resamples: int,
    seed: int,
    confidence: float,
    options: Mapping[str, Any],
) -> dict[str, Any] | None:
    answers: dict[tuple[int, str], int] = {}  # each text of each row is scored once
    for index, candidates in texts.items():
        for text in (*candidates, rows[index]["response"]):
            answers.setdefault((index, text), len(answers))
    answered = [rows[index] | {"response": text} for index, text in answers]
    scored = task_statistics(answered, task, list(range(len(answered))), by_release=False, **options)
    table = scored.statistics
    values = scored.scores_of(table)["value"]
    if values is None:
        return None
    places = {index: [answers[index, text] for text in candidates] for index, candidates in texts.items()}
    tables = {
        "first": np.stack([table[each[0]] for each in places.values()]),
        "random": np.stack([table[each].mean(axis=0) for each in places.values()]),
        "chosen": np.stack([table[answers[index, rows[index]["response"]]] for index in places]),
        "best": np.stack([table[each[int(np.argmax(values[each]))]] for each in places.values()]),
    }
    indices = np.array(list(places))
    names = np.array([rows[index]["modality"] for index in indices])
    groups = {name: np.flatnonzero(names == name) for name in scored.groups}
    parts = {
        name: scored._replace(rows=indices, groups=groups, statistics=statistics)
        for name, statistics in tables.items()
    }
    drawn = resample(parts, cluster_weights(clusters, resamples, seed), clusters, resamples)
    found: dict[str, Any] = {
        "n": len(indices),
        "candidates": float(np.mean([len(each) for each in texts.values()])),
        "distinct_texts": float(np.mean([len(set(each)) for each in texts.values()])),
        "pairwise_iou": _mean_pairwise_iou(texts.values()) if task == "VG" else None,
    }
    for name, part in parts.items():
        sums = [part.statistics[group].sum(axis=0) for group in groups.values()]
        value = float(np.mean([scored.scores_of(each)["value"] for each in sums]))
        found[name] = {
            "value": value,
            "ci": interval(mean_draws(list(drawn[name].values())), confidence) if drawn else None,
        }
    found["gain"] = {"value": found["chosen"]["value"] - found["first"]["value"], "ci": None, "p": None}
    if drawn:
        pairs = zip(drawn["chosen"].values(), drawn["first"].values(), strict=True)
        gain = mean_draws([part_draws(a.values - b.values, a.parts[0][1]) for a, b in pairs])
        found["gain"] |= {"ci": interval(gain, confidence), "p": p_value(gain)}
    return found


def _texts(row: Mapping[str, Any]) -> list[str]:
    """The candidates as the answer is read; none where one is not text."""
    texts = [each.get("text") if isinstance(each, Mapping) else each for each in row["candidates"]]
    return [read_answer({}, text).text for text in texts] if all(isinstance(text, str) for text in texts) else []


def _mean_pairwise_iou(rows: Sequence[list[str]]) -> float | None:
    """The mean over rows of the mean IoU of two candidates, several boxes by the best match of each; None without."""
    means = []
    for texts in rows:
        pairs = [iou_matrix(a, b) for a, b in combinations([parse_boxes(text) for text in texts], 2) if a and b]
        if pairs:
            means.append(np.mean([(iou.max(axis=0).mean() + iou.max(axis=1).mean()) / 2 for iou in pairs]))
    return float(np.mean(means)) if means else None
