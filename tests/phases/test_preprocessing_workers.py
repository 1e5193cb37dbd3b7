# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Several preprocessing workers in the second training phase, after torch's threads have started in the first."""

import os
import signal
import subprocess

import pytest
from small_run import build_workspace, recipe, write_recipe

from llamafactory_clinkd.utils.environment import cli_command, cli_environment
from llamafactory_clinkd.utils.io import read_json


@pytest.mark.slow
def test_second_training_phase_preprocesses_with_two_workers(tmp_path):
    """With torch's default number of threads: forked workers must not wait for threads of the first phase."""
    keys = recipe(
        build_workspace(tmp_path / "workspace", own_vocabulary=True), tmp_path / "out",
        clinkd_phases="distill,correct", preprocessing_num_workers=2, correction_rounds=1,
    )  # fmt: skip
    environment = cli_environment()
    environment.pop("OMP_NUM_THREADS", None)
    process = subprocess.Popen(
        cli_command("train", write_recipe(tmp_path / "recipe.yaml", keys)), env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        text, _ = process.communicate(timeout=300)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, text[-3000:]
    phases = read_json(tmp_path / "out" / "clinkd" / "state.json")["phases"]
    assert [record["status"] for record in phases.values()] == ["finished", "finished"]
