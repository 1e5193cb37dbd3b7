# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One run: ``llamafactory-cli train recipe.yaml`` in a process of its own, its log in the run's folder."""

import fcntl
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from ..arguments import TRAINING_PHASES
from ..utils.environment import cli_command, run_logged
from ..utils.io import read_json
from .row_recipes import Plan, hash_line, run_folder, write_recipe


LAST_LINES = 12
_BREAK = re.compile(r"[\r\n]+")


class RunFailed(RuntimeError):
    """A run without a result; the message is for the user."""


def launch(plan: Plan, directory: Path, on_phase: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, float]]:
    """Trains and evaluates, or resumes; returns metrics, and phase -> seconds.

    Raises:
        RunFailed: With the last lines of the log.
    """
    folder = run_folder(plan, directory)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    changes = {"LLAMAFACTORY_VERBOSITY": os.environ.get("LLAMAFACTORY_VERBOSITY", "WARN")}
    if plan.scale == "mini":
        changes["OMP_NUM_THREADS"] = "1"  # the number of threads changes roundings
    with open(log, "ab") as file:
        _take_alone(file, folder)
        write_recipe(plan, directory)
        command = cli_command("train", folder / "recipe.yaml")
        code = run_logged(command, file, lambda: on_phase(_phase(folder)), **changes)
    if code != 0:
        raise RunFailed(f"ended with {code}; the end of {log}:\n{last_lines(log)}")
    metrics = folder / "clinkd" / "metrics.json"
    if not metrics.is_file():
        raise RunFailed(f"wrote no {metrics}: `clinkd_phases` has to end with evaluate.")
    for checkpoint in [*folder.glob("checkpoint-*"), *(folder / "clinkd").glob("*/checkpoint-*")]:
        shutil.rmtree(checkpoint)  # the model is kept
    phases = read_json(folder / "clinkd" / "state.json")["phases"]
    return read_json(metrics), {name: phase["seconds"] for name, phase in phases.items()}


def _take_alone(log: BinaryIO, folder: Path) -> None:
    """Locks the log; the training process inherits the lock and holds it even if this one is killed."""
    try:
        fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RunFailed(f"is running in {folder}, in another process. Wait until it ends.") from error


def take_folder(plan: Plan, directory: Path, *, fresh: bool) -> None:
    """Checks that the run's folder is empty or holds an earlier attempt at exactly this run; ``fresh`` clears it."""
    folder = run_folder(plan, directory)
    left = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if left in ([], ["log.txt"]) or _is_same(plan, directory):
        return
    if not fresh:
        raise RunFailed(f"{folder} holds a run of another recipe, data set or model. Remove it, or use `--fresh`.")
    shutil.rmtree(folder)


def has_model(plan: Plan, directory: Path) -> bool:
    """Whether another row can predict with this run's model."""
    state = run_folder(plan, directory) / "clinkd" / "state.json"
    if not (state.is_file() and _is_same(plan, directory)):
        return False
    phases = read_json(state)["phases"]
    return all(
        phases.get(name, {}).get("status") == "finished"
        for name in TRAINING_PHASES
        if name in plan.keys["clinkd_phases"]
    )


def _is_same(plan: Plan, directory: Path) -> bool:
    """Whether the run's folder was made by exactly this recipe, data and models: its recipe.yaml has their hash."""
    recipe = run_folder(plan, directory) / "recipe.yaml"
    return recipe.is_file() and hash_line(plan) in recipe.read_text(encoding="utf-8").splitlines()


def last_lines(log: Path) -> str:
    """The end of a log; a progress bar counts as one line, its last state."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.rstrip() for line in _BREAK.split(text) if line.strip()]
    return "\n".join(lines[-LAST_LINES:])


def _phase(folder: Path) -> str:
    """The current phase, from the run's state file."""
    state = folder / "clinkd" / "state.json"
    phases = read_json(state)["phases"] if state.is_file() else {}
    started = [name for name, phase in phases.items() if phase["status"] == "started"]
    return started[-1] if started else "starting"
