# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0


"""The metrics as a table for the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..utils.boxes import MODALITIES, TASKS
from .scoring import Progress


if TYPE_CHECKING:
    from rich.table import Table


def metrics_table(metrics: dict[str, Any]) -> "Table":
    """Builds the table of ``metrics.json``: a row for each modality, a column for each task, in percent.

    Below the modalities stand the mean over them with its confidence interval, and the numbers of rows. A score that
    could not be computed is a dash.

    Args:
        metrics: What :func:`.evaluate.evaluate_predictions` returns.
    """
    from rich.table import Table

    tasks = {task: metrics["tasks"][task] for task in TASKS if task in metrics["tasks"]}
    present = {name for task in tasks.values() for name in task["modalities"]}
    names = [name for name in MODALITIES if name in present] + sorted(present - set(MODALITIES))

    table = Table(caption=_caption(metrics))
    table.add_column("modality")
    for name, task in tasks.items():
        table.add_column(f"{name}\n{task['metric']}", justify="right")
    for name in names:
        table.add_row(name, *(_cell(task["modalities"].get(name, {}).get("value")) for task in tasks.values()))
    table.add_section()
    mean = "mean of 8" if metrics["protocol"] == "released" else "mean"
    table.add_row(mean, *(_cell(task["macro"]) for task in tasks.values()), style="bold")
    if any(task["ci"] for task in tasks.values()):
        table.add_row(f"{metrics['confidence']:.0%} interval", *(_span(task["ci"]) for task in tasks.values()))
    table.add_row("rows", *(f"{task['n']:,}" for task in tasks.values()))
    return table


def _caption(metrics: dict[str, Any]) -> str:
    lines = []
    if metrics["average"] is not None:
        span = f" ({_span(metrics['ci'])})" if metrics["ci"] else ""
        lines.append(f"average of {', '.join(metrics['average_of'])}: {_cell(metrics['average'])}{span}")
    rows = metrics["rows"]
    if metrics["problems"]:
        lines.append(f"{rows['read']:,} rows: {rows['counted_wrong']:,} counted wrong, {rows['left_out']:,} left out")
    return "\n".join([*lines, *metrics["notes"]])


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _span(ci: list[float] | None) -> str:
    return "" if ci is None else f"{100 * ci[0]:.1f} to {100 * ci[1]:.1f}"


if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def progress_bar(console: "Console | None" = None) -> Iterator[Progress]:
    """Shows one bar for each stage; use the value as ``progress`` of :func:`.evaluate.evaluate_predictions`.

    Args:
        console: Where to draw; standard error by default, so that standard output stays clean for JSON.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console or Console(stderr=True)) as bars:
        stages: dict[str, int] = {}

        def report(stage: str, done: int, total: int) -> None:
            if stage not in stages:
                stages[stage] = bars.add_task(stage, total=total)
            bars.update(stages[stage], completed=done, total=total)

        yield report
