# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Twenty ``kill -9`` at random moments, of all processes or of any one: the same command finishes the run.

The shortened form, one kill at a chosen place of each phase, is ``test_survives.py``.
"""

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file
from small_run import losses, recipe, start_recipe, write_recipe

from llamafactory_clinkd.utils.io import read_json, read_jsonl

from .test_survives import PHASES, finished, started


KILLS = 20
KILLS_A_PHASE = 5


def keys(workspace, output_dir, processes):
    return recipe(
        workspace, output_dir, clinkd_phases=",".join(PHASES), per_device_eval_batch_size=1, kd_epochs=3,
        per_device_train_batch_size=1, gradient_accumulation_steps=2 // processes, sasg_candidates=2,
        pseudo_label_samples=8, save_strategy="steps", save_steps=1, save_total_limit=3,
    )  # fmt: skip


def start(path: Path, processes: int) -> subprocess.Popen:
    return start_recipe(path, processes, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)


def workers(process: subprocess.Popen) -> list[psutil.Process]:
    """The processes that run the procedure: those without children that torchrun started, or the command itself."""
    found = []
    for each in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # ended since it was listed
            if "RANK" in each.environ():
                found.append(each)
    return found or [psutil.Process(process.pid)]


def kill(process: subprocess.Popen, victim: str) -> bool:
    """Kills all, or one worker, after which torchrun must end the others by itself; False if the run ended first."""
    if victim == "all":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        with contextlib.suppress(psutil.NoSuchProcess):
            random.choice(workers(process)).kill()
    return process.wait(timeout=90) != 0


def record(output_dir: Path, phase: str) -> dict:
    path = output_dir / "clinkd" / "state.json"
    return read_json(path)["phases"].get(phase, {}) if path.is_file() else {}


def run_and_kill(path: Path, output_dir: Path, processes: int, phase: str, seconds: float) -> str | None:
    """Starts the recipe, and kills it within ``seconds`` of when it began or took up ``phase``.

    Returns:
        The phase in which it died, ``None`` if it ended first.
    """
    attempts = record(output_dir, phase).get("attempts", 0)
    process = start(path, processes)
    try:
        while process.poll() is None and record(output_dir, phase).get("attempts", 0) == attempts:
            time.sleep(0.01)
        time.sleep(random.uniform(0, seconds))
        if process.poll() is None and kill(process, random.choice(["all", "one"])):
            return started(output_dir)[-1]
        assert process.returncode == 0
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.long
@pytest.mark.parametrize("processes", [1, 2])
def test_twenty_kills(workspace, tmp_path, processes):
    random.seed(processes)
    whole = tmp_path / "whole"
    path = write_recipe(tmp_path / "whole.yaml", keys(workspace, whole, processes))
    assert start(path, processes).wait(timeout=300) == 0
    seconds = {phase: record(whole, phase)["seconds"] for phase in PHASES}

    hit = []
    while len(hit) < KILLS:
        killed = tmp_path / f"killed-{len(hit)}"
        path = write_recipe(killed.with_suffix(".yaml"), keys(workspace, killed, processes))
        for phase in PHASES:
            for _ in range(KILLS_A_PHASE):
                if phase not in finished(killed):
                    hit += filter(None, [run_and_kill(path, killed, processes, phase, seconds[phase])])
        assert start(path, processes).wait(timeout=300) == 0
        assert finished(killed) == PHASES
        check_same(killed, whole)
    print(f"{len(hit)} kills: { ({phase: hit.count(phase) for phase in PHASES}) }")
    assert set(hit) == set(PHASES)


def check_same(killed: Path, whole: Path) -> None:
    for name in ("pseudo_labels.jsonl", "corrections/round-1.jsonl", "predictions.jsonl"):
        assert read_jsonl(killed / "clinkd" / name) == read_jsonl(whole / "clinkd" / name), name
    for folder in ("clinkd/distill", "."):
        assert losses(killed / folder) == losses(whole / folder)
        one, two = (load_file(each / folder / "model.safetensors") for each in (killed, whole))
        assert one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one), folder
