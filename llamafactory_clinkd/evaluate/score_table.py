# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Scores and metrics as text, ``metrics.json`` as a table for the terminal, and the evaluation's progress bars."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from rich.console import Console, Group
from rich.table import Column

from ..utils.boxes import VQA, sort_modalities
from ..utils.console import WholeTable, bars_of_parts
from .java import Progress
from .paper_tables import TASK_METRICS
from .selection_worth import CHOICES
from .spice import named_with_parser


UNRECORDED = "training rows that are not recorded"
SELECTED_VQA = "VQA: closed accuracy and open recall together, as the mean over the modalities."
VQA_SCORES = {
    "closed_accuracy": "closed\naccuracy",
    "open_recall": "open\nrecall",
    "open_exact_match": "open\nexact match",
    "open_f1": "open\nF1",
    "accuracy": "closed right or\nopen exact",
}


def format_percent(value: float | None, digits: int = 2, *, missing: str = "-") -> str:
    """A value in percent with a fixed number of decimals; ``missing`` if it is None."""
    return missing if value is None else f"{value:.{digits}f}"


def metric_name(metrics: Iterable[Mapping[str, Any] | None], task: str) -> str:
    """The metric of a task or ``Average`` as evaluations named it, with SPICE-approx's parser, else as the paper does.

    ``metrics`` has the ``metrics.json`` of each run, or None; different names are joined with a slash.
    """
    entries = [((run or {}).get("tasks") or {}).get(task) or {} for run in metrics]
    metric = [named_with_parser(entry["metric"], entry.get("parser")) for entry in entries if entry.get("metric")]
    names = dict.fromkeys(metric)
    return " / ".join(names) or TASK_METRICS.get(task, "mean of the four tasks")


def below_blind(metrics: Mapping[str, Any]) -> str:
    """A line with the tasks whose score is below that of their blind answers; empty without any."""
    found = []
    for task, entry in metrics["tasks"].items():
        blind = (metrics.get("baselines") or {}).get(f"blind_{task}")
        scores = entry.get("macro"), blind.get("macro") if isinstance(blind, Mapping) else None
        if None not in scores and scores[0] < scores[1]:
            found.append("{} {} < {}".format(task, *map(_percent, scores)))
    return f"Below the blind answers, which use no image: {', '.join(found)}." if found else ""


def metrics_table(metrics: dict[str, Any]) -> WholeTable | Group:
    """Builds the table of ``metrics.json``: a row for each modality, a column for each task, in percent.

    The last rows are the mean over the modalities, its confidence interval, the blind answers and the number of rows.
    Below are the other scores of VG and MIA, what could not be read, and a table of VQA's groups. A score that could
    not be computed is a dash.
    """
    captions = []
    if metrics["average"] is not None:
        ci = f" ({_interval(metrics['ci'])})" if metrics["ci"] else ""
        captions.append(f"average of {', '.join(metrics['average_of'])}: {_percent(metrics['average'])}{ci}")
    if metrics["problems"]:
        counts = metrics["rows"]
        malformed = f"{counts['counted_wrong']:,} counted wrong, {counts['left_out']:,} left out"
        captions.append(f"{counts['read']:,} rows: {malformed}")
    captions += _further_scores(metrics)
    below = [below_blind(metrics)] if below_blind(metrics) else []
    table = WholeTable(caption="\n".join([*captions, *metrics["notes"], *below]))

    tasks = metrics["tasks"]
    table.add_column("modality")
    for name in tasks:
        table.add_column(f"{name}\n{metric_name([metrics], name)}", justify="right")
    for name in sort_modalities(name for task in tasks.values() for name in task["modalities"]):
        table.add_row(name, *(_percent(task["modalities"].get(name, {}).get("value")) for task in tasks.values()))
    table.add_section()
    mean = "mean of 8" if metrics["protocol"] == "released" else "mean"
    table.add_row(mean, *(_percent(task["macro"]) for task in tasks.values()), style="bold")
    if any(task["ci"] for task in tasks.values()):
        unit = f"{metrics['confidence']:.0%} interval, by {metrics.get('resampled_by', 'row')}"
        table.add_row(unit, *(_interval(task["ci"]) for task in tasks.values()))
    if blind := metrics.get("baselines"):
        table.add_row("blind answer", *(_percent(blind.get(f"blind_{task}", {}).get("macro")) for task in tasks))
        table.caption = f"{table.caption}\nblind answers from {metrics.get('baselines_from', UNRECORDED)}".lstrip()
    table.add_row("rows", *(f"{task['n']:,}" for task in tasks.values()))
    further = [_vqa_table(tasks["VQA"], metrics["confidence"])] if "VQA" in tasks else []
    further += [_selection_table(metrics["selection"])] if metrics.get("selection") else []
    return Group(table, *further) if further else table


