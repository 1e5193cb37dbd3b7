# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The terminal of every ``clinkd`` command: errors without a traceback, and progress bars."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


Show = Callable[..., None]  # (name of the part, steps done, steps, note)
console = Console()


@contextmanager
def exit_on_error(*more: type[Exception]) -> Iterator[None]:
    """Ends the command with the message and code 2, without a traceback, where the message is meant for the user."""
    try:
        yield
    except (ValueError, OSError, ImportError, *more) as error:
        console.print(f"[red]Error[/]: {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2) from error


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
