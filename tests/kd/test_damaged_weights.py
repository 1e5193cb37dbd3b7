# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Weights that are NaN or infinite: the model and the parameter are named before the first step."""

import shutil

import pytest
import torch
from kd_runs import distil, teacher_adapter
from safetensors.torch import load_file, save_file
from torch import nn

from llamafactory_clinkd.training.lm_head import check_unchanged
from llamafactory_clinkd.utils.models import require_finite_weights


def damage(folder, copy, value, name="model.safetensors", part="q_proj"):
    """A copy of a model or adapter with one value in one weight; returns it and the weight's name."""
    folder = shutil.copytree(folder, copy)
    weights = load_file(folder / name)
    chosen = next(key for key in sorted(weights) if part in key)
    weights[chosen].view(-1)[3] = value
    save_file(weights, folder / name, metadata={"format": "pt"})
    return str(folder), chosen


@pytest.mark.parametrize(
    ("key", "model", "phases", "value"),
    [
        ("model_name_or_path", "student", "distill", float("nan")),
        ("model_name_or_path", "student", "correct", float("-inf")),
        ("ref_model", "teacher", "distill", float("inf")),
        ("ref_model", "teacher", "pseudo_label", float("nan")),
    ],
)
def test_model(small_workspace, tmp_path, key, model, phases, value):
    folder, weight = damage(small_workspace / model, tmp_path / "damaged", value)
    with pytest.raises(ValueError, match="NaN or infinite weights in .*q_proj.*. Expected finite") as found:
        distil(small_workspace, tmp_path / "out", **{key: folder, "clinkd_phases": phases})
    assert f"The model {folder} has" in str(found.value) and weight.rpartition("layers")[2] in str(found.value)


@pytest.mark.parametrize("keys", [{"kd_cache": "hidden"}, {"kd_teacher_offload": True}, {"kd_method": "vkd"}], ids=str)
def test_teacher_of_every_kind(small_workspace, tmp_path, keys):
    folder, _ = damage(small_workspace / "teacher", tmp_path / "damaged", float("nan"))
    with pytest.raises(ValueError, match=f"The model {folder} has NaN or infinite weights in"):
        distil(small_workspace, tmp_path / "out", ref_model=folder, **keys)


def test_adapter_of_the_teacher(small_workspace, tmp_path):
    keys = teacher_adapter(small_workspace, tmp_path / "adapter")
    folder, _ = damage(tmp_path / "adapter", tmp_path / "bad", float("inf"), "adapter_model.safetensors", "lora_A")
    with pytest.raises(ValueError, match=r"of the teacher's adapters .*bad has NaN or infinite weights in .*lora_A"):
        distil(small_workspace, tmp_path / "out", **keys | {"ref_model_adapters": folder})


def test_how_many_parameters_and_what_is_not_looked_at():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    assert require_finite_weights(model, "any") is model
    model.register_parameter("ids", nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False))
    model.register_parameter("none", nn.Parameter(torch.ones(0)))
    model.register_parameter("large", nn.Parameter(torch.full((9,), torch.finfo(torch.bfloat16).max).bfloat16()))
    assert require_finite_weights(model, "any") is model
    with torch.no_grad():
        model[0].weight[1, 1] = float("nan")
        model[1].bias[0] = float("inf")
    with pytest.raises(ValueError, match="The model any has .* in 0.weight and 1 more parameters"):
        require_finite_weights(model, "any")


def test_a_value_that_leaves_the_range_of_its_dtype_is_no_other_head():
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=8,
    )  # fmt: skip
    model, logits = Qwen2ForCausalLM(config), torch.full((1, 1, 1), float("nan"))
    with pytest.raises(ValueError, match="Qwen2ForCausalLM .*torch.float32.* computes NaN or infinite numbers"):
        check_unchanged(model, logits, logits)
    with pytest.raises(ValueError, match="changes its logits after its head"):
        check_unchanged(model, torch.ones(1, 1, 1), torch.zeros(1, 1, 1))
