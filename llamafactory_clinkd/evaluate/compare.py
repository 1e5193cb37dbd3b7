# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Two sets of answers to the same questions, compared by a paired bootstrap over patients, volumes or images."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Column

from ..utils.boxes import TASKS, VQA
from ..utils.console import WholeTable
from .grounding import references
from .java import Progress, kept_meteor
from .predictions import read_rows
from .resampling import Draws, average_draws, interval, p_value, part_draws
from .score_table import metric_name
from .scoring import RESAMPLES as SCORE_RESAMPLES
from .scoring import evaluate_reading
from .task_statistics import Protocol, macro_draws
from .vqa import PARTS


RESAMPLES = 10_000
"""So many that a p value can be small enough to remain so among many comparisons: the least is 0.0001."""


@kept_meteor()
def compare_predictions(
    rows: Iterable[Any],
    other_rows: Iterable[Any],
    *,
    protocol: Protocol = "present",
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
    progress: Progress | None = None,
    with_selection: bool = False,
    **spice_options: Any,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The differences between two sets of answers, the first minus the second; and the metrics of both.

    Both are scored on the same resamples of whole clusters (:mod:`.resampling`). Options are those of
    :func:`.scoring.evaluate_predictions`, whose metrics these are; ``with_selection`` the first's have theirs.
    ``resamples`` are those of the differences.

    Returns:
        ``differences``: for each task, its modalities, :data:`.vqa.PARTS` and the average of the paper's tasks
        ``{"task", "metric", "modality", "value", "other", "difference", "ci", "p", "p_holm", "n"}``, scores in [0, 1].
        ``p`` is that of the comparison by itself, ``p_holm`` that among all ``comparisons`` that have one
        (:func:`add_holm`). ``resampled_by`` names the ``clusters``.

    Raises:
        ValueError: If the two are not answers to the same questions; the message has how many match. If an option is
            out of range.
    """
    first, second = (read_rows(each, by_release=protocol == "released") for each in (rows, other_rows))
    second = second._replace(rows=_in_order_of(first.rows, second.rows))
    if resamples < 1:
        raise ValueError(f"A comparison needs resamples; got {resamples}.")
    options = {"protocol": protocol, "confidence": confidence, "resamples": min(resamples, SCORE_RESAMPLES)}
    options |= {"compared": resamples, "seed": seed, "progress": progress, **spice_options}
    mine, draws = evaluate_reading(first, with_selection=with_selection, **options)
    theirs, other_draws = evaluate_reading(second, with_selection=False, **options)
    entries, macros = [], {}
    for task in [task for task in draws if task not in PARTS]:
        sides = [metrics["tasks"][task] for metrics in (mine, theirs)]
        parts = {
            name: part_draws(each.values - other_draws[task][name].values, each.parts[0][1])
            for name, each in draws[task].items()
        }
        macros[task] = macro_draws(parts, protocol)
        name = metric_name([mine], task)
        entries.append(_entry(task, name, None, [side["macro"] for side in sides], macros[task], sides[0]["n"]))
        for modality, part in parts.items() if len(parts) > 1 else ():
            pair = [side["modalities"][modality] for side in sides]
            values = [each["value"] for each in pair]
            entries.append(_entry(task, name, modality, values, part, pair[0]["n"]))
    for part, key in PARTS.items():
        if part in draws:
            sides = [metrics["tasks"][VQA] for metrics in (mine, theirs)]
            own, other = draws[part][key], other_draws[part][key]
            n = sides[0]["closed"] if key == "closed_accuracy" else sides[0]["n"] - sides[0]["closed"]
            drawn = part_draws(own.values - other.values, own.parts[0][1])
            entries.append(_entry(part, key.partition("_")[2], None, [side[key] for side in sides], drawn, n))
    if len(averaged := [macros[task] for task in TASKS if task in macros]) > 1:
        values = [metrics["average"] for metrics in (mine, theirs)]
        entries.append(_entry("average", "mean", None, values, average_draws(averaged), mine["rows"]["evaluated"]))
    for entry, each in entries:
        entry |= {"ci": interval(each, confidence), "p": p_value(each)}
    kept = ("resampled_by", "clusters", "protocol", "confidence", "seed")
    comparison = {"differences": [entry for entry, _ in entries], "resamples": resamples}
    comparison |= {key: mine[key] for key in kept}
    add_holm([comparison])
    return comparison, mine, theirs


def add_holm(comparisons: Sequence[dict[str, Any]]) -> None:
    """Adds ``p_holm`` (Holm, 1979) among all ``comparisons`` shown together, and their number to each."""
    entries = [entry for each in comparisons for entry in each["differences"] if entry["p"] is not None]
    _add_holm(entries)
    for each in comparisons:
        each["comparisons"] = len(entries)


def comparison_table(comparison: Mapping[str, Any], names: Sequence[str]) -> WholeTable:
    """The differences A - B in percentage points, with the ``names`` of A and B."""
    heads = ("A", "B", "A - B", f"{comparison['confidence']:.0%} interval", "p", "p of all", "rows")
    count, unit = comparison["comparisons"], comparison["resampled_by"]
    caption = "A: {}\nB: {}\n".format(*names)
    caption += f"{comparison['clusters']:,} clusters ({unit}), {comparison['resamples']:,} resamples. "
    if count <= 1:
        caption += "p of all is p: there is one comparison."
    else:
        caption += f"p of all: p corrected for {count} comparisons (Holm). Uncorrected, {0.05 * count:.1f} of them "
        caption += "have p < 0.05 on average if nothing differs."
    task = Column("task", min_width=len("(SPICE-approx"), overflow="fold")
    table = WholeTable(task, *(Column(head, justify="right") for head in heads), caption=caption)
    for entry in comparison["differences"]:
        ci = "" if entry["ci"] is None else "{:+.1f} to {:+.1f}".format(*(100 * bound for bound in entry["ci"]))
        p = ["" if entry[key] is None else f"{entry[key]:.4f}" for key in ("p", "p_holm")]
        scores = [f"{100 * entry['value']:.2f}", f"{100 * entry['other']:.2f}", f"{100 * entry['difference']:+.2f}"]
        title = f"  {entry['modality']}" if entry["modality"] else f"{entry['task']} ({entry['metric']})"
        table.add_row(title, *scores, ci, *p, f"{entry['n']:,}", style=None if entry["modality"] else "bold")
    return table


def _entry(
    task: str, metric: str, modality: str | None, values: Sequence[float], draws: Draws, n: int
) -> tuple[dict[str, Any], Draws]:
    value, other = values
    named = {"task": task, "metric": metric, "modality": modality}
    return {**named, "value": value, "other": other, "difference": value - other, "n": n, "p_holm": None}, draws


def _add_holm(entries: Sequence[dict[str, Any]]) -> None:
    """Adds ``p_holm``, the p values of Holm's step-down procedure."""
    least = 0.0
    for rank, entry in enumerate(sorted(entries, key=lambda entry: entry["p"])):
        entry["p_holm"] = least = max(least, min(1.0, (len(entries) - rank) * entry["p"]))


def _in_order_of(rows: Sequence[dict[str, Any]], others: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ``others`` in the order of the ``rows`` with the same image, task, question and ground truths.

    Where the paths of the images differ, as on another machine, their names are compared. Which questions are closed
    is that of the ``rows``.
    """
    matched = 0
    for whole_path in (True, False):
        left: dict[Hashable, list[dict[str, Any]]] = defaultdict(list)
        for row in reversed(others):
            left[_identity(row, whole_path)].append(row)
        ambiguous = not whole_path and max(map(len, left.values()), default=0) > 1
        found = [left[key].pop() for row in rows if left.get(key := _identity(row, whole_path))]
        matched = max(matched, 0 if ambiguous else len(found))
        if len(found) == len(rows) == len(others) and not ambiguous:
            return [
                other | {key: row.get(key) for key in ("answer_type", "choices")}
                for row, other in zip(rows, found, strict=True)
            ]
    raise ValueError(
        f"The two are not answers to the same questions: of {len(rows):,} rows and {len(others):,} to compare "
        f"them with, {matched:,} have the same image, task, question and ground truth. Evaluate both on one test set."
    )


def _identity(row: Mapping[str, Any], whole_path: bool) -> Hashable:
    image = row["image"] if whole_path else Path(row["image"].replace("\\", "/")).name
    return image, row["task"], row["question"], tuple(references(dict(row)))
