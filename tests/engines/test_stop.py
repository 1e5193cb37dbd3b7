# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""SIGTERM to one of two ranks: both stop at the same step with a checkpoint, and the same command goes on."""

import signal
import subprocess
import time

import psutil
import pytest

from llamafactory_clinkd.phases.checkpoints import checkpoint_fault, checkpoints_in
from llamafactory_clinkd.utils.io import read_json

from .engine_runs import keys_for, launch, results, start


pytestmark = pytest.mark.slow


def test_one_rank_told_to_stop_stops_both(workspace, tmp_path, alone):
    out = tmp_path / "out"
    keys = keys_for(workspace, out, processes=2)
    log, state = tmp_path / "log.txt", out / "clinkd" / "state.json"
    with open(log, "w") as file:  # a pipe that nobody reads meanwhile would fill up and stop the run
        process = start(keys, processes=2, stdout=file, stderr=subprocess.STDOUT)
    while process.poll() is None and not (state.is_file() and "distill" in read_json(state)["phases"]):
        time.sleep(0.01)
    below = psutil.Process(process.pid).children(recursive=True)
    (second,) = [each for each in below if each.environ().get("RANK") == "1"]
    second.send_signal(signal.SIGTERM)
    process.wait(timeout=200)
    text = log.read_text()
    assert process.returncode != 0
    assert "Stopped by SIGTERM at phase distill" in text, text[-3000:]
    assert read_json(state)["phases"]["distill"]["status"] == "started"
    found = checkpoints_in(out / "clinkd" / "distill")
    if "a checkpoint was saved" in text:  # else the signal came while the models were loaded
        assert len(found) == 1 and checkpoint_fault(found[0]) is None
        assert {path.name for path in found[0].glob("rng_state_*")} == {"rng_state_0.pth", "rng_state_1.pth"}

    done = launch(keys, processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = alone(2)
    again = results(out)
    for key in ("labelled", "pseudo_labels", "recorded", "answered", "candidates", "left_over"):
        assert again[key] == expected[key], key
    assert again["distill"] == pytest.approx(expected["distill"], rel=1e-5)
    assert again["correct"] == pytest.approx(expected["correct"], rel=1e-5)
