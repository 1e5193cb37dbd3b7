# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``kill -9`` in every phase: the same command finishes the run, with an uninterrupted run's phases and rows."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
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
    return [name for name in PHASES if phases.get(name, {}).get("status") == "finished"]


def started(output_dir: Path) -> list[str]:
    path = output_dir / "clinkd" / "state.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["phases"]) if path.is_file() else []


def kill_when(command: list[str], output_dir: Path, phase: str, sign: str) -> None:
    """Runs the command and kills its whole process group as soon as ``sign`` (a glob in ``output_dir``) is there."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and process.poll() is None:
        if phase in started(output_dir) and any(output_dir.glob(sign)):
            os.killpg(process.pid, signal.SIGKILL)
            break
        time.sleep(0.01)
    process.wait()
    assert process.returncode == -signal.SIGKILL, f"the run ended with {process.returncode} before {sign} was seen"


@pytest.mark.slow
def test_killed_in_every_phase(workspace, tmp_path):
    disturbed, preserve_training_state = tmp_path / "disturbed", tmp_path / "preserve_training_state"
    path = write_recipe(tmp_path / "recipe.yaml", keys(workspace, disturbed))
    command = [str(Path(sys.executable).with_name("llamafactory-cli")), "train", str(path)]
    for phase, sign in [
        ("pseudo_label", "clinkd/pseudo_label/answers.jsonl.rank0"),
        ("distill", "clinkd/distill/checkpoint-*/trainer_state.json"),
        ("correct", "clinkd/corrections/round-1.outputs.jsonl*"),
        ("correct", "clinkd/corrections/round-1.summary.json"),
        ("predict", "clinkd/predict/answers.jsonl.rank0"),
    ]:
        kill_when(command, disturbed, phase, sign)
        assert finished(disturbed) == PHASES[: PHASES.index(phase)]

    last = llamafactory_cli("train", str(path))
    assert last.returncode == 0, last.stderr[-3000:]
    assert finished(disturbed) == PHASES
    assert "pseudo_label is finished already, skipped" in last.stdout + last.stderr

    other = write_recipe(tmp_path / "other.yaml", keys(workspace, preserve_training_state))
    assert llamafactory_cli("train", str(other)).returncode == 0
    for name in ("pseudo_labels.jsonl", "corrections/round-1.jsonl", "predictions.jsonl"):
        assert read_jsonl(disturbed / "clinkd" / name) == read_jsonl(preserve_training_state / "clinkd" / name), name
    assert losses(disturbed / "clinkd" / "distill") == losses(preserve_training_state / "clinkd" / "distill")
    assert losses(disturbed) == losses(preserve_training_state)