def _vqa_table(vqa: dict[str, Any], confidence: float) -> WholeTable:
    """A row for all questions, with their intervals below, and for each group of them."""
    table = WholeTable("questions", *(Column(name, justify="right") for name in ("rows", *VQA_SCORES.values())))
    for by, groups in {"": {"all": vqa}, **vqa["by"]}.items():
        for name, group in groups.items():
            scores = (_percent(group[key]) for key in VQA_SCORES)
            table.add_row(f"{by.replace('_', ' ')} {name}".strip(), f"{group['n']:,}", *scores)
            intervals = group.get("intervals") or {}
            if not by and any(intervals.values()):
                table.add_row(f"{confidence:.0%} interval", "", *(_interval(intervals[key]) for key in VQA_SCORES))
        table.add_section()
    return table


def _selection_table(selection: dict[str, Any]) -> WholeTable:
    """A column for each task: what the first, a random, the chosen and the best candidate score."""
    caption = SELECTED_VQA if VQA in selection else None
    table = WholeTable("selection", *(Column(task, justify="right") for task in selection), caption=caption)
    found = selection.values()
    table.add_row("rows", *(f"{each['n']:,}" for each in found))
    for name, title in CHOICES.items():
        table.add_row(title, *(f"{_percent(each[name]['value'])}\n{_interval(each[name]['ci'])}" for each in found))
    table.add_row("gain", *(f"{100 * each['gain']['value']:+.2f}" for each in found))
    table.add_row("p", *("" if each["gain"]["p"] is None else f"{each['gain']['p']:.3f}" for each in found))
    table.add_row("distinct texts", *(f"{each['distinct_texts']:.2f} of {each['candidates']:.1f}" for each in found))
    pairs = ["" if each["pairwise_iou"] is None else f"{each['pairwise_iou']:.2f}" for each in found]
    if any(pairs):
        table.add_row("mean IoU of two", *pairs)
    return table


def progress_bar(console: Console | None = None) -> AbstractContextManager[Progress]:
    """A bar for each stage, by default on standard error; its value is the ``progress`` of the evaluation."""
    return bars_of_parts(console or Console(stderr=True))


def _further_scores(metrics: dict[str, Any]) -> list[str]:
    """A line for VG and one for MIA, and one for the answers that could not be read or were cut off."""
    tasks, lines = metrics["tasks"], []
    if grounding := tasks.get("VG"):
        names = {"mean_iou": "mean IoU", "precision": "precision@0.5", "f1": "F1@0.5", "centre_accuracy": "centres"}
        scores = ", ".join(f"{name} {_percent(grounding[key])}" for key, name in names.items())
        lines.append(f"VG: {scores}, {grounding['boxes_per_answer']:.2f} boxes an answer")
    if (captions := tasks.get("MIA")) and captions["mbmr_bird"] is not None:
        lines.append(
            f"MIA: mBMR by BiRD's definition, which the paper's Table 1 has: {_percent(captions['mbmr_bird'])}"
        )
    kinds = [f"{count:,} {name.replace('_', ' ')}" for name, count in metrics["answers"].items() if count]
    return lines + ([f"answers: {', '.join(kinds)}"] if kinds else [])


def _percent(score: float | None) -> str:
    return format_percent(None if score is None else 100 * score)


def _interval(ci: list[float] | None) -> str:
    return "" if ci is None else f"{100 * ci[0]:.1f} to {100 * ci[1]:.1f}"
