# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""All phases under each engine: every row once and in order, and the losses of a single process."""

import importlib.util

import pytest
import torch

from .engine_runs import FSDP2, FSDP_ON_CPU, deepspeed_config, fork, keys_for, launch, results


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo"),
]
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="the package deepspeed is not installed"
)

LEAVES = {
    "ddp": "optimizer.pt",
    "zero2": "global_step*/zero_pp_rank_1_mp_rank_00_optim_states.pt",
    "zero3": "global_step*/zero_pp_rank_1_mp_rank_00_model_states.pt",
    "fsdp2": "optimizer.bin",
}


def check_same(found, expected):
    for key in ("labelled", "pseudo_labels", "recorded", "answered", "candidates", "left_over"):
        assert found[key] == expected[key], key
    assert expected["left_over"] == []
    for key in ("distill", "correct"):
        assert found[key] == pytest.approx(expected[key], rel=1e-5), key


@pytest.mark.parametrize(
    "engine",
    [
        "ddp",
        pytest.param("zero2", marks=[needs_deepspeed, pytest.mark.long]),
        pytest.param("zero3", marks=needs_deepspeed),
        "fsdp2",
    ],
)
def test_two_processes_are_one(engine, workspace, tmp_path, alone):
    changes = {"deepspeed": deepspeed_config(tmp_path, int(engine[-1]))} if engine.startswith("zero") else {}
    keys = keys_for(workspace, tmp_path / "out", processes=2, window=4, **changes)
    if engine == "ddp":
        done = launch(keys, processes=2)
    else:
        done = fork(keys, processes=2, **FSDP2 | {"first": FSDP_ON_CPU} if engine == "fsdp2" else {})
    assert done.returncode == 0, done.stderr[-4000:]
    assert list((tmp_path / "out").glob(f"checkpoint-*/{LEAVES[engine]}")), "another engine ran"
    check_same(results(tmp_path / "out"), alone(4))


@pytest.mark.long  # two processes are in the suite
def test_three_processes_share_eight_rows(workspace, tmp_path, alone):
    """Eight rows in windows of three: the last step sees two, and nobody trains on a row twice."""
    done = launch(keys_for(workspace, tmp_path / "out", processes=3, window=3), processes=3)
    assert done.returncode == 0, done.stderr[-4000:]
    check_same(results(tmp_path / "out"), alone(3))
