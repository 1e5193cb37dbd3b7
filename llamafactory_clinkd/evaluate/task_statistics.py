# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The statistics of every row of a task, from whose sums its scores and their resamples are computed."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

from ..utils.boxes import MODALITIES, VQA, sort_modalities
from . import released
from .captions import caption_scores, caption_statistics
from .grounding import grounding_scores, grounding_statistics, label_statistics, recall
from .java import Progress
from .resampling import Clusters, Draws, cluster_sums, mean_draws, part_draws
from .spice import spice_scores
from .vqa import vqa_statistics


Protocol = Literal["present", "released"]
Scores = Callable[[np.ndarray], dict[str, np.ndarray | None]]
"""The scores of a sum of per-row statistics; ``value`` is the main one."""


class Scored(NamedTuple):
    """The scored rows of a task."""

    rows: np.ndarray  # int [n], their indices among all rows
    groups: dict[str, np.ndarray]  # the places in ``rows`` of each modality's
    metric: str
    tools: dict[str, str]
    statistics: np.ndarray  # [n, columns]
    scores_of: Scores


def task_statistics(
    all_rows: Sequence[dict],
    task: str,
    indices: list[int],
    *,
    by_release: bool,
    progress: Progress | None,
    **spice_options: Any,
) -> Scored:
    """A task's metric, the tools behind it, its per-row statistics and their scores."""
    rows = [all_rows[index] for index in indices]
    names = np.array([row["modality"] for row in rows])
    groups = {name: np.flatnonzero(names == name) for name in sort_modalities(names.tolist())}
    share, tools = released.share if by_release else recall, {}
    scored = partial(Scored, np.array(indices), groups)
    if task == "VG":
        table = grounding_statistics(rows)
        if by_release:
            table[:, :2] = [released.grounding_counts(row["annotation"], row["response"]) for row in rows]
        return scored("recall@0.5", tools, table, lambda sums: grounding_scores(sums) | {"value": share(sums)})
    if task == "MIA":
        table, tokenizer, has_meteor = caption_statistics(rows, list(groups.values()), progress, by_release=by_release)
        return scored("mBMR", {"tokenizer": tokenizer}, table, partial(caption_scores, has_meteor=has_meteor))
    if task == VQA:
        name = "closed accuracy, open recall"
        return scored(name, tools, vqa_statistics(rows), lambda sums: {"value": recall(sums)})
    if task == "ROC":
        metric, table = "recall", label_statistics(rows)
        if by_release:
            table[:, 0] = [released.label_found(row["annotation"], row["response"]) for row in rows]
    else:
        values, metric, parsed_by = spice_scores(rows, progress=progress, **spice_options)
        share, tools, table = recall, {"parser": parsed_by}, np.stack([values, np.ones(len(rows))], axis=1)
    return scored(metric, tools, table, lambda sums: {"value": share(sums)})


def resample(
    scored: Mapping[str, Scored], weights: Iterable[np.ndarray], clusters: Clusters, resamples: int
) -> dict[str, dict[str, Draws]]:
    """The main score of each task and modality in each resample, where it could be computed."""
    tables = {
        (task, name): cluster_sums(each.statistics[rows], clusters.of_row[each.rows[rows]])
        for task, each in scored.items()
        for name, rows in each.groups.items()
        if resamples and each.scores_of(each.statistics.sum(axis=0))["value"] is not None
    }
    sums = {key: np.empty((resamples, table.shape[1])) for key, (_, table) in tables.items()}
    absent = {key: np.zeros(resamples, dtype=bool) for key in tables}
    for number, weight in enumerate(weights):
        for key, (present, table) in tables.items():
            drawn = weight[present]
            absent[key][number] = not drawn.any()
            sums[key][number] = table.sum(axis=0) if absent[key][number] else drawn @ table
    draws: dict[str, dict[str, Draws]] = defaultdict(dict)
    for (task, name), (present, _) in tables.items():
        values = np.where(absent[task, name], np.nan, scored[task].scores_of(sums[task, name])["value"])
        draws[task][name] = part_draws(values, len(present))
    return draws


def macro_draws(draws: Mapping[str, Draws], protocol: str) -> Draws:
    """The draws of a task's score from those of its modalities."""
    if protocol == "present":
        return mean_draws(list(draws.values()))
    known = [each for name, each in draws.items() if name in MODALITIES]
    return mean_draws(known or [part_draws(np.zeros_like(each.values), 1) for each in draws.values()], len(MODALITIES))
