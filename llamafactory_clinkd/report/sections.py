# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Sections of the page: what each shows, as data and figures for the template."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from ..utils.boxes import MODALITIES, TASKS
from . import figures
from .embedded_images import embed
from .examples import sample_rows
from .load import RunData
from .provenance import recipe_table
from .scores import METHOD, TITLES, headline, modality_label, modality_names, modality_score, paper_value
from .texts import segments
from .training_logs import SERIES


ATTENTION_MAPS = 12


def task_view(runs: Sequence[RunData], task: str) -> dict[str, Any]:
    """A task's modalities: a figure and the rows of a table."""
    names = modality_names(runs, task)
    scores = {name: [modality_score(run, task, name) for run in runs] for name in names}
    printed = [paper_value(task, METHOD, name) for name in names]
    mine = [
        [(scores[name][number].value, scores[name][number].interval) for name in names] for number in range(len(runs))
    ]
    found = any(value is not None for values in mine for value, _ in values)
    description = (
        f"{TITLES[task]} by modality, ours as bars, the paper's {METHOD} as diamonds; the table has the numbers."
    )
    bird = {name: paper_value(task, "BiRD", name) for name in names}
    return {
        "task": task,
        "names": names,
        "scores": scores,
        "bird": bird,
        "means": [headline(run)[task] for run in runs],
        "bird_mean": paper_value(task, "BiRD", "average"),
        "figure": figures.modality_bars(
            [modality_label(name) for name in names], mine, printed, f"modality-{task.lower()}", description
        )
        if found
        else None,
    }


def curves(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """For each training phase, a panel for each quantity that any run logged."""
    views = []
    for phase in dict.fromkeys(log.phase for run in runs for log in run.logs):
        logs = [(number, log) for number, run in enumerate(runs) for log in run.logs if log.phase == phase]
        panels = []
        for key, title in SERIES.items():
            series = [(number, *log.series[key]) for number, log in logs if key in log.series]
            if series:
                ends = "; ".join(f"{runs[n].name} from {y[0]:.4g} to {y[-1]:.4g}" for n, _, y in series)
                figure = figures.training_curve(title, series, f"curve-{phase}-{key}", f"{title} in {phase}: {ends}.")
                panels.append(figure)
        split = all("ce" in log.series and "kl" in log.series for _, log in logs)
        sources = [f"{runs[number].name}: {log.source}" if len(runs) > 1 else log.source for number, log in logs]
        views.append({"phase": phase, "panels": panels, "split": split, "sources": sources})
    return views


def rounds_figure(rounds: Sequence[Any]) -> str | None:
    """The counts of all rounds as stacked bars, None without a round."""
    if not rounds:
        return None
    told = "; ".join(
        f"{view.title}: " + ", ".join(f"{n} {status}" for status, n in view.counts.items()) for view in rounds
    )
    return figures.status_bars(
        [(view.title, view.counts) for view in rounds], "rounds", f"Rows of each round. {told}."
    )


def pseudo_labels(run: RunData, seed: int) -> dict[str, Any] | None:
    """Counts and examples of the teacher's answers."""
    rows = [row for row in run.pseudo_labels if isinstance(row, dict)]
    if not rows:
        return None
    chosen = sample_rows(rows, len(TASKS), group=lambda row: str(row.get("task")), seed=seed)
    examples = [
        {
            "task": row.get("task"),
            "question": segments(row.get("question")),
            "label": segments(row.get("pseudo_label")),
            "truth": segments(row.get("annotation")),
        }
        for row in chosen
    ]
    return {
        "rows": len(rows),
        "labelled": sum(row.get("pseudo_label") is not None for row in rows),
        "examples": examples,
    }


def proportions(run: RunData) -> list[dict[str, Any]]:
    """Shares of modalities and tasks in the test answers and in the rows that the teacher labelled (Figure A1)."""
    views = []
    for identity, title, rows in (
        ("test", "Test questions", run.predictions),
        ("labelled", "Training rows that the teacher labelled", run.pseudo_labels),
    ):
        table = Counter((str(row.get("modality")), str(row.get("task"))) for row in rows if isinstance(row, dict))
        if not table:
            continue
        order = {name: number for number, name in enumerate(MODALITIES)}
        modalities = sorted({name for name, _ in table}, key=lambda name: (order.get(name, len(order)), name))
        tasks = [task for task in TASKS if any(name == task for _, name in table)]
        by_modality = {name: sum(table[name, task] for task in tasks) for name in modalities}
        by_task = {task: sum(table[name, task] for name in modalities) for task in tasks}
        views.append(
            {
                "title": title,
                "total": sum(table.values()),
                "modality_figure": figures.proportion_bars(
                    {modality_label(name): count for name, count in by_modality.items()},
                    f"{identity}-modalities",
                    f"{title} by modality",
                ),
                "task_figure": figures.proportion_bars(by_task, f"{identity}-tasks", f"{title} by task"),
                "tasks": tasks,
                "rows": [(name, [table[name, task] for task in tasks]) for name in modalities],
            }
        )
    return views


def sweep(runs: Sequence[RunData]) -> dict[str, Any] | None:
    """Scores over ``kd_alpha`` when the runs differ in it (Figure 4)."""
    known = [(run.setting("kd_alpha"), run) for run in runs if isinstance(run.setting("kd_alpha"), int | float)]
    if len({alpha for alpha, _ in known}) < 2:
        return None
    ordered = sorted(known, key=lambda pair: pair[0])
    found = [headline(run) for _, run in ordered]
    scores = {task: [score[task].value for score in found] for task in (*TASKS, "Average")}
    alphas = [alpha for alpha, _ in ordered]
    told = "; ".join(
        f"alpha {alpha:g}: {value:.1f}"
        for alpha, value in zip(alphas, scores["Average"], strict=True)
        if value is not None
    )
    other = [line["key"] for line in recipe_table([run for _, run in ordered]) if line["differs"]]
    return {
        "figure": figures.alpha_sweep(
            alphas, scores, "alpha-sweep", f"Scores over kd_alpha. Average: {told or 'none'}."
        ),
        "also_differs": [key for key in other if key != "kd_alpha"],
    }


def attention(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Attention maps, embedded; a file that cannot be read is named with its reason."""
    maps = [(run, path) for run in runs for path in run.attention]
    shown = []
    for run, path in maps[:ATTENTION_MAPS]:
        title = f"{run.name}: {path.stem}" if len(runs) > 1 else path.stem
        try:
            shown.append({"title": title, "picture": embed(path, 900), "problem": None})
        except ValueError as error:
            shown.append({"title": title, "picture": None, "problem": str(error)})
    return shown
