# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0


"""A progress bar for an evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .scoring import Progress


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
