# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Distillation by two processes."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from engines.engine_runs import fork
from kd_runs import history, teacher_adapter
from safetensors.torch import load_file
from small_run import recipe

from llamafactory_clinkd.kd.teacher_cache import HEAD_NAME
from llamafactory_clinkd.kd.vkd import PROJECTOR_FILE
from llamafactory_clinkd.utils.io import read_json, write_json


pytestmark = pytest.mark.slow
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
)
ZERO_3 = {
    "train_batch_size": "auto",
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "zero_allow_untested_optimizer": True,
    "zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True},
}
EXACT = 1e-4  # sums of fp32 in another order


def distil(workspace: Path, output_dir: Path, processes: int = 1, **changes) -> str:
    """Runs a recipe in processes of its own; returns what it printed."""
    keys = recipe(
        workspace,
        output_dir,
        **{"kd_epochs": 2, "per_device_train_batch_size": 1, "eval_dataset": None, "kd_alpha": 0.7} | changes,
    )
    run = fork(keys, processes=processes)
    assert run.returncode == 0, (run.stdout + run.stderr)[-3000:]
    return run.stdout + run.stderr


def assert_same(one: Path, two: Path, rel: float = EXACT) -> None:
    assert len(history(one)) == len(history(two)) > 1
    for ours, theirs in zip(history(one), history(two), strict=True):
        assert ours == pytest.approx(theirs, rel=rel)


@pytest.mark.long  # tests/engines has accumulation on two ranks in the whole procedure
def test_two_ranks_accumulate_as_one(small_workspace, tmp_path):
    keys = {"disable_shuffling": True}
    distil(small_workspace, tmp_path / "one", gradient_accumulation_steps=4, **keys)
    distil(small_workspace, tmp_path / "two", 2, gradient_accumulation_steps=2, **keys)
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.long
def test_two_ranks_share_the_cache(small_workspace, tmp_path):
    distil(small_workspace, tmp_path / "live", 2, kd_epochs=3)
    printed = distil(small_workspace, tmp_path / "cached", 2, kd_epochs=3, kd_cache="hidden")
    assert history(tmp_path / "cached") == history(tmp_path / "live")
    assert "is loaded for samples that the cache" not in printed, "a rank did not see what the other computed"
    names = sorted(path.name for path in (tmp_path / "cached" / "clinkd" / "teacher_cache").iterdir())
    assert names[0] == HEAD_NAME and {name[:17] for name in names[1:]} == {"hidden-rank00000-", "hidden-rank00001-"}


@needs_deepspeed
@pytest.mark.long  # tests/engines has the whole procedure under ZeRO-3
@pytest.mark.parametrize("cache", ["off", "hidden"])
def test_zero_3_partitions_both_models(small_workspace, tmp_path, cache):
    (tmp_path / "zero3.json").write_text(json.dumps(ZERO_3))
    distil(small_workspace, tmp_path / "plain", 2)
    distil(small_workspace, tmp_path / "zero3", 2, deepspeed=str(tmp_path / "zero3.json"), kd_cache=cache)
    assert_same(tmp_path / "plain", tmp_path / "zero3")


@needs_deepspeed
@pytest.mark.parametrize("stage", [pytest.param(2, marks=pytest.mark.long), 3])
def test_vkd_under_deepspeed_is_vkd_without_it_and_resumes(small_workspace, tmp_path, stage):
    """The projection has its own optimiser there; nothing is clipped, for that is done apart there."""
    config = ZERO_3 | {"zero_optimization": ZERO_3["zero_optimization"] | {"stage": stage}}
    (tmp_path / "zero.json").write_text(json.dumps(config))
    keys = {
        "kd_method": "vkd", "disable_shuffling": True, "learning_rate": 1e-2, "max_grad_norm": 1e9,
        "save_strategy": "steps", "save_steps": 1, "weight_decay": 0.1,
    }  # fmt: skip
    one, two = tmp_path / "one", tmp_path / "two"
    distil(small_workspace, one, gradient_accumulation_steps=4, **keys)
    keys |= {"deepspeed": str(tmp_path / "zero.json"), "gradient_accumulation_steps": 2}
    distil(small_workspace, two, 2, **keys)
    parts = ("loss", "ce", "vkd")
    whole = history(two, parts)
    assert len(whole) == 4 and whole[0]["vkd"] != pytest.approx(whole[-1]["vkd"], rel=1e-3)
    for ours, theirs in zip(history(one, parts), whole, strict=True):
        assert ours == pytest.approx(theirs, rel=EXACT)
    projections = [load_file(folder / "checkpoint-4" / PROJECTOR_FILE) for folder in (one, two)]
    name = "projection.parametrizations.weight.original"
    assert torch.allclose(*(each[name] for each in projections), rtol=1e-3, atol=1e-6)
    assert not any("vkd" in key for key in load_file(two / "model.safetensors"))

    state = read_json(two / "clinkd" / "state.json")
    state["phases"]["distill"]["status"] = "started"  # as if it had been killed after its second step
    write_json(two / "clinkd" / "state.json", state)
    for step in (3, 4):
        shutil.rmtree(two / f"checkpoint-{step}")
    printed = distil(small_workspace, two, 2, **keys)
    assert "ClinKD phase 1/1: distill continues" in printed
    assert history(two, parts) == whole


@pytest.mark.long  # tests/kd/test_shared_tower.py has one rank
@pytest.mark.parametrize("engine", ["ddp", pytest.param("zero3", marks=needs_deepspeed)])
def test_a_teacher_over_the_students_base(engine, small_workspace, tmp_path):
    (tmp_path / "zero3.json").write_text(json.dumps(ZERO_3))
    keys = teacher_adapter(small_workspace, tmp_path / "adapter") | {"disable_shuffling": True}
    zero3 = {"deepspeed": str(tmp_path / "zero3.json")} if engine == "zero3" else {}
    distil(small_workspace, tmp_path / "one", gradient_accumulation_steps=4, **keys)
    printed = distil(small_workspace, tmp_path / "two", 2, gradient_accumulation_steps=2, **keys | zero3)
    assert_same(tmp_path / "one", tmp_path / "two")
    assert ("it runs once for teacher and student" in printed) == (engine == "ddp")


def test_two_ranks_sample_as_one(small_workspace, tmp_path):  # tests/engines has FSDP2 and ZeRO-3
    """Greedy rollouts, whose lengths differ between the ranks, do not depend on the layout of the batches."""
    keys = {"disable_shuffling": True, "kd_on_policy": 1.0, "kd_rollout_temperature": 0.0, "kd_rollout_every": 2}
    distil(small_workspace, tmp_path / "one", gradient_accumulation_steps=4, **keys)
    distil(small_workspace, tmp_path / "two", 2, gradient_accumulation_steps=2, **keys)
    parts = ("loss", "kl_on_policy", "rollout_length", "rollout_ended")
    assert len(history(tmp_path / "one", parts)) > 1
    for ours, theirs in zip(history(tmp_path / "one", parts), history(tmp_path / "two", parts), strict=True):
        assert ours == pytest.approx(theirs, rel=EXACT)
