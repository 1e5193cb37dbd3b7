# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The four tasks' metrics per modality, their means, and bootstrap confidence intervals: ``metrics.json``."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, get_args

from ..utils.box_forms import unit_mismatch, unread_summary
from ..utils.boxes import MODALITIES, TASKS, VQA
from . import released
from .captions import NO_JAVA, PLAIN
from .java import Progress, kept_meteor
from .predictions import LEFT_OUT, WRONG, Reading, read_rows
from .resampling import MIN_CLUSTERS, Draws, average_draws, cluster_weights, find_clusters, interval, part_draws
from .selection_worth import selection_worth
from .task_statistics import Protocol, Scored, macro_draws, resample, task_statistics
from .vqa import PARTS, vqa_breakdown, vqa_draws


RESAMPLES = 1000


def evaluate_predictions(
    rows: Iterable[Any],
    *,
    protocol: Protocol = "present",
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    spice_jars: str | Path | None = None,
    parser: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Evaluates predictions with the metrics of the paper's section 4.2, and VQA rows with those of :mod:`.vqa`.

    Intervals are of whole patients, volumes or images (:mod:`.resampling`).

    Args:
        rows: Predictions in any known format; malformed ones are listed, not raised (:mod:`.predictions`).
        protocol: ``present``: a task's score is the mean over the modalities that it has rows of. ``released``: as in
            the released code, to the last digit (:mod:`.released`): the mean over all eight with absent ones as 0,
            without images of no known modality.
        confidence: Share of the bootstrap distribution within the intervals.
        resamples: Bootstrap draws of the clusters; 0 for no intervals.
        seed: Seed of the draws.
        spice_jars: Folder of the CoreNLP 3.6.0 jars for the real SPICE; without it SPICE-approx.
        parser: SPICE-approx's parser: ``auto``, ``spacy`` or ``rules``.
        progress: Called with the stage, the number of steps done and the total.

    Returns:
        ``tasks``: for each task with rows ``{"metric", "macro", "ci", "n", "modalities"}``, where each modality has
        ``{"value", "ci", "n", "clusters"}`` and ``n`` counts rows. In each modality and as means over them, VG also
        has the scores of :func:`.grounding.grounding_scores` and its ``targets``, and MIA
        ``bleu_1..4, meteor, rouge_l, cider, mbmr_bird``. VQA also has those of :func:`.vqa.vqa_breakdown`.
        ``average`` is the mean of the paper's tasks named in ``average_of``. ``resampled_by`` names the ``clusters``;
        fewer than five of them have no interval. ``rows`` counts evaluated and malformed
        rows, ``answers`` what could not be read or was cut off, and ``problems`` lists each malformed row.
        ``selection`` is there for rows with several candidates (:mod:`.selection_worth`). A score
        that could not be computed is None, with the reason in ``notes``.

    Raises:
        ValueError: If an option is out of range, or no row can be evaluated.
        ImportError: If there are captions to score and ``pycocoevalcap`` is not installed.
    """
    options = {"confidence": confidence, "resamples": resamples, "seed": seed, "progress": progress}
    reading = read_rows(rows, by_release=protocol == "released")
    return evaluate_reading(reading, protocol=protocol, spice_jars=spice_jars, parser=parser, **options)[0]


@kept_meteor()
def evaluate_reading(
    reading: Reading,
    *,
    protocol: Protocol,
    confidence: float,
    resamples: int,
    seed: int,
    progress: Progress | None,
    with_selection: bool = True,
    compared: int = 0,
    **spice_options: Any,
) -> tuple[dict[str, Any], dict[str, dict[str, Draws]]]:
    """:func:`evaluate_predictions` of rows that are read, and the draws of each task's and modality's score.

    To be ``compared``, there are so many draws, and :data:`.vqa.PARTS` have theirs. The metrics are of the first
    ``resamples`` of them.
    """
    if protocol not in get_args(Protocol):
        raise ValueError(f"Unknown protocol {protocol!r}: expected present or released.")
    if not 0 < confidence < 1 or resamples < 0:
        raise ValueError(f"Expected confidence in (0, 1) and resamples >= 0; got {confidence} and {resamples}.")
    by_release = protocol == "released"
    scored = _score_reading(reading, by_release=by_release, progress=progress, **spice_options)
    clusters = find_clusters(reading.rows)
    count = max(resamples, compared)
    resampled = resample(scored, cluster_weights(clusters, count, seed), clusters, count)
    tasks, draws = {}, {}
    for task, each in scored.items():
        drawn = resampled.get(task, {})
        first = {name: part_draws(every.values[:resamples], every.parts[0][1]) for name, every in drawn.items()}
        tasks[task], draws[task] = _summary(each, first or None, protocol, confidence)
    if by_release:
        released.round_captions(tasks)
    of_task = {task: [row for row in reading.rows if row["task"] == task] for task in (*TASKS, VQA)}
    worth = {}
    if with_selection and not by_release:
        draw = {"clusters": clusters, "resamples": resamples, "seed": seed, "confidence": confidence}
        worth = selection_worth(reading.rows, progress=progress, **draw, **spice_options)
    if VQA in tasks:
        drawn = {"weights": cluster_weights(clusters, resamples, seed), "confidence": confidence}
        of_row = clusters.of_row[scored[VQA].rows]
        tasks[VQA] |= vqa_breakdown(of_task[VQA], scored[VQA].statistics, of_row=of_row, clusters=clusters, **drawn)
        if compared:
            drawn = {"weights": cluster_weights(clusters, compared, seed), "of_row": of_row, "clusters": clusters}
            parts = vqa_draws(scored[VQA].statistics, **drawn)
            resampled |= {name: {key: parts[key]} for name, key in PARTS.items() if tasks[VQA][key] is not None}
    averaged = [task for task in TASKS if task in tasks and tasks[task]["macro"] is not None]
    outcomes = Counter(problem["outcome"] for problem in reading.problems)
    counts = {"read": len(reading.rows) + outcomes[LEFT_OUT], "evaluated": len(reading.rows)}
    counts |= {"counted_wrong": outcomes[WRONG], "left_out": outcomes[LEFT_OUT]}
    mean = average_draws([draws[task] for task in averaged]) if resamples and averaged else None
    metrics = {
        "tasks": tasks,
        "average": _mean([tasks[task]["macro"] for task in averaged]),
        "ci": mean and interval(mean, confidence),
        "average_of": averaged,
        **{"protocol": protocol, "confidence": confidence, "resamples": resamples, "seed": seed},
        **{"resampled_by": clusters.unit, "clusters": int(clusters.of_row.max()) + 1},
        "rows": counts,
        "answers": reading.answers,
        **({"selection": worth} if worth else {}),
        "problems": reading.problems,
        "notes": [*_notes(tasks, of_task, by_release, clusters.unit), *_assumed(reading.assumed)],
    }
    return metrics, resampled


def _score_reading(
    reading: Reading, *, by_release: bool = False, progress: Progress | None = None, **spice_options: Any
) -> dict[str, Scored]:
    """The statistics of all rows, by task."""
    if not reading.rows:
        reasons = "; ".join(f"row {problem['row']}: {problem['reason']}" for problem in reading.problems[:3])
        details = f" The first problems: {reasons}." if reasons else ""
        raise ValueError(f"None of {len(reading.problems)} rows can be evaluated.{details}")
    of_task = {task: [i for i, row in enumerate(reading.rows) if row["task"] == task] for task in (*TASKS, VQA)}
    of_task = {task: indices for task, indices in of_task.items() if indices}
    score = partial(task_statistics, reading.rows, by_release=by_release, progress=progress, **spice_options)
    with ThreadPoolExecutor(1) as pool:  # the captions are mostly Java's work, beside which the other tasks are scored
        captions = pool.submit(score, "MIA", of_task["MIA"]) if "MIA" in of_task else None
        scored = {task: score(task, indices) for task, indices in of_task.items() if task != "MIA"}
        return scored if captions is None else {task: scored.get(task) or captions.result() for task in of_task}


def _assumed(counts: Mapping[str, int]) -> list[str]:
    """A note about rows without a task."""
    tasks = ", ".join(f"{task} {count:,}" for task, count in counts.items())
    return [f"Rows without `task`, scored by their form: {tasks}."] if tasks else []


def _notes(tasks: dict[str, Any], of_task: dict[str, list[dict]], by_release: bool, unit: str) -> list[str]:
    """What a reader of the scores needs to know and cannot see in them."""
    notes = [NO_JAVA] if tasks.get("MIA", {}).get("tokenizer") == PLAIN else []
    modalities = [(task, name, each) for task in tasks for name, each in tasks[task]["modalities"].items()]
    few = [name for *name, each in modalities if each.get("clusters", MIN_CLUSTERS) < MIN_CLUSTERS <= each["n"]]
    if few:
        named = ", ".join(" ".join(name) for name in few)
        notes.append(f"No interval of {named}: fewer than {MIN_CLUSTERS} clusters ({unit}).")
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


def _summary(
    scored: Scored, draws: dict[str, Draws] | None, protocol: str, confidence: float
) -> tuple[dict[str, Any], Draws | None]:
    """A task's entry in the metrics, and the draws of its score."""
    modalities = {}
    for name, rows in scored.groups.items():
        sums = scored.statistics[rows].sum(axis=0)
        scores = {key: None if value is None else float(value) for key, value in scored.scores_of(sums).items()}
        ci = interval(draws[name], confidence) if draws else None
        counts = {"n": len(rows)} | ({"clusters": draws[name].parts[0][1]} if draws else {})
        modalities[name] = {"value": scores.pop("value"), "ci": ci, **counts, **scores}
        if "targets" in scores:
            modalities[name]["targets"] = int(scores["targets"])

    averaged = [name for name in modalities if protocol == "present" or name in MODALITIES]
    size = len(averaged) if protocol == "present" else len(MODALITIES)
    macro = macro_draws(draws, protocol) if draws else None
    summary = {
        "metric": scored.metric,
        "macro": _mean([modalities[name]["value"] for name in averaged], size),
        "ci": macro and interval(macro, confidence),
        "n": len(scored.rows),
        **{key: _mean([modalities[name][key] for name in averaged], size) for key in scores if key != "targets"},
        **scored.tools,
        "modalities": modalities,
    }
    if "targets" in scores:
        summary["targets"] = sum(modality["targets"] for modality in modalities.values())
    return summary, macro


def _mean(values: Sequence[float | None], size: int | None = None) -> float | None:
    """The sum divided by ``size`` (by default the number of values); None if a value is None or nothing is left."""
    size = size or len(values)
    return None if None in values or not size else sum(values) / size
