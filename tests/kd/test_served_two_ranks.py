# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``kd_teacher_base_url`` with two processes: they share the rows, end together, and train as one process does."""

import kd_runs
import pytest
from kd_runs import history
from safetensors import safe_open
from score_server import ScoreServer
from small_run import llamafactory_cli, recipe, write_recipe

from llamafactory_clinkd.utils.io import read_json


pytest.importorskip("openai", reason="the openai client is not installed")
pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]  # test_served_run.py has one process
TWO = {"FORCE_TORCHRUN": "1", "NPROC_PER_NODE": "2", "HF_HUB_OFFLINE": "1"}
ROWS = 8


def test_two_ranks_score_each_row_once_and_end_together(small_workspace, tmp_path):
    keys = {
        "ref_model": None, "rope_variant": "mrope", "kd_temperature": 1, "disable_shuffling": True, "kd_epochs": 2,
        "per_device_train_batch_size": 1, "eval_dataset": None, "use_cpu": True,
    }  # fmt: skip
    with ScoreServer(small_workspace / "teacher") as server:
        keys |= {"kd_teacher_base_url": server.url}
        one = kd_runs.distil(small_workspace, tmp_path / "one", **keys | {"gradient_accumulation_steps": 4})
        two, keys = tmp_path / "two", keys | {"gradient_accumulation_steps": 2}
        path = write_recipe(tmp_path / "two.yaml", recipe(small_workspace, two, **keys))
        server.asked.clear()

        server.fault = lambda number, attempt: "closed" if number == ROWS - 1 else None  # a row of one rank
        failed = llamafactory_cli("train", str(path), env=TWO)
        assert failed.returncode != 0
        assert "rows have no scores: 1 with http_503" in failed.stdout + failed.stderr
        assert read_json(two / "clinkd" / "state.json")["phases"]["distill"]["status"] == "started"
        kept = scored(two)
        assert len(kept) == len(set(kept)) == ROWS - 1

        server.fault = lambda number, attempt: None
        done = llamafactory_cli("train", str(path), env=TWO)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert sorted(scored(two)) == sorted(set(scored(one))) and len(scored(two)) == ROWS
    assert {path.name[:17] for path in shards(two)} == {"hidden-rank00000-", "hidden-rank00001-"}
    assert len(history(one)) == len(history(two)) > 1
    for ours, theirs in zip(history(two), history(one), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)  # sums of fp32 in another order


def shards(folder):
    return sorted((folder / "clinkd" / "served_teacher").glob("*.safetensors"))


def scored(folder):
    """The keys of the kept scores; a row that two ranks scored is there twice."""
    keys = []
    for path in shards(folder):
        with safe_open(path, "pt") as shard:
            keys += shard.keys()
    return keys
