# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The four tasks' metrics per modality, their means, and bootstrap confidence intervals: ``metrics.json``."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from ..utils.boxes import MODALITIES, TASKS, sort_modalities
from .captions import NO_JAVA, caption_scores, caption_statistics
from .grounding import grounding_statistics, label_statistics, recall
from .predictions import LEFT_OUT, WRONG, join_dataset, load_rows, read_rows
from .spice import spice_scores


Protocol = Literal["present", "released"]
Progress = Callable[[str, int, int], None]


class _TaskStatistics(NamedTuple):
    """A task's per-row statistics ``[rows, columns]`` and the scores of any sum of them; ``value`` is the main one."""

    metric: str
    table: np.ndarray
    scores: Callable[[np.ndarray], dict[str, np.ndarray | None]]
    tools: dict[str, str]
    notes: list[str]


def evaluate_file(
    path: str | Path, *, answers: str | Path | None = None, dataset: str | Path | None = None, **options: Any
) -> dict[str, Any]:
    """Evaluates a file of predictions of any known format (:mod:`.predictions`).

    Args:
        path: The predictions.
        answers: The file of answers to a LLaVA-Med question file.
        dataset: The ShareGPT file that LLaMA-Factory's ``generated_predictions.jsonl`` was made on; without it that
            format has no modalities (:func:`.predictions.join_dataset`).
        options: Passed to :func:`evaluate_predictions`.
    """
    rows = load_rows(path, answers)
    if dataset is not None:
        rows = join_dataset(rows, load_rows(dataset))
    return evaluate_predictions(rows, **options)


