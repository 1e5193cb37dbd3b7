# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The terminal of every ``clinkd`` command: errors without a traceback, and progress bars."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from typer.core import TyperGroup


Show = Callable[..., None]  # (name of the part, steps done, steps, note)
console = Console()


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


@contextmanager
def bars_of_parts(console: Console) -> Iterator[Show]:
    """Yields a function that shows a part's progress: one bar each, or lines where the output is not a terminal."""
    if not console.is_terminal:
        yield lines_of_parts(console)
        return

    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.fields[note]}")
    with Progress(TextColumn("{task.description}"), *columns, console=console) as progress:
        bars: dict[str, int] = {}

        def show(name: str, done: int, total: int, note: str = "") -> None:
            if name not in bars:
                bars[name] = progress.add_task(name, total=total, note=note)
            progress.update(bars[name], completed=done, note=note)

        yield show


def lines_of_parts(console: Console) -> Show:
    """Prints a line when a part begins and at every tenth of it, for a log file."""
    tenths: dict[str, int] = {}

    def show(name: str, done: int, total: int, note: str = "") -> None:
        tenth = 10 * done // max(total, 1)
        if tenths.get(name) != tenth:
            tenths[name] = tenth
            console.print(f"{name} {done}/{total} {note}".rstrip(), markup=False, highlight=False, soft_wrap=True)

    return show
