# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``kill -9`` in every phase: the same command finishes the run, with an uninterrupted run's phases and rows."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
import warm_cli
from small_run import llamafactory_cli, losses, recipe, write_recipe

from llamafactory_clinkd.utils.io import read_jsonl


PHASES = ["pseudo_label", "distill", "correct", "predict"]


def keys(workspace, output_dir):
    return recipe(
        workspace, output_dir, clinkd_phases=",".join(PHASES), per_device_eval_batch_size=1, kd_epochs=2,
        per_device_train_batch_size=1, pseudo_label_samples=6, sasg_candidates=2,
    )  # fmt: skip


def finished(output_dir: Path) -> list[str]:
    path = output_dir / "clinkd" / "state.json"
    phases = json.loads(path.read_text(encoding="utf-8"))["phases"] if path.is_file() else {}
    return [name for name, phase in phases.items() if phase["status"] == "finished"]


def started(output_dir: Path) -> list[str]:
    path = output_dir / "clinkd" / "state.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["phases"]) if path.is_file() else []


def kill_when(recipe_path: Path, output_dir: Path, phase: str, sign: str) -> None:
    """Runs the recipe and kills its whole process group as soon as ``sign`` (a glob in ``output_dir``) is there."""
    process = warm_cli.start("train", recipe_path)
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and process.exitcode is None:
        if phase in started(output_dir) and any(output_dir.glob(sign)):
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.01)
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"the run ended with {process.exitcode} before {sign} was seen"


@pytest.mark.slow
def test_killed_in_every_phase(workspace, tmp_path):
    killed, uninterrupted = tmp_path / "killed", tmp_path / "uninterrupted"
    path = write_recipe(tmp_path / "recipe.yaml", keys(workspace, killed))
    for phase, sign in [
        ("pseudo_label", "clinkd/pseudo_label/answers.jsonl.rank0"),
        ("distill", "clinkd/distill/checkpoint-*/trainer_state.json"),
        ("correct", "clinkd/corrections/round-1.outputs.jsonl*"),
        ("correct", "clinkd/corrections/round-1.summary.json"),
        ("predict", "clinkd/predict/answers.jsonl.rank0"),
    ]:
        kill_when(path, killed, phase, sign)
        assert finished(killed) == PHASES[: PHASES.index(phase)]

    last = llamafactory_cli("train", str(path), fresh=True)  # with another seed of `hash`
    assert last.returncode == 0, last.stderr[-3000:]
    assert finished(killed) == PHASES
    assert "pseudo_label is finished already, skipped" in last.stdout + last.stderr

    other = write_recipe(tmp_path / "other.yaml", keys(workspace, uninterrupted))
    assert llamafactory_cli("train", str(other)).returncode == 0
    for name in ("pseudo_labels.jsonl", "corrections/round-1.jsonl", "predictions.jsonl"):
        assert read_jsonl(killed / "clinkd" / name) == read_jsonl(uninterrupted / "clinkd" / name), name
    assert losses(killed / "clinkd" / "distill") == losses(uninterrupted / "clinkd" / "distill")
    assert losses(killed) == losses(uninterrupted)
