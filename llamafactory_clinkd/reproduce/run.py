# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Plans the runs of a table, and runs those that are missing, several at a time."""

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from ..evaluate.blind import mean_box_baseline, mean_box_from_facts
from ..utils.io import read_json, read_jsonl
from .launch import RunFailed, has_model, launch, take_folder
from .results import find_result, results_folder, write_result
from .row_recipes import Plan, local_keys, plan_run
from .table_rows import Row


Launch = Callable[[Plan, Path, Callable[[str], None]], tuple[dict[str, Any], dict[str, float]]]
"""Trains and evaluates a run, as :func:`~.launch.launch`; tests replace it."""


def plan_runs(rows: Iterable[Row], seeds: Sequence[int], scale: str, benchmark: Any = None) -> list[Plan]:
    """All runs of the rows: every row with the first seed, then with the next; a run comes after the one it uses."""
    plans: dict[str, Plan] = {}
    for number, seed in enumerate(seeds):
        for row in rows:
            if row.seeded or number == 0:
                plan = plan_run(row, seed, scale, benchmark)
                for each in (plan.source, plan):
                    if each is not None:
                        plans.setdefault(each.name, each)
    return list(plans.values())


def missing_runs(
    plans: Sequence[Plan], wanted: Iterable[Row], directory: Path, folders: Sequence[Path]
) -> tuple[list[Plan], list[Plan]]:
    """Splits the plans into missing and finished runs.

    A run whose only purpose is a model for another row counts as finished if its model exists or that row is finished.
    Its result alone may come from another machine and does not help a row that still has to be run.
    """
    names = {row.name for row in wanted}
    done = {plan.name for plan in plans if find_result(plan, folders) is not None}
    missing = {plan.name for plan in plans if plan.row.name in names and plan.name not in done}
    for plan in plans:
        if plan.name in missing and plan.source is not None and not has_model(plan.source, directory):
            missing.add(plan.source.name)
    return (
        [plan for plan in plans if plan.name in missing],
        [plan for plan in plans if plan.name not in missing and plan.row.name in names],
    )


def run_missing(
    plans: Sequence[Plan],
    directory: Path,
    *,
    jobs: int = 1,
    fresh: bool = False,
    inputs: Callable[[Plan], dict[str, str]] = lambda plan: {},
    launch_run: Launch = launch,
    on_progress: Callable[[Plan, str], None] = lambda plan, state: None,
) -> dict[str, str | None]:
    """Runs the plans, ``jobs`` at a time, and writes a result of each; a failed run does not stop the others.

    A run waits for the one whose model it uses. ``fresh`` removes runs of other recipes that occupy a run's folder,
    ``inputs`` returns the hashes of a run's data and models, ``on_progress`` gets a run and its state, one at a time.

    Returns:
        Name of each run -> the reason why it failed, None if it finished.
    """
    interrupted, lock = threading.Event(), threading.Lock()

    def report(plan: Plan, state: str) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt  # ends the run's process; the next call resumes it
        with lock:
            on_progress(plan, state)

    def attempt(plan: Plan, source_failed: bool) -> str | None:
        """Returns the reason if the run failed."""
        try:
            if source_failed:
                raise RunFailed(f"needs the model of {plan.source.name}, which failed.")
            report(plan, "starting")
            if plan.row.computed:
                names = (plan.keys["dataset"], plan.keys["eval_dataset"])
                metrics, phases = mean_box_metrics(Path(local_keys(plan, directory)["dataset_dir"]), *names), {}
            else:
                take_folder(plan, directory, fresh=fresh)
                metrics, phases = launch_run(plan, directory, lambda state: report(plan, state))
            folder = results_folder(directory, plan.scale)
            write_result(plan, folder, metrics, phases=phases, inputs=inputs(plan))
        except (RunFailed, OSError, ValueError) as error:
            report(plan, "failed")
            return str(error)
        report(plan, "finished")
        return None

    waiting: list[Plan] = list(plans)
    running: dict[Future[str | None], Plan] = {}
    reasons: dict[str, str | None] = {}
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
    return {plan.name: reasons[plan.name] for plan in plans}


def _ready(waiting: Sequence[Plan], running: Iterable[Plan]) -> list[Plan]:
    """The runs whose source is trained: a run that waits for another's model occupies none of the ``jobs``."""
    unfinished = {plan.name for plan in (*waiting, *running)}
    return [plan for plan in waiting if plan.source is None or plan.source.name not in unfinished]


def mean_box_metrics(data: Path, train: str, test: str) -> dict[str, Any]:
    """VG of answering with the mean training box of the structure in the question, without looking at the image.

    The miniature's ``facts_*.jsonl`` are used where they exist: they name the structure and box of every row.

    Raises:
        FileNotFoundError: If a data set is not on this machine.
        ValueError: If there is no training box or no question to answer.
    """
    facts = data / f"facts_{test.rsplit('_', 1)[-1]}.jsonl"
    if facts.is_file():
        known = read_jsonl(data / f"facts_{train.rsplit('_', 1)[-1]}.jsonl")
        scores = mean_box_from_facts(known, read_jsonl(facts))
    else:
        scores = mean_box_baseline(*(_first_turns(read_json(data / f"{name}.json")) for name in (train, test)))
    return {"tasks": {"VG": scores}, "average": None, "ci": None, "average_of": [], "notes": []}


def _first_turns(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first question and answer of each ShareGPT row."""
    return [
        {
            "task": row.get("task"),
            "question": row["messages"][0]["content"].replace("<image>", ""),
            "annotation": row["messages"][1]["content"],
            "image": (row.get("images") or [""])[0],
            "modality": row.get("modality"),
        }
        for row in rows
    ]
