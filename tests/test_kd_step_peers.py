# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The benchmark of whole steps at tiny shapes: that each way has its own objective's gradient, not what it costs."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import kd_step_peers
import pytest


@pytest.mark.long
def test_steps_on_one_batch_have_the_gradient_of_their_objective(tmp_path):
    methods = ["ours", "ours_cached", "sft", "authors", "trl_gold"]
    command = [
        sys.executable,
        kd_step_peers.__file__,
        "--length",
        128,
        "--answer",
        8,
        "--hidden",
        64,
        "--dtype",
        "fp32",
    ]
    command += ["--small-vocabulary", "--repeats", 1, "--threads", 1, "--json", tmp_path / "found.json", "--methods"]
    done = subprocess.run(list(map(str, command + methods)), check=True, capture_output=True, text=True, timeout=900)
    table = json.loads((tmp_path / "found.json").read_text())["table"]
    assert list(table) == methods[:4]  # no Python with TRL was named
    assert all(
        row["gradient_error"] < 1e-5 and row["cpu_seconds"] > 0 and row["peak_mib"] > 0 for row in table.values()
    )
    assert done.stdout.count("\n| ") == 5


@pytest.mark.slow
def test_a_process_above_the_memory_limit_is_ended_and_named():
    options = Namespace(threads=1, memory=0.01)
    found = kd_step_peers.run(Path(sys.executable), "batch", {"folder": "unused"}, options)
    assert found == {"failed": "left out: it takes more than 0.01 GiB"}