def evaluate_predictions(
    rows: Iterable[Any],
    *,
    protocol: Protocol = "present",
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    spice_jars: str | Path | None = None,
    parser: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluates predictions with the metrics of the paper's section 4.2.

    Args:
        rows: Predictions in any known format; malformed ones are listed, not raised (:mod:`.predictions`).
        protocol: ``present``: a task's score is the mean over the modalities that it has rows of. ``released``: as in
            the released code, the mean over all eight with absent ones as 0, without images of no known modality, and
            with that code's cleaning of responses.
        confidence: Share of the bootstrap distribution within the intervals.
        resamples: Bootstrap draws of each modality's rows; 0 for no intervals.
        seed: Seed of the draws.
        spice_jars: Folder of the CoreNLP 3.6.0 jars for the real SPICE; without it SPICE-approx.
        parser: SPICE-approx's parser: ``auto``, ``spacy`` or ``rules``.
        progress: Called with the stage, the number of steps done and the total.

    Returns:
        ``tasks``: for each task with rows ``{"metric", "macro", "ci", "n", "modalities"}``, where each modality has
        ``{"value", "ci", "n"}`` and ``n`` counts rows; VG also counts its ``targets``; MIA also has
        ``bleu_1..4, meteor, rouge_l, cider, mbmr_bird``, in each modality and as means. ``average`` is the mean of
        the tasks named in ``average_of``. ``rows`` counts evaluated and malformed rows and ``problems`` lists each
        malformed row. A score that could not be computed is None, with the reason in ``notes``.

    Raises:
        ValueError: If an option is out of range, or no row can be evaluated.
        ImportError: If there are captions to score and ``pycocoevalcap`` is not installed.
    """
    if protocol not in get_args(Protocol):
        raise ValueError(f"Unknown protocol {protocol!r}: expected present or released.")
    if not 0 < confidence < 1 or resamples < 0:
        raise ValueError(f"Expected confidence in (0, 1) and resamples >= 0; got {confidence} and {resamples}.")
    converted, problems = read_rows(rows, released=protocol == "released")
    if not converted:
        reasons = "; ".join(f"row {problem['row']}: {problem['reason']}" for problem in problems[:3])
        raise ValueError(
            f"None of {len(problems)} rows can be evaluated." + (f" The first problems: {reasons}." if reasons else "")
        )

    rng = np.random.default_rng(seed)
    tasks, draws, notes = {}, {}, []
    for task in TASKS:
        task_rows = [row for row in converted if row["task"] == task]
        if task_rows:
            names = np.array([row["modality"] for row in task_rows])
            groups = {name: np.flatnonzero(names == name) for name in sort_modalities(names.tolist())}
            statistics = _statistics(task, task_rows, list(groups.values()), spice_jars, parser, progress)
            tasks[task], draws[task] = _summary(statistics, groups, protocol, confidence, resamples, rng)
            notes += statistics.notes
    averaged = [task for task in tasks if tasks[task]["macro"] is not None]
    average_draws = np.mean([draws[task] for task in averaged], axis=0) if resamples and averaged else None
    outcomes = [problem["outcome"] for problem in problems]
    return {
        "tasks": tasks,
        "average": _mean([tasks[task]["macro"] for task in averaged]),
        "ci": None if average_draws is None else interval(average_draws, confidence),
        "average_of": averaged,
        "protocol": protocol,
        "confidence": confidence,
        "resamples": resamples,
        "seed": seed,
        "rows": {
            "read": len(converted) + outcomes.count(LEFT_OUT),
            "evaluated": len(converted),
            "counted_wrong": outcomes.count(WRONG),
            "left_out": outcomes.count(LEFT_OUT),
        },
        "problems": problems,
        "notes": notes,
    }


def resampled_sums(table: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Sums over rows drawn with replacement (Efron and Tibshirani 1993, chapter 13).

    float64 ``[rows, columns]`` to ``[resamples, columns]``.
    """
    count = len(table)
    sums = np.empty((resamples, table.shape[1]))
    for i in range(resamples):
        sums[i] = np.bincount(rng.integers(count, size=count), minlength=count) @ table
    return sums


def interval(values: np.ndarray, confidence: float) -> list[float]:
    """The percentile interval ``[low, high]`` that contains the share ``confidence`` of the resampled values."""
    tail = (1 - confidence) / 2
    return [float(bound) for bound in np.quantile(values, [tail, 1 - tail])]


def _statistics(
    task: str,
    rows: list[dict],
    groups: list[np.ndarray],
    spice_jars: str | Path | None,
    parser: str,
    progress: Progress | None,
) -> _TaskStatistics:
    if task == "VG":
        table = grounding_statistics(rows)
        return _TaskStatistics(
            "recall@0.5", table, lambda sums: {"value": recall(sums), "targets": sums[..., 1]}, {}, []
        )
    if task == "ROC":
        return _TaskStatistics("recall", label_statistics(rows), lambda sums: {"value": recall(sums)}, {}, [])
    if task == "RC":
        values, metric, parsed_by = spice_scores(rows, spice_jars=spice_jars, parser=parser, progress=progress)
        table = np.stack([values, np.ones(len(rows))], axis=1)
        return _TaskStatistics(metric, table, lambda sums: {"value": recall(sums)}, {"parser": parsed_by}, [])
    table, tokenizer, has_meteor = caption_statistics(rows, groups, progress)
    notes = [] if has_meteor else [NO_JAVA]
    return _TaskStatistics(
        "mBMR", table, lambda sums: caption_scores(sums, has_meteor), {"tokenizer": tokenizer}, notes
    )


def _summary(
    statistics: _TaskStatistics,
    groups: dict[str, np.ndarray],
    protocol: str,
    confidence: float,
    resamples: int,
    rng: np.random.Generator,
) -> tuple[dict[str, Any], np.ndarray]:
    """A task's entry in the metrics, and its resampled macro scores ``[resamples]``."""
    modalities, draws = {}, {}
    for name, row_ids in groups.items():
        table = statistics.table[row_ids]
        scores = {
            key: None if value is None else float(value) for key, value in statistics.scores(table.sum(axis=0)).items()
        }
        if resamples and scores["value"] is not None:
            draws[name] = statistics.scores(resampled_sums(table, resamples, rng))["value"]
        ci = interval(draws[name], confidence) if name in draws else None
        modalities[name] = {"value": scores.pop("value"), "ci": ci, "n": len(row_ids), **scores}

    averaged = [name for name in modalities if protocol == "present" or name in MODALITIES]
    size = len(averaged) if protocol == "present" else len(MODALITIES)
    macro_draws = sum((draws[name] for name in averaged if name in draws), np.zeros(resamples)) / size
    keys = [key for key in next(iter(modalities.values())) if key not in ("value", "ci", "n", "targets")]
    summary = {
        "metric": statistics.metric,
        "macro": _mean([modalities[name]["value"] for name in averaged], size),
        "ci": interval(macro_draws, confidence) if draws else None,
        "n": sum(len(row_ids) for row_ids in groups.values()),
        **{key: _mean([modalities[name][key] for name in averaged], size) for key in keys},
        **statistics.tools,
        "modalities": modalities,
    }
    if "targets" in next(iter(modalities.values())):
        for modality in modalities.values():
            modality["targets"] = int(modality["targets"])
        summary["targets"] = sum(modality["targets"] for modality in modalities.values())
    return summary, macro_draws


def _mean(values: Sequence[float | None], size: int | None = None) -> float | None:
    """The sum divided by ``size`` (by default the number of values); None if a value is None or nothing is left."""
    if any(value is None for value in values) or not (size or values):
        return None
    return sum(values) / (size or len(values))
