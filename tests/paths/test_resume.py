# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A run that dies between two checkpoints and is started again ends with the weights of an uninterrupted one."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from llamafactory_clinkd.rope.mixed import FILE

from .runs import train


pytestmark = pytest.mark.slow
LORA = {"finetuning_type": "lora", "lora_rank": 2, "lora_target": "q_proj,v_proj"}


class PowerCut(TrainerCallback):
    """Ends the process's training, as a power cut would, at the start of the second epoch."""

    def on_epoch_begin(self, args, state, control, **kwargs):
        if state.epoch and state.epoch >= 1:
            raise ConnectionAbortedError("power cut")


def weights(folder):
    return load_file(next(folder.glob("*model.safetensors")))


@pytest.mark.parametrize("tuning", ["full", "lora"])
@pytest.mark.parametrize("variant", ["mcg", "rope_mixed"])
def test_resumed_weights_are_those_of_an_uninterrupted_run(variant, tuning, sharp_workspace, tmp_path):
    keys = {"rope_variant": variant, "kd_epochs": 2, **(LORA if tuning == "lora" else {})}
    uninterrupted = train(sharp_workspace, tmp_path / "uninterrupted", **keys)
    with pytest.raises(ConnectionAbortedError):
        train(sharp_workspace, tmp_path / "resumed", [PowerCut()], **keys)
    first = tmp_path / "resumed" / "checkpoint-1"
    resumed = train(sharp_workspace, tmp_path / "resumed", **keys)

    expected, found = weights(uninterrupted), weights(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)
    assert any(not torch.allclose(weights(first)[name], expected[name], atol=1e-4) for name in expected)
    if variant == "rope_mixed":
        learned = load_file(uninterrupted / FILE)
        assert all(torch.allclose(load_file(resumed / FILE)[name], learned[name], atol=1e-6) for name in learned)
        assert any(not torch.allclose(load_file(first / FILE)[name], learned[name], atol=1e-4) for name in learned)
