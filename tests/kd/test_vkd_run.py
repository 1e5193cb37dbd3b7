# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``kd_method: vkd`` in the real recipe."""

import json

import pytest
import torch
from kd_runs import StopAt, distil, same_bits, weights
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForImageTextToText, TrainerCallback

from llamafactory_clinkd.kd.separate_optimizer import attach_non_persistent
from llamafactory_clinkd.kd.vkd import PROJECTOR_FILE


pytestmark = pytest.mark.usefixtures("one_thread")


class Look(TrainerCallback):
    """Notes the projection's weight at every step, and whether the optimizer holds its parameters."""

    def __init__(self):
        self.weights, self.held = [], []

    def on_step_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        projector = model.clinkd_vkd.module
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        self.held += [id(parameter) in held for parameter in projector.parameters()]
        self.weights.append(projector.projection.weight.detach().clone())


def logged(folder):
    state = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))
    return [entry for entry in state["log_history"] if "loss" in entry]


def test_the_projection_trains_and_leaves_no_trace(small_workspace, tmp_path):
    look = Look()
    out = distil(small_workspace, tmp_path, [look], kd_method="vkd", kd_alpha=0.7, save_steps=1, save_strategy="steps")
    assert look.held and all(look.held)
    first, last = look.weights[0], look.weights[-1]
    assert first.shape == (128, 64) and not torch.allclose(first, last)
    torch.testing.assert_close(last.t() @ last, torch.eye(64), atol=1e-5, rtol=0)
    for entry in logged(out):
        assert entry["loss"] == pytest.approx((entry["ce"] + 0.7 * entry["vkd"]) / 1.7, rel=1e-5)
    assert {entry["vkd"] for entry in logged(out)} != {0.0}

    saved = [path for path in out.rglob("*") if path.is_file()]
    assert [path.parent.name for path in saved if path.name == PROJECTOR_FILE] != []
    assert all(path.parent.name.startswith("checkpoint-") for path in saved if path.name == PROJECTOR_FILE)
    for path in (path for path in saved if path.name == "model.safetensors"):
        assert not any("vkd" in name for name in load_file(path)), path
    stock = AutoModelForImageTextToText.from_pretrained(out, output_loading_info=True)[1]
    assert not stock["missing_keys"] and not stock["unexpected_keys"]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"finetuning_type": "lora", "lora_rank": 2, "kd_cache": "hidden"}], ids=str)
def test_a_resumed_run_is_the_undisturbed_one(small_workspace, tmp_path, changes):
    keys = {"kd_method": "vkd", "save_strategy": "steps", "save_steps": 1, **changes}
    name = "adapter_model.safetensors" if "lora_rank" in changes else "model.safetensors"
    whole = distil(small_workspace, tmp_path / "whole", **keys)
    with pytest.raises(StopAt.Stopped):
        distil(small_workspace, tmp_path / "killed", [StopAt(3)], **keys)
    killed = distil(small_workspace, tmp_path / "killed", **keys)
    assert [e["vkd"] for e in logged(killed)] == [e["vkd"] for e in logged(whole)]
    assert same_bits(weights(killed, name), weights(whole, name))
    assert not any("vkd" in key for key in weights(whole, name))


def test_a_model_is_whole_without_what_rides_on_it(tmp_path):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def save_pretrained(self, folder, state_dict=None):
            self.saved = self.state_dict() if state_dict is None else state_dict

    model, other = Model(), Model()
    before = set(model.state_dict())
    attach_non_persistent(model, "extra", nn.Linear(3, 3))
    assert set(model.state_dict()) == before
    assert len(list(model.parameters())) == 4
    model.load_state_dict(other.state_dict())
    with pytest.raises(RuntimeError, match="linear.bias"):
        model.load_state_dict({"linear.weight": torch.zeros(2, 2)})
    model.save_pretrained(tmp_path)
    assert set(model.saved) == before
    model.save_pretrained(tmp_path, state_dict=dict(model.named_parameters()))
    assert set(model.saved) == before
