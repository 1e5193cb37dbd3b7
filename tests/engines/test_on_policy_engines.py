# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Rollouts of two processes: one process's losses, and a killed run continued, also with another number of them."""

import importlib.util
import shutil

import pytest
import torch
from small_run import copy_as_killed, recipe

from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info
from llamafactory_clinkd.utils.io import read_json, write_json

from .engine_runs import FSDP2, FSDP_ON_CPU, deepspeed_config, fork, launch


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch was built without gloo"),
]
DEEPSPEED = [
    pytest.mark.long,
    pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="the package deepspeed is not installed"),
]
ENGINES = ["fsdp2", *(pytest.param(name, marks=DEEPSPEED) for name in ("zero2", "zero3"))]
PARTS = (
    "loss", "kl_on_policy", "kl_off_policy", "on_policy_share", "rollout_length", "rollout_ended", "rollout_truncated"
)  # fmt: skip
KEYS = {
    "kd_on_policy": 0.6, "kd_rollout_every": 3, "kd_epochs": 2, "pseudo_label_samples": 8, "disable_shuffling": True,
    "eval_dataset": None, "per_device_train_batch_size": 1, "save_strategy": "steps", "save_steps": 2,
}  # fmt: skip


def distil(workspace, out, processes, env, **changes):
    keys = recipe(workspace, out, **KEYS | {"gradient_accumulation_steps": 4 // processes} | changes)
    done = fork(keys, processes=processes, timeout=300, **env)
    assert done.returncode == 0, done.stderr[-4000:]
    entries = read_json(out / "trainer_state.json")["log_history"]
    history = [{key: entry[key] for key in PARTS if key in entry} for entry in entries if "loss" in entry]
    return history, done.stdout + done.stderr


@pytest.fixture
def engine(request, tmp_path):
    """The environment and the recipe keys of an engine that shards parameters, gradients or the optimizer."""
    if request.param == "fsdp2":
        return FSDP2 | {"first": FSDP_ON_CPU}, {}
    return {}, {"deepspeed": deepspeed_config(tmp_path, int(request.param[-1]))}


@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_sharded_ranks_sample_as_one(engine, workspace, tmp_path):
    """Greedy rollouts, whose lengths differ between the ranks, do not depend on the layout of the batches.

    The rows of one rank have no images, so that only the other's need the vision tower, and `cutoff_len` ends its
    answers earlier. That rank's last row is a repeated one.
    """
    env, changes = engine
    rows = read_json(workspace / "data" / "train.json")[:7]
    for number, row in enumerate(rows):
        row["images"] = [str(workspace / "data" / name) for name in row["images"]]
        if number % 2:
            row["images"], question = [], row["messages"][0]
            question["content"] = question["content"].replace("<image>", "")
    write_json(tmp_path / "rows.json", rows)
    write_dataset_info(tmp_path, {"rows": dataset_info_entry("rows.json")})
    greedy = {"kd_rollout_temperature": 0.0, "kd_on_policy": 1.0, "dataset": "rows", "dataset_dir": str(tmp_path)}
    greedy |= {"cutoff_len": 72, "max_new_tokens": 24}
    one, _ = distil(workspace, tmp_path / "one", 1, {}, **greedy)
    two, _ = distil(workspace, tmp_path / "two", 2, env, **greedy, **changes)
    assert len(one) == len(two) == 4
    for ours, theirs in zip(one, two, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-7)
    assert all(0 < entry["rollout_truncated"] < 1 for entry in one if "rollout_truncated" in entry)


@pytest.mark.long
@pytest.mark.parametrize("engine", ENGINES, indirect=True)
def test_killed_inside_a_round_and_continued_equals_one_that_was_not(engine, workspace, tmp_path):
    env, changes = engine
    out, changes = tmp_path / "out", changes | {"gradient_accumulation_steps": 1, "kd_epochs": 1, "kd_on_policy": 0.4}
    whole, _ = distil(workspace, out, 2, env, **changes)
    assert len(whole) == 4 and {entry["on_policy_share"] > 0 for entry in whole} == {True, False}
    assert all((out / "checkpoint-2" / f"rollouts-{rank}.json").is_file() for rank in range(2))
    state = read_json(out / "clinkd" / "state.json")
    state["phases"]["distill"]["status"] = "started"  # as if it had been killed after its second step
    write_json(out / "clinkd" / "state.json", state)
    shutil.rmtree(out / "checkpoint-4")
    continued, printed = distil(workspace, out, 2, env, **changes)
    assert "distill continues" in printed
    for before, after in zip(whole, continued, strict=True):
        assert [after[name] for name in PARTS[:4]] == pytest.approx([before[name] for name in PARTS[:4]], rel=1e-6)


@pytest.mark.long
@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_a_round_continues_on_another_number_of_ranks(workspace, tmp_path, first, then):
    """Inside a round it is refused, with the way out; between two rounds greedy answers continue exactly."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    keys = {"kd_rollout_temperature": 0.0, "kd_on_policy": 1.0, "kd_rollout_every": 2, "save_steps": 1}
    expected, _ = distil(workspace, whole, first, {}, **keys)
    copy_as_killed(whole, cut)
    saved = sorted(path.name for path in (cut / "checkpoint-3").glob("rollouts-*"))
    assert saved == [f"rollouts-{rank}.json" for rank in range(first)]

    changed = recipe(workspace, cut, **KEYS | {"gradient_accumulation_steps": 4 // then} | keys)
    refused = launch(changed, processes=then, timeout=300)
    assert refused.returncode != 0
    text = " ".join(refused.stderr.split())
    assert "checkpoint-3 holds sampled answers for batches of" in text and "remove this checkpoint" in text
    shutil.rmtree(cut / "checkpoint-3")
    continued, printed = distil(workspace, cut, then, {}, **keys)
    assert "each step sees the same rows" in printed and len(continued) == len(expected) == 4
    for before, after in zip(expected, continued, strict=True):
        assert after == pytest.approx(before, rel=1e-4, abs=1e-7)
