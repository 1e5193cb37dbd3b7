# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0


"""The four tasks' metrics per modality, their means, and bootstrap confidence intervals: ``metrics.json``."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..utils.boxes import MODALITIES, TASKS
from .captions import NO_JAVA, caption_scores, caption_statistics
from .grounding import grounding_statistics, label_statistics, recall
from .joining import join_dataset
from .predictions import LEFT_OUT, WRONG, load_rows, read_rows
from .spice import spice_scores


def resampled_sums(statistics: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Sums of the statistics over rows drawn with replacement (Efron and Tibshirani 1993, chapter 13).

    Args:
        statistics: float64 ``[rows, columns]``.
        resamples: Number of draws of as many rows.
        rng: The source of randomness.

    Returns:
        float64 ``[resamples, columns]``.
    """
    count = len(statistics)
    sums = np.empty((resamples, statistics.shape[1]))
    for i in range(resamples):
        sums[i] = np.bincount(rng.integers(count, size=count), minlength=count) @ statistics
    return sums


def interval(values: np.ndarray, confidence: float) -> list[float]:
    """The percentile interval ``[low, high]`` that holds the share ``confidence`` of the resampled values."""
    tail = (1 - confidence) / 2
    return [float(bound) for bound in np.quantile(values, [tail, 1 - tail])]


Protocol = Literal["present", "released"]

Progress = Callable[[str, int, int], None]


class _Scored(NamedTuple):
    """A task's per-row statistics ``[rows, columns]`` and the scores of any sum of them; ``value`` is the headline."""

    metric: str
    statistics: np.ndarray
    scores: Callable[[np.ndarray], dict[str, np.ndarray | None]]
    facts: dict[str, str]
    notes: list[str]


def evaluate_file(
    path: str | Path, *, answers: str | Path | None = None, dataset: str | Path | None = None, **options: Any
) -> dict[str, Any]:
    """Evaluates a file of predictions of any known format (:mod:`.reading`).

    Args:
        path: The predictions.
        answers: The answers' file of a LLaVA-Med question file.
        dataset: The ShareGPT file that LLaMA-Factory's ``generated_predictions.jsonl`` was made on; without it that
            format tells no modality (:mod:`.joining`).
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
    """Evaluates predictions as design section 5 and the paper's section 4.2 define the metrics.

    Args:
        rows: Predictions in any known format; malformed ones are listed, not raised (:mod:`.reading`).
        protocol: ``present``: a task's score is the mean over the modalities that it has rows of. ``released``: as the
            released code has it, the mean over all eight, absent ones 0 (images of no known modality do not count),
            with that code's cleaning of responses.
        confidence: Share of the bootstrap distribution within the intervals.
        resamples: Bootstrap draws of each modality's rows; 0 for no intervals.
        seed: Seed of the draws.
        spice_jars: Folder of the CoreNLP 3.6.0 jars for the real SPICE; without it SPICE-approx.
        parser: SPICE-approx's parser: ``auto``, ``spacy`` or ``rules``.
        progress: Called with a stage, the steps done and all steps.

    Returns:
        ``tasks``: for each task with rows ``{"metric", "macro", "ci", "n", "modalities"}``, where each modality has
        ``{"value", "ci", "n"}``, ``n`` in rows; VG also counts its ``targets``; MIA also gives
        ``bleu_1..4, meteor, rouge_l, cider, mbmr_bird``, in each modality and as means. ``average`` is the mean of
        the tasks named in ``average_of``. ``rows`` counts what became of the input and ``problems`` lists each
        malformed row. A score that could not be computed is None, with the reason in ``notes``.

    Raises:
        ValueError: If an option is out of range, or no row can be evaluated.
        ImportError: If captions are to be scored and ``pycocoevalcap`` is not installed.
    """
    if protocol not in ("present", "released"):
        raise ValueError(f"Unknown protocol {protocol!r}: expected present or released.")
    if not 0 < confidence < 1 or resamples < 0:
        raise ValueError(f"Expected confidence in (0, 1) and resamples >= 0; got {confidence} and {resamples}.")
    good, problems = read_rows(rows, released=protocol == "released")
    if not good:
        reasons = "; ".join(f"row {problem['row']}: {problem['reason']}" for problem in problems[:3])
        raise ValueError(f"None of {len(problems)} rows can be evaluated. The first: {reasons or 'there is none'}.")

    rng = np.random.default_rng(seed)
    tasks, draws, notes = {}, {}, []
    for task in TASKS:
        mine = [row for row in good if row["task"] == task]
        if mine:
            groups = _groups(mine)
            scored = _score(task, mine, list(groups.values()), spice_jars, parser, progress)
            tasks[task], draws[task] = _summary(scored, groups, protocol, confidence, resamples, rng)
            notes += scored.notes
    averaged = [task for task in tasks if tasks[task]["macro"] is not None]
    return {
        "tasks": tasks,
        "average": _mean([tasks[task]["macro"] for task in averaged]),
        "ci": interval(np.mean([draws[task] for task in averaged], axis=0), confidence)
        if resamples and averaged
        else None,
        "average_of": averaged,
        "protocol": protocol,
        "confidence": confidence,
        "resamples": resamples,
        "seed": seed,
        "rows": {
            "read": len(good) + sum(problem["outcome"] == LEFT_OUT for problem in problems),
            "evaluated": len(good),
            "counted_wrong": sum(problem["outcome"] == WRONG for problem in problems),
            "left_out": sum(problem["outcome"] == LEFT_OUT for problem in problems),
        },
        "problems": problems,
        "notes": notes,
    }


def _groups(rows: Sequence[dict]) -> dict[str, np.ndarray]:
    """Row numbers by modality, the eight in the paper's order, any other after them."""
    names = np.array([row["modality"] for row in rows])
    present = sorted(set(names), key=lambda name: (MODALITIES.index(name) if name in MODALITIES else 99, name))
    return {str(name): np.flatnonzero(names == name) for name in present}


