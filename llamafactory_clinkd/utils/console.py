# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The terminal of every ``clinkd`` command."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape


console = Console()


@contextmanager
def exit_on_error(*more: type[Exception]) -> Iterator[None]:
    """Ends the command with the message and code 2, without a traceback, where the message is meant for the user."""
    try:
        yield
    except (ValueError, OSError, ImportError, *more) as error:
        console.print(f"[red]Error[/]: {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(2) from error
