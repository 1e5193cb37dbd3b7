# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The four tasks' metrics per modality, their means, and bootstrap confidence intervals: ``metrics.json``."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ..utils.box_forms import unit_mismatch, unread_summary
from ..utils.boxes import MODALITIES, TASKS, sort_modalities
from . import released
from .captions import NO_JAVA, PLAIN, caption_scores, caption_statistics
from .grounding import grounding_scores, grounding_statistics, label_statistics, recall
from .java import Progress
from .predictions import LEFT_OUT, WRONG, read_rows
from .spice import spice_scores
from .vqa import VQA, vqa_breakdown, vqa_statistics


Protocol = Literal["present", "released"]
Scores = Callable[[np.ndarray], dict[str, np.ndarray | None]]
"""The scores of a sum of per-row statistics; ``value`` is the main one."""


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
    """Evaluates predictions with the metrics of the paper's section 4.2, and VQA rows with those of :mod:`.vqa`.

    Args:
        rows: Predictions in any known format; malformed ones are listed, not raised (:mod:`.predictions`).
        protocol: ``present``: a task's score is the mean over the modalities that it has rows of. ``released``: as in
            the released code, to the last digit (:mod:`.released`): the mean over all eight with absent ones as 0,
            without images of no known modality.
        confidence: Share of the bootstrap distribution within the intervals.
        resamples: Bootstrap draws of each modality's rows; 0 for no intervals.
        seed: Seed of the draws.
        spice_jars: Folder of the CoreNLP 3.6.0 jars for the real SPICE; without it SPICE-approx.
        parser: SPICE-approx's parser: ``auto``, ``spacy`` or ``rules``.
        progress: Called with the stage, the number of steps done and the total.

    Returns:
        ``tasks``: for each task with rows ``{"metric", "macro", "ci", "n", "modalities"}``, where each modality has
        ``{"value", "ci", "n"}`` and ``n`` counts rows. In each modality and as means over them, VG also has the scores
        of :func:`.grounding.grounding_scores` and its ``targets``, and MIA
        ``bleu_1..4, meteor, rouge_l, cider, mbmr_bird``. VQA also has those of :func:`.vqa.vqa_breakdown`.
        ``average`` is the mean of the paper's tasks named in ``average_of``. ``rows`` counts evaluated and malformed
        rows, ``answers`` what could not be read or was cut off, and ``problems`` lists each malformed row. A score
        that could not be computed is None, with the reason in ``notes``.

    Raises:
        ValueError: If an option is out of range, or no row can be evaluated.
        ImportError: If there are captions to score and ``pycocoevalcap`` is not installed.
    """
    if protocol not in get_args(Protocol):
        raise ValueError(f"Unknown protocol {protocol!r}: expected present or released.")
    if not 0 < confidence < 1 or resamples < 0:
        raise ValueError(f"Expected confidence in (0, 1) and resamples >= 0; got {confidence} and {resamples}.")
    by_release = protocol == "released"
    converted, problems, answers = read_rows(rows, by_release=by_release)
    if not converted:
        reasons = "; ".join(f"row {problem['row']}: {problem['reason']}" for problem in problems[:3])
        details = f" The first problems: {reasons}." if reasons else ""
        raise ValueError(f"None of {len(problems)} rows can be evaluated.{details}")

    of_task = {task: [row for row in converted if row["task"] == task] for task in (*TASKS, VQA)}
    groups = {task: _groups(task_rows) for task, task_rows in of_task.items() if task_rows}
    options = {"by_release": by_release, "progress": progress, "spice_jars": spice_jars, "parser": parser}
    with ThreadPoolExecutor(1) as pool:  # the captions are mostly Java's work, beside which the other tasks are scored
        captions = pool.submit(_task_statistics, "MIA", of_task["MIA"], groups.get("MIA"), **options)
        statistics = {
            task: _task_statistics(task, of_task[task], groups[task], **options) for task in groups if task != "MIA"
        }
        statistics["MIA"] = captions.result()

    rng = np.random.default_rng(seed)
    tasks, draws = {}, {}
    for task in groups:
        tasks[task], draws[task] = _summary(*statistics[task], groups[task], protocol, confidence, resamples, rng)
    if by_release:
        released.round_captions(tasks)
    if VQA in tasks:
        tasks[VQA] |= vqa_breakdown(of_task[VQA], statistics[VQA][2])
    averaged = [task for task in TASKS if task in tasks and tasks[task]["macro"] is not None]
    average_draws = np.mean([draws[task] for task in averaged], axis=0) if resamples and averaged else None
    outcomes = Counter(problem["outcome"] for problem in problems)
    counts = {"read": len(converted) + outcomes[LEFT_OUT], "evaluated": len(converted)}
    counts |= {"counted_wrong": outcomes[WRONG], "left_out": outcomes[LEFT_OUT]}
    return {
        "tasks": tasks,
        "average": _mean([tasks[task]["macro"] for task in averaged]),
        "ci": None if average_draws is None else interval(average_draws, confidence),
        "average_of": averaged,
        **{"protocol": protocol, "confidence": confidence, "resamples": resamples, "seed": seed},
        "rows": counts,
        "answers": answers,
        "problems": problems,
        "notes": _notes(tasks, of_task, by_release),
    }