def _score(
    task: str,
    rows: list[dict],
    groups: list[np.ndarray],
    jars: str | Path | None,
    parser: str,
    progress: Progress | None,
) -> _Scored:
    """A task's statistics, and how sums of them become scores."""
    if task == "VG":
        table = grounding_statistics(rows)
        return _Scored("recall@0.5", table, lambda sums: {"value": recall(sums), "targets": sums[..., 1]}, {}, [])
    if task == "ROC":
        return _Scored("recall", label_statistics(rows), lambda sums: {"value": recall(sums)}, {}, [])
    if task == "RC":
        values, metric, made_by = spice_scores(rows, spice_jars=jars, parser=parser, progress=progress)
        table = np.stack([values, np.ones(len(rows))], axis=1)
        return _Scored(metric, table, lambda sums: {"value": recall(sums)}, {"parser": made_by}, [])
    found = caption_statistics(rows, groups, progress)
    notes = [] if found.has_meteor else [NO_JAVA]
    facts = {"tokenizer": found.tokenizer}
    return _Scored("mBMR", found.table, lambda sums: caption_scores(sums, found.has_meteor), facts, notes)


def _summary(
    scored: _Scored,
    groups: dict[str, np.ndarray],
    protocol: str,
    confidence: float,
    resamples: int,
    rng: np.random.Generator,
) -> tuple[dict[str, Any], np.ndarray]:
    """A task's part of the metrics, and the resampled macro scores ``[resamples]``."""
    modalities, draws = {}, {}
    for name, numbers in groups.items():
        table = scored.statistics[numbers]
        scores = {key: _number(value) for key, value in scored.scores(table.sum(axis=0)).items()}
        if resamples and scores["value"] is not None:
            draws[name] = scored.scores(resampled_sums(table, resamples, rng))["value"]
        ci = interval(draws[name], confidence) if name in draws else None
        modalities[name] = {"value": scores.pop("value"), "ci": ci, "n": len(numbers), **scores}

    counted = [name for name in modalities if protocol == "present" or name in MODALITIES]
    size = len(counted) if protocol == "present" else len(MODALITIES)
    macro = sum((draws[name] for name in counted if name in draws), np.zeros(resamples)) / size
    names = [key for key in next(iter(modalities.values())) if key not in ("value", "ci", "n", "targets")]
    means = {key: _mean([modalities[name][key] for name in counted], size) for key in names}
    summary = {
        "metric": scored.metric,
        "macro": _mean([modalities[name]["value"] for name in counted], size),
        "ci": interval(macro, confidence) if draws else None,
        "n": sum(len(numbers) for numbers in groups.values()),
        **means,
        **scored.facts,
        "modalities": modalities,
    }
    if "targets" in next(iter(modalities.values())):
        for modality in modalities.values():
            modality["targets"] = int(modality["targets"])
        summary["targets"] = sum(modality["targets"] for modality in modalities.values())
    return summary, macro


def _number(value: np.ndarray | None) -> float | None:
    return None if value is None else float(value)


def _mean(values: Sequence[float | None], size: int | None = None) -> float | None:
    """The sum over ``size`` (the number of values by default); None if any value is, or there is none to divide."""
    if any(value is None for value in values) or not (size or values):
        return None
    return sum(values) / (size or len(values))
