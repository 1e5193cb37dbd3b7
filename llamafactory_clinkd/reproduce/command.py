# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd reproduce``: finds the runs of a table that are missing, runs them and writes the table."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from ..utils.console import bars_of_parts
from .costs import cost_of, cost_table, measured_seconds
from .prepare import benchmark_of, inputs_of, prepare
from .results import results_folder
from .row_recipes import Plan, recipe_text
from .run import missing_runs, plan_runs, run_missing
from .table_rows import REFERENCE, REFERENCES, Row, rows_of
from .write import write_report, write_tables


class Request(NamedTuple):
    """The options of one call."""

    what: str  # the table
    scale: str  # ``paper`` or ``mini``
    rows: list[Row]  # the rows to run
    plans: list[Plan]  # all runs of these rows, and those whose models they use
    table: list[Plan]  # all runs of the table, whichever rows are run
    directory: Path  # the folder that replaces ``runs/reproduce``
    folders: list[Path]  # the folders to search for results


def read_request(
    what: str, scale: str, rows: str | None, seeds: str, directory: Path, results: Sequence[Path]
) -> Request:
    """Reads the options; ValueError for a wrong one, with what is expected."""
    benchmark = benchmark_of(scale)
    chosen, numbers = choose_rows(what, scale, rows), choose_seeds(seeds)
    return Request(
        what,
        scale,
        chosen,
        plan_runs(chosen, numbers, scale, benchmark),
        plan_runs(rows_of(what, scale), numbers, scale, benchmark),
        directory,
        [results_folder(directory, scale), *results],
    )


def choose_rows(what: str, scale: str, names: str | None) -> list[Row]:
    """The rows of a table, or the named ones among them; ValueError for one that the table or the scale lacks."""
    known = {row.name: row for row in rows_of(what, scale)}
    if REFERENCES.get(what, REFERENCE) not in known:
        raise ValueError(f"`{what}` has no rows to compare at scale {scale}: use the other one.")
    wanted = list(known) if names is None else [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ValueError(
            f"Unknown rows {', '.join(unknown) or '(none given)'} of {what} at scale {scale}: "
            f"expected some of {', '.join(known)}."
        )
    return [known[name] for name in known if name in wanted]


def choose_seeds(text: str) -> list[int]:
    """``1,2,3`` as distinct whole numbers; ValueError for anything else."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or len(set(parts)) < len(parts) or not all(part.isdecimal() for part in parts):
        raise ValueError(f"`--seeds {text}`: expected distinct whole numbers with commas, such as 1,2,3.")
    return [int(part) for part in parts]


def jobs_of(scale: str, jobs: int | None) -> int:
    """Runs at a time: ``jobs``, else one for each core at mini scale, and one at paper scale, which fills the GPUs."""
    return jobs or ((os.cpu_count() or 1) if scale == "mini" else 1)


def make(request: Request, console: Console, *, fresh: bool, runs: bool, report: bool, jobs: int) -> dict[str, str]:
    """Runs what is missing and writes the table, with ``report`` also the HTML page; returns failed run -> reason."""
    missing, finished = missing_runs(request.plans, request.rows, request.directory, request.folders)
    failed: dict[str, str] = {}
    if missing and runs:
        if request.scale == "mini":
            prepare(request.scale, request.directory, console)
        reasons = _run(request, missing, len(finished), console, fresh=fresh, jobs=jobs)
        failed = {name: reason for name, reason in reasons.items() if reason is not None}
    elif missing:
        console.print(f"{len(missing)} runs are missing: {', '.join(plan.name for plan in missing)}.", soft_wrap=True)
    write_tables(request.what, request.table, request.directory, request.folders, console)
    if report and (page := write_report(request.what, request.table, request.directory)) is not None:
        console.print(f"Report: {page}", soft_wrap=True)
    return failed


def _run(
    request: Request, missing: list[Plan], finished: int, console: Console, *, fresh: bool, jobs: int
) -> dict[str, str | None]:
    ended, total = finished, len(missing) + finished
    with bars_of_parts(console) as show:
        show("runs", ended, total)

        def on_progress(plan: Plan, state: str) -> None:
            nonlocal ended
            if state in ("finished", "failed"):
                ended += 1
                console.print(f"{plan.name} {state}", highlight=False)
            show("runs", ended, total, f"{plan.name}: {state}")

        options = {"jobs": jobs, "fresh": fresh, "inputs": inputs_of, "on_progress": on_progress}
        return run_missing(missing, request.directory, **options)


def dry(request: Request, gpus: int, gib: float, console: Console, *, recipes: bool = False) -> None:
    """``--dry-run``: prints the estimated cost of the runs, with ``recipes`` also the recipe of every row."""
    first = min(plan.seed for plan in request.plans)
    for plan in request.plans:
        if recipes and plan.seed == first and not plan.row.computed:
            console.rule(plan.name)
            console.print(recipe_text(plan, request.directory), markup=False, highlight=False, soft_wrap=True)
    seconds = measured_seconds(request.plans, request.folders)
    costs = [
        (plan, cost_of(plan, request.directory, seconds.get(plan.row.name), gpus=gpus, gib=gib))
        for plan in request.plans
    ]
    machine = f"{gpus} GPUs of {gib:g} GiB" if request.scale == "paper" else "CPU"
    console.print(cost_table(costs, f"{len(costs)} runs, {machine}; each figure is that of one seed"))
    if not recipes:
        console.print("The recipe of each run: --dry-run --recipes")
