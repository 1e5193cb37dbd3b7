# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Half-written checkpoints are recognised, whichever file was cut."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_run import losses, recipe
from transformers import TrainerCallback

from llamafactory_clinkd.phases.checkpoints import (
    checkpoint_fault,
    is_whole_safetensors,
    last_whole_checkpoint,
    remove_broken_checkpoints,
    unsaved_state,
)


def checkpoint(folder, step):
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"a": torch.zeros(50), "b": torch.ones(3, 3)}, path / "model.safetensors")
    torch.save({"state": torch.zeros(40)}, path / "optimizer.pt")
    torch.save({"cpu": torch.zeros(40)}, path / "rng_state_1.pth")
    torch.save({"seed": 1}, path / "training_args.bin")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": []}))
    return path


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def test_whole_one_has_no_fault(tmp_path):
    assert checkpoint_fault(checkpoint(tmp_path, 4)) is None


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "rng_state_1.pth", "training_args.bin", "trainer_state.json"]
)
def test_cut_file_is_named(tmp_path, name, share):
    path = checkpoint(tmp_path, 4)
    cut(path / name, share)
    assert checkpoint_fault(path) == f"{name} is cut off"


def test_missing_state_and_missing_shard(tmp_path):
    path = checkpoint(tmp_path, 4)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-00002.safetensors"}}))
    assert checkpoint_fault(path) == "model-00002.safetensors is missing"
    (path / "trainer_state.json").unlink()
    assert checkpoint_fault(path) == "trainer_state.json is missing"


def test_state_of_another_step(tmp_path):
    path = checkpoint(tmp_path, 4).rename(tmp_path / "checkpoint-6")
    assert checkpoint_fault(path) == "trainer_state.json is of step 4"


def test_last_whole_one_is_taken_and_broken_ones_go(tmp_path):
    for step in (2, 10, 12):
        checkpoint(tmp_path, step)
    cut(tmp_path / "checkpoint-12" / "optimizer.pt")
    (tmp_path / "checkpoint-best").mkdir()  # somebody else's
    assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    remove_broken_checkpoints(tmp_path, SimpleNamespace())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-2", "checkpoint-best"]
    assert last_whole_checkpoint(tmp_path / "nowhere") is None


def test_safetensors_without_tensors_is_whole(tmp_path):
    save_file({}, tmp_path / "empty.safetensors")
    assert is_whole_safetensors(tmp_path / "empty.safetensors")


def test_checkpoint_of_the_model_alone_is_not_continued_from(tmp_path):
    """transformers would load the weights and start with a fresh optimizer."""
    (checkpoint(tmp_path, 4) / "optimizer.pt").unlink()
    assert "`save_only_model: true` writes none" in checkpoint_fault(tmp_path / "checkpoint-4")
    assert last_whole_checkpoint(tmp_path) is None


@pytest.mark.parametrize("key", ["use_badam", "galore_layerwise", "apollo_layerwise"])
def test_checkpoint_without_all_of_the_optimizer_is_removed_with_its_reason(tmp_path, key, caplog):
    checkpoint(tmp_path, 4)
    finetuning = SimpleNamespace(**{key: True})
    assert unsaved_state(finetuning) == f"{key}: true" and unsaved_state(SimpleNamespace(use_badam=False)) is None
    with caplog.at_level("WARNING", logger="llamafactory_clinkd"):
        remove_broken_checkpoints(tmp_path, finetuning)
    assert not any(tmp_path.iterdir())
    assert f"`{key}: true` keeps state of the optimizer elsewhere: the phase starts again" in caplog.text


@pytest.mark.slow
def test_badam_killed_and_resumed_starts_the_phase_again(workspace, tmp_path, caplog):
    """BAdam's checkpoints lack its block, so none is continued from: the result is that of one run."""
    pytest.importorskip("badam")
    from llamafactory.train.tuner import run_exp

    class Kill(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step == 3:
                raise InterruptedError

    changes = {"use_badam": True, "badam_switch_interval": 1, "save_strategy": "steps", "save_steps": 1}
    changes |= {"clinkd_phases": "distill", "kd_epochs": 2, "eval_dataset": None}
    run_exp(recipe(workspace, tmp_path / "whole", **changes))
    with pytest.raises(InterruptedError):
        run_exp(recipe(workspace, tmp_path / "killed", **changes), [Kill()])
    assert (tmp_path / "killed" / "checkpoint-3").is_dir()
    with caplog.at_level("WARNING", logger="llamafactory_clinkd"):
        run_exp(recipe(workspace, tmp_path / "killed", **changes))
    assert "checkpoint-3 is removed: `use_badam: true` keeps state of the optimizer elsewhere" in caplog.text
    assert len(losses(tmp_path / "whole")) == 4 and losses(tmp_path / "killed") == losses(tmp_path / "whole")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("killed", "whole"))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
