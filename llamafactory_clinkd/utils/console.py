# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The terminal of every ``clinkd`` command: errors without a traceback, and progress bars."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup


Show = Callable[..., None]  # (name of the part, steps done, steps or None if that is not known, note)
SECONDS_BETWEEN_LINES = 10.0  # of a part, where there are no bars
console = Console()
_drawn: list[Progress] = []  # what is on a terminal now


@contextmanager
def exit_on_error(*more: type[Exception]) -> Iterator[None]:
    """Ends the command with the message and code 2, without a traceback, where the message is meant for the user.

    With ``CLINKD_TRACEBACK=1`` in the environment the error is raised, for a report of a bug.
    """
    try:
        yield
    except (typer.Exit, typer.Abort):  # RuntimeErrors
        raise
    except (ValueError, OSError, ImportError, *more) as error:
        if os.environ.get("CLINKD_TRACEBACK") == "1":
            raise
        console.print(f"[red]Error[/]: {escape(str(error)) or type(error).__name__}", soft_wrap=True)
        raise typer.Exit(2) from error


def counted(number: float, noun: str) -> str:
    """``1 epoch``, ``2 epochs``."""
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


class WholeTable(Table):
    """A table that breaks a word that is wider than its column; rich's own cuts it off."""

    def __init__(self, *heads: Any, **options: Any) -> None:
        super().__init__(*heads, **options)
        for column in self.columns:
            column.overflow = "fold"

    def add_column(self, *args: Any, **options: Any) -> None:  # noqa: D102
        super().add_column(*args, **{"overflow": "fold"} | options)


class OneLineErrors(TyperGroup):
    """A command with sub-commands, all of which end in one line where the input is wrong."""

    def invoke(self, ctx: Any) -> Any:  # noqa: D102
        with exit_on_error(RuntimeError):
            return super().invoke(ctx)


@contextmanager
def quiet_libraries(level: int = logging.INFO) -> Iterator[None]:
    """Meanwhile nothing at this level or below is logged, and libraries that are imported draw no bars."""
    before, names = logging.root.manager.disable, ("TQDM_DISABLE", "HF_HUB_DISABLE_PROGRESS_BARS")
    environment = {name: os.environ.get(name) for name in names}
    logging.disable(max(before, level))
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        logging.disable(before)
        for name, value in environment.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


class _Rate(ProgressColumn):
    """Steps a second and the time left; the time that it took at the end."""

    def render(self, task: Task) -> Text:
        """Empty until it is known."""
        if task.finished:
            return Text(f"in {timedelta(seconds=round(task.finished_time or 0))}")
        left = task.time_remaining
        return Text("" if left is None else f"{task.speed:.3g}/s, {timedelta(seconds=round(left))} left")


@contextmanager
def bars_of_parts(console: Console | None) -> Iterator[Show]:
    """Yields a function that shows a part's progress: one bar each, or lines where the output is not a terminal.

    Without a console nothing is shown. Bars of blocks inside each other stand below each other.
    """
    if console is None or not console.is_terminal:
        yield (lambda *_: None) if console is None else lines_of_parts(console)
        return

    outer = next((each for each in _drawn if each.console is console), None)
    columns = TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), _Rate()
    progress = outer or Progress(
        *columns, TextColumn("{task.fields[note]}"), console=console, redirect_stdout=False, redirect_stderr=False
    )
    bars: dict[str, TaskID] = {}

    def show(name: str, done: int, total: int | None, note: str = "") -> None:
        if name not in bars:
            bars[name] = progress.add_task(name, total=total, note=note)
        progress.update(bars[name], completed=done, total=total, note=note)

    if outer is not None:
        yield show
        return
    _drawn.append(progress)
    try:
        with progress:
            yield show
    finally:
        _drawn.remove(progress)


def lines_of_parts(console: Console) -> Show:
    """Prints a line at a tenth of a part after ten seconds without one, and at the end of such a part, for a log."""
    tenths: dict[str, int] = {}
    times: dict[str, float] = {}

    def show(name: str, done: int, total: int | None, note: str = "") -> None:
        if total is None:
            return
        tenth, now = 10 * done // max(total, 1), time.monotonic()
        is_due = now - times.setdefault(name, now) >= SECONDS_BETWEEN_LINES or (name in tenths and done >= total)
        if tenths.get(name) != tenth and is_due:
            tenths[name], times[name] = tenth, now
            console.print(f"{name} {done}/{total} {note}".rstrip(), markup=False, highlight=False, soft_wrap=True)

    return show