def resampled_sums(table: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Sums ``[resamples, columns]`` over rows drawn with replacement (Efron and Tibshirani 1993, chapter 13)."""
    draws = (rng.integers(len(table), size=len(table)) for _ in range(resamples))
    return np.stack([np.bincount(draw, minlength=len(table)) @ table for draw in draws])


def interval(values: np.ndarray, confidence: float) -> list[float]:
    """The percentile interval ``[low, high]`` that contains the share ``confidence`` of the resampled values."""
    tail = (1 - confidence) / 2
    return [float(bound) for bound in np.quantile(values, [tail, 1 - tail])]


def _groups(rows: list[dict]) -> dict[str, np.ndarray]:
    """The indices of the rows of each modality."""
    names = np.array([row["modality"] for row in rows])
    return {name: np.flatnonzero(names == name) for name in sort_modalities(names.tolist())}


def _notes(tasks: dict[str, Any], of_task: dict[str, list[dict]], by_release: bool) -> list[str]:
    """What a reader of the scores needs to know and cannot see in them."""
    notes = [NO_JAVA] if tasks.get("MIA", {}).get("tokenizer") == PLAIN else []
    if not by_release and (unread := unread_summary(row["response"] for row in of_task["VG"])):
        notes.append(f"VG: {unread}.")
    sides = [[row[side] for row in of_task["VG"]] for side in ("annotation", "response")]
    if not by_release and (mismatch := unit_mismatch(*sides)):
        notes.append(f"VG: {mismatch}.")
    if by_release:
        if untagged := sum(not released.grounding_counts(row["annotation"], "")[1] for row in of_task["VG"]):
            notes.append(
                f"{untagged:,} VG rows have no <box>...</box> in their ground truth. The released code scores none of "
                "them: convert the data with `--tags qwen_vl`, or evaluate with `present`."
            )
        if unknown := sum(row["modality"] not in MODALITIES for rows in of_task.values() for row in rows):
            notes.append(
                f"{unknown:,} rows are of none of the eight modalities: the released code does not score them."
            )
    return notes


def _task_statistics(
    task: str,
    rows: list[dict],
    groups: dict[str, np.ndarray] | None,
    *,
    by_release: bool,
    progress: Progress | None,
    **spice_options: Any,
) -> tuple[str, dict[str, str], np.ndarray, Scores] | None:
    """A task's metric, the tools behind it, its per-row statistics ``[rows, columns]`` and their scores."""
    if groups is None:
        return None
    share, tools = released.share if by_release else recall, {}
    if task == "VG":
        table = grounding_statistics(rows)
        if by_release:
            table[:, :2] = [released.grounding_counts(row["annotation"], row["response"]) for row in rows]
        return "recall@0.5", tools, table, lambda sums: grounding_scores(sums) | {"value": share(sums)}
    if task == "MIA":
        table, tokenizer, has_meteor = caption_statistics(rows, list(groups.values()), progress, by_release=by_release)
        return "mBMR", {"tokenizer": tokenizer}, table, partial(caption_scores, has_meteor=has_meteor)
    if task == VQA:
        return "closed accuracy, open recall", tools, vqa_statistics(rows), lambda sums: {"value": recall(sums)}
    if task == "ROC":
        metric, table = "recall", label_statistics(rows)
        if by_release:
            table[:, 0] = [released.label_found(row["annotation"], row["response"]) for row in rows]
    else:
        values, metric, parsed_by = spice_scores(rows, progress=progress, **spice_options)
        share, tools, table = recall, {"parser": parsed_by}, np.stack([values, np.ones(len(rows))], axis=1)
    return metric, tools, table, lambda sums: {"value": share(sums)}


def _summary(
    metric: str,
    tools: dict[str, str],
    statistics: np.ndarray,
    scores_of: Scores,
    groups: dict[str, np.ndarray],
    protocol: str,
    confidence: float,
    resamples: int,
    rng: np.random.Generator,
) -> tuple[dict[str, Any], np.ndarray]:
    """A task's entry in the metrics, and its resampled macro scores ``[resamples]``."""
    modalities, draws = {}, {}
    for name, row_ids in groups.items():
        table = statistics[row_ids]
        scores = {key: None if value is None else float(value) for key, value in scores_of(table.sum(axis=0)).items()}
        if resamples and scores["value"] is not None:
            draws[name] = scores_of(resampled_sums(table, resamples, rng))["value"]
        ci = interval(draws[name], confidence) if name in draws else None
        modalities[name] = {"value": scores.pop("value"), "ci": ci, "n": len(row_ids), **scores}
        if "targets" in scores:
            modalities[name]["targets"] = int(scores["targets"])

    averaged = [name for name in modalities if protocol == "present" or name in MODALITIES]
    size = len(averaged) if protocol == "present" else len(MODALITIES)
    macro_draws = sum((draws[name] for name in averaged if name in draws), np.zeros(resamples)) / size
    summary = {
        "metric": metric,
        "macro": _mean([modalities[name]["value"] for name in averaged], size),
        "ci": interval(macro_draws, confidence) if draws else None,
        "n": sum(len(row_ids) for row_ids in groups.values()),
        **{key: _mean([modalities[name][key] for name in averaged], size) for key in scores if key != "targets"},
        **tools,
        "modalities": modalities,
    }
    if "targets" in scores:
        summary["targets"] = sum(modality["targets"] for modality in modalities.values())
    return summary, macro_draws


def _mean(values: Sequence[float | None], size: int | None = None) -> float | None:
    """The sum divided by ``size`` (by default the number of values); None if a value is None or nothing is left."""
    size = size or len(values)
    return None if None in values or not size else sum(values) / size
