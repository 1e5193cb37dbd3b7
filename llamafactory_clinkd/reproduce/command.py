# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What ``clinkd reproduce`` does: which runs are asked for, which are missing, then the runs and the table."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ..demo.progress import bars_of_parts
from .costs import cost_of, cost_table, measured_seconds
from .prepare import benchmark_of, inputs_of, prepare
from .results import results_folder
from .row_recipes import Plan, recipe_text
from .run import Outcome, missing_runs, plan_runs, run_missing
from .table_rows import Row, rows_of
from .write import write_report, write_tables


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        what: The table.
        scale: ``paper`` or ``mini``.
        rows: The rows to run.
        plans: All runs of these rows, and those that they use.
        table: All runs of the table, whichever rows are to be run.
        directory: The folder in the place of ``runs/reproduce``.
        folders: Where results are looked for.
    """

    what: str
    scale: str
    rows: list[Row]
    plans: list[Plan]
    table: list[Plan]
    directory: Path
    folders: list[Path]

    @classmethod
    def of(
        cls,
        what: str,
        scale: str,
        rows: str | None,
        seeds: str,
        validation: bool,
        directory: Path,
        results: Sequence[Path],
    ) -> "Request":
        """Reads the options.

        Raises:
            ValueError: If one of them is wrong; the message names what is expected.
        """
        if validation and scale != "mini":
            raise ValueError("`--validation` goes with `--scale mini`: Med-GRIT-270k has no validation part.")
        part, benchmark = "validation" if validation else "test", benchmark_of(scale)
        chosen, numbers = choose_rows(what, scale, rows), choose_seeds(seeds)
        return cls(
            what,
            scale,
            chosen,
            plan_runs(chosen, numbers, scale, benchmark, part),
            plan_runs(rows_of(what, scale), numbers, scale, benchmark, part),
            directory,
            [results_folder(directory, scale, part), *results],
        )


def choose_rows(what: str, scale: str, names: str | None) -> list[Row]:
    """The rows of a table, or those of them that are named.

    Raises:
        ValueError: If a name is none of the table's rows at this scale.
    """
    known = {row.name: row for row in rows_of(what, scale)}
    wanted = list(known) if names is None else [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ValueError(
            f"Unknown rows {', '.join(unknown) or '(none given)'} of {what} at scale {scale}: "
            f"expected some of {', '.join(known)}."
        )
    return [known[name] for name in known if name in wanted]


def choose_seeds(text: str) -> list[int]:
    """``1,2,3`` as numbers.

    Raises:
        ValueError: If they are not distinct whole numbers.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or len(set(parts)) < len(parts) or not all(part.isdecimal() for part in parts):
        raise ValueError(f"`--seeds {text}`: expected distinct whole numbers with commas, such as 1,2,3.")
    return [int(part) for part in parts]


def jobs_of(scale: str, asked: int | None) -> int:
    """Runs at a time: what was asked for; else one a core at mini scale, one at paper scale, which fills its GPUs."""
    return asked or ((os.cpu_count() or 1) if scale == "mini" else 1)


def make(
    request: Request, console: Console, *, cache: Path, fresh: bool, runs: bool, report: bool, jobs: int
) -> dict[str, str]:
    """Runs what is missing, unless ``runs`` is false, and writes the table, with ``report`` the HTML page too.

    Args:
        request: What was asked for.
        console: Where progress is shown.
        cache: Folder of downloaded scans.
        fresh: Whether to remove runs of other recipes that are in the way.
        runs: Whether to run anything.
        report: Whether to write the page.
        jobs: Runs at a time.

    Returns:
        Run -> why it failed.
    """
    todo, found = missing_runs(request.plans, request.rows, request.directory, request.folders)
    outcome = Outcome()
    if todo and runs:
        if request.scale == "mini":
            prepare(request.scale, request.directory, cache, console, todo)
        outcome = _run(request, todo, found, console, fresh=fresh, jobs=jobs)
    elif todo:
        console.print(f"{len(todo)} runs are missing: {', '.join(plan.name for plan in todo)}.", soft_wrap=True)
    write_tables(request.what, request.table, request.directory, request.folders, console)
    if report and (page := write_report(request.what, request.table, request.directory)) is not None:
        console.print(f"Report: {page}", soft_wrap=True)
    return outcome.failed


def _run(
    request: Request, todo: list[Plan], found: list[Plan], console: Console, *, fresh: bool, jobs: int
) -> Outcome:
    ended, total = len(found), len(todo) + len(found)
    with bars_of_parts(console) as show:
        show("runs", ended, total)

        def tell(plan: Plan, text: str) -> None:
            nonlocal ended
            if text in ("finished", "failed"):
                ended += 1
                console.print(f"{plan.name} {text}", highlight=False)
            show("runs", ended, total, f"{plan.name}: {text}")

        def inputs(plan: Plan) -> dict[str, str]:
            return inputs_of(plan, request.directory)

        return run_missing(todo, request.directory, jobs=jobs, fresh=fresh, inputs=inputs, tell=tell)


def dry(request: Request, gpus: int, gib: float, console: Console) -> None:
    """Prints the recipe of every row and what the runs take."""
    first = min(plan.seed for plan in request.plans)
    for plan in request.plans:
        if plan.seed == first and not plan.row.computed:
            console.rule(plan.name)
            console.print(recipe_text(plan, request.directory), markup=False, highlight=False, soft_wrap=True)
    seconds = measured_seconds(request.plans, request.folders)
    costs = [
        (plan, cost_of(plan, request.directory, seconds.get(plan.row.name), gpus=gpus, gib=gib))
        for plan in request.plans
    ]
    machine = f"{gpus} GPUs of {gib:g} GiB" if request.scale == "paper" else "CPU"
    console.print(cost_table(costs, f"{len(costs)} runs, {machine}; the recipes are those of seed {first}"))
