# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd reproduce``: one command for each table of the paper; what it does is in :mod:`.command`."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape


console = Console()
What = Literal["table1", "table2", "table3", "figure4", "data"]
Scale = Literal["paper", "mini"]


def reproduce(
    what: Annotated[What, typer.Argument(help="The table or figure; `data` makes what its runs start from.")],
    scale: Annotated[Scale, typer.Option(help="The paper's models and data, or real scans and small models.")],
    rows: Annotated[str | None, typer.Option(help="Only these rows, with commas. Default: all of the table.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "1,2,3",
    directory: Annotated[Path, typer.Option(help="Where runs, results and tables go.")] = Path("runs/reproduce"),
    results: Annotated[
        list[Path] | None, typer.Option(exists=True, file_okay=False, help="More folders with results of runs.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipes and what they take.")] = False,
    table_only: Annotated[bool, typer.Option("--table-only", help="Run nothing: the table of what is there.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Remove runs of older recipes that are in the way.")] = False,
    report: Annotated[bool, typer.Option("--report", help="Write the HTML page that compares the runs, too.")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time. Default: at mini scale one a core, at paper scale one.")
    ] = None,
    validation: Annotated[
        bool, typer.Option("--validation", help="Answer the validation rows, to choose the base by. Mini scale only.")
    ] = False,
    cache: Annotated[Path, typer.Option(help="Downloaded scans, shared with the demo.")] = Path("runs/demo/cache"),
    gpus: Annotated[int, typer.Option(min=1, help="With --dry-run at paper scale: number of GPUs.")] = 8,
    gpu_memory: Annotated[float, typer.Option(min=1, help="With --dry-run: memory of each, GiB.")] = 80,
) -> None:
    """Runs what a table of the paper lacks, and writes it with the paper's values beside ours."""
    from ..utils.console import exit_on_error
    from .command import Request, dry, jobs_of, make, prepare

    with exit_on_error(RuntimeError):
        if what == "data":
            prepare(scale, directory, cache, console)
            return
        request = Request.of(what, scale, rows, seeds, validation, directory, results or [])
        if dry_run:
            dry(request, gpus, gpu_memory, console)
            return
        failed = make(
            request,
            console,
            cache=cache,
            fresh=fresh,
            runs=not table_only,
            report=report,
            jobs=jobs_of(scale, jobs),
        )
    for name, reason in failed.items():
        console.print(f"[red]Failed[/]: {escape(name)} {escape(reason)}", soft_wrap=True)
    if failed:
        console.print("The same command runs the failed rows again and nothing else.")
        raise typer.Exit(1)
