# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The options of ``clinkd reproduce``; :mod:`.command` carries it out."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from ..utils.console import console


What = Literal["table1", "table2", "table3", "figure4", "on_policy", "data"]
Scale = Literal["paper", "mini"]


def reproduce(
    what: Annotated[What, typer.Argument(help="The table or figure; `data` writes what its runs start from.")],
    scale: Annotated[Scale, typer.Option(help="The paper's models and data, or those of `clinkd demo`.")],
    rows: Annotated[str | None, typer.Option(help="Only these rows, with commas. Default: all of the table.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "1,2,3",
    directory: Annotated[Path, typer.Option(help="Where runs, results and tables go.")] = Path("runs/reproduce"),
    results: Annotated[
        list[Path] | None, typer.Option(exists=True, file_okay=False, help="More folders with results of runs.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the estimated cost.")] = False,
    recipes: Annotated[bool, typer.Option("--recipes", help="With --dry-run: print the recipes too.")] = False,
    table_only: Annotated[
        bool, typer.Option("--table-only", help="Only write the table of the finished runs.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Remove runs of older recipes in the way of new ones.")
    ] = False,
    report: Annotated[bool, typer.Option("--report", help="Also write an HTML page that compares the runs.")] = False,
    jobs: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at a time. Default: one per core (mini), one (paper)."),
    ] = None,
    gpus: Annotated[int, typer.Option(min=1, help="With --dry-run at paper scale: number of GPUs.")] = 8,
    gpu_memory: Annotated[float, typer.Option(min=1, help="With --dry-run: memory of each, GiB.")] = 80,
) -> None:
    """Reproduces a table or figure of the paper; runs only what is missing."""
    from .command import dry, jobs_of, make, prepare, read_request

    if what == "data":
        prepare(scale, directory, console, dry_run=dry_run)
        return
    request = read_request(what, scale, rows, seeds, directory, results or [])
    if dry_run:
        dry(request, gpus, gpu_memory, console, recipes=recipes)
        return
    settings = {"fresh": fresh, "runs": not table_only, "report": report}
    failed = make(request, console, jobs=jobs_of(scale, jobs), **settings)
    for name, reason in failed.items():
        console.print(f"[red]Failed[/]: {escape(name)} {escape(reason)}", soft_wrap=True)
    if failed:
        console.print("Repeat the command to run only the failed rows again.")
        raise typer.Exit(1)
