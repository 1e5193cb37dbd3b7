# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Runs what a table lacks, some at a time; a run that fails is said, and the others go on."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .launch import RunFailed, data_folder, launch, model_is_there, take_folder
from .mean_box import mean_box_metrics
from .results import find_result, results_folder, write_result
from .row_recipes import Plan, plan_run
from .table_rows import Row


class Launch(Protocol):
    """What trains and evaluates a recipe; tests put another in its place."""

    def __call__(
        self, plan: Plan, directory: Path, tell: Callable[[str], None]
    ) -> tuple[dict[str, Any], dict[str, float]]:
        """Returns metrics, and phase -> seconds."""
        ...


@dataclass
class Outcome:
    """What became of the runs of a table.

    Attributes:
        ran: Names of the runs that were made now.
        found: Names of those that were finished before.
        failed: Name -> what went wrong.
    """

    ran: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def plan_runs(
    rows: Iterable[Row], seeds: Sequence[int], scale: str, benchmark: Any = None, part: str = "test"
) -> list[Plan]:
    """All runs of the rows: every row with the first seed, then with the next; a run comes after the one it uses."""
    plans: dict[str, Plan] = {}
    for number, seed in enumerate(seeds):
        for row in rows:
            if row.seeded or number == 0:
                plan = plan_run(row, seed, scale, benchmark, part)
                for each in (plan.source, plan):
                    if each is not None:
                        plans.setdefault(each.name, each)
    return list(plans.values())


def missing_runs(
    plans: Sequence[Plan], wanted: Iterable[Row], directory: Path, folders: Sequence[Path]
) -> tuple[list[Plan], list[Plan]]:
    """Which of the plans have to be run, and which are finished.

    A run that is only there for another row to use counts as finished where its model is, or where that row is
    finished; its result alone, which may come from another machine, does not help a row that has to be run.

    Args:
        plans: From :func:`plan_runs`.
        wanted: The rows that were asked for.
        directory: The folder in the place of ``runs/reproduce``.
        folders: Where results are looked for.
    """
    names = {row.name for row in wanted}
    done = {plan.name for plan in plans if find_result(plan, folders) is not None}
    lacking = {plan.name for plan in plans if plan.row.name in names and plan.name not in done}
    for plan in plans:
        if plan.name in lacking and plan.source is not None and not model_is_there(plan.source, directory):
            lacking.add(plan.source.name)
    return (
        [plan for plan in plans if plan.name in lacking],
        [plan for plan in plans if plan.name not in lacking and plan.row.name in names],
    )


def run_missing(
    plans: Sequence[Plan],
    directory: Path,
    *,
    jobs: int = 1,
    fresh: bool = False,
    inputs: Callable[[Plan], dict[str, str]] = lambda plan: {},
    launch_run: Launch = launch,
    tell: Callable[[Plan, str], None] = lambda plan, text: None,
) -> Outcome:
    """Runs the plans, started in their order but for those that wait for another's model, and writes a result of each.

    Args:
        plans: Those that have to be run, from :func:`missing_runs`: a run comes after the one it uses.
        directory: The folder in the place of ``runs/reproduce``.
        jobs: Runs at a time.
        fresh: Whether to remove the folders of other recipes that stand in the way.
        inputs: The hashes of what a run starts from.
        launch_run: What trains and evaluates.
        tell: Called with a run and what it does, by one thread at a time.

    Returns:
        What became of them, in the order of the plans.
    """
    interrupted, one_at_a_time = threading.Event(), threading.Lock()

    def say(plan: Plan, text: str) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt  # ends the run's process, which goes on from there the next time
        with one_at_a_time:
            tell(plan, text)

    def attempt(plan: Plan, source_failed: bool) -> str | None:
        """Returns why the run failed."""
        try:
            if source_failed:
                raise RunFailed(f"needs the model of {plan.source.name}, which failed.")
            say(plan, "starting")
            _run_one(plan, directory, fresh, inputs, launch_run, say)
        except (RunFailed, OSError, ValueError) as error:
            say(plan, "failed")
            return str(error)
        say(plan, "finished")
        return None

    waiting: list[Plan] = list(plans)
    running: dict[Future[str | None], Plan] = {}
    reasons: dict[str, str | None] = {}  # of those that ended
    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                for plan in _ready(waiting, running.values())[: jobs - len(running)]:
                    waiting.remove(plan)
                    source_failed = plan.source is not None and reasons.get(plan.source.name) is not None
                    running[pool.submit(attempt, plan, source_failed)] = plan
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    reasons[running.pop(future).name] = future.result()
        except BaseException:
            interrupted.set()
            pool.shutdown(cancel_futures=True)
            raise
    outcome = Outcome()
    for plan in plans:
        if (reason := reasons[plan.name]) is None:
            outcome.ran.append(plan.name)
        else:
            outcome.failed[plan.name] = reason
    return outcome


def _ready(waiting: Sequence[Plan], running: Iterable[Plan]) -> list[Plan]:
    """Those whose source is not still to be trained: a run that waits for another's model takes no place meanwhile."""
    unfinished = {plan.name for plan in (*waiting, *running)}
    return [plan for plan in waiting if plan.source is None or plan.source.name not in unfinished]


def _run_one(
    plan: Plan,
    directory: Path,
    fresh: bool,
    inputs: Callable[[Plan], dict[str, str]],
    launch_run: Launch,
    tell: Callable[[Plan, str], None],
) -> None:
    if plan.row.computed:
        names = (plan.keys["dataset"], plan.keys["eval_dataset"])
        metrics, phases = mean_box_metrics(data_folder(plan, directory), *names), {}
    else:
        take_folder(plan, directory, fresh=fresh)
        metrics, phases = launch_run(plan, directory, lambda text: tell(plan, text))
    folder = results_folder(directory, plan.scale, plan.part)
    write_result(plan, folder, metrics, phases=phases, inputs=inputs(plan))
