# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""LoRA over a model that bitsandbytes holds in 4 bits, on the CPU."""

import importlib.util

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from llamafactory_clinkd.rope import read_rope_config, rope_settings
from llamafactory_clinkd.rope.mixed import FILE, NAME

from .runs import chat, generated, infer_keys, prompt_of, train, training_logits


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("bitsandbytes") is None,
        reason="bitsandbytes is not installed: pip install 'llamafactory-clinkd[quant]'",
    ),
]
QUANTIZED = {"finetuning_type": "lora", "lora_rank": 2, "lora_target": "q_proj,v_proj", "quantization_bit": 4}


class Look(TrainerCallback):
    """Notes which parameters the optimiser holds."""

    def __init__(self):
        self.held = []

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        self.held = [name for name, parameter in model.named_parameters() if id(parameter) in held]


@pytest.mark.parametrize("variant", ["mcg", "rope_mixed"])
def test_trained_and_asked_in_four_bits(variant, sharp_workspace, tmp_path):
    from llamafactory.chat import ChatModel

    train(sharp_workspace, tmp_path, rope_variant=variant, **QUANTIZED)
    assert read_rope_config(tmp_path)["variant"] == variant
    keys = {"adapter_name_or_path": str(tmp_path), "finetuning_type": "lora", "quantization_bit": 4}
    engine = ChatModel(infer_keys(sharp_workspace / "student", **keys))
    kinds = {type(module).__name__ for module in engine.engine.model.modules()}
    assert "Linear4bit" in kinds, "the model was not quantised"
    assert rope_settings(engine.engine.model)["variant"] == variant

    image = sharp_workspace / "data" / "images" / "ct_004.png"
    answer, logits = chat(engine, image)
    prompt = prompt_of(engine.engine, [str(image)])
    new, _ = generated(engine.engine, prompt, image)
    assert engine.engine.tokenizer.decode(new, skip_special_tokens=True) == answer
    forward = training_logits(engine.engine, prompt, new, image)
    assert torch.allclose(logits.float(), forward.float(), atol=1e-4 * forward.float().abs().max().item() + 1e-4)


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_learned_frequencies_are_in_the_optimiser_though_the_tower_is_frozen(tuning, sharp_workspace, tmp_path):
    look = Look()
    changes = {} if tuning == "full" else {key: QUANTIZED[key] for key in QUANTIZED if key != "quantization_bit"}
    train(sharp_workspace, tmp_path, [look], rope_variant="rope_mixed", freeze_vision_tower=True, **changes)
    in_tower = [name for name in look.held if "visual.blocks" in name]
    assert len(in_tower) == 2 and all(name.rpartition(".")[2] == NAME for name in in_tower)
    assert len(look.held) > 2
    assert all(delta.abs().max() > 1e-4 for delta in load_file(tmp_path / FILE).values())
