# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Attention maps of Qwen3-VL, and of Qwen3.5, whose layers of linear attention have no weights to show."""

import copy
from types import SimpleNamespace

import pytest
import torch
from rope.test_frames import KINDS, MODELS, inputs_of_frames

from llamafactory_clinkd.attention import attention_map
from llamafactory_clinkd.attention.answer_attention import box_frame
from llamafactory_clinkd.rope import apply_rope

from .test_maps import ROWS, WANTED


@pytest.mark.parametrize("kind", KINDS)
def test_the_map_is_that_of_the_eager_model(kind):
    inputs, model = inputs_of_frames(ROWS), apply_rope(copy.deepcopy(MODELS[kind]), "mcg")
    eager, seen = copy.deepcopy(model), []
    eager.set_attn_implementation("eager")
    for layer in eager.model.language_model.layers:
        if hasattr(layer, "self_attn"):
            layer.self_attn.register_forward_hook(lambda module, args, output: seen.append(output[1]))
    with torch.no_grad():
        eager(**inputs, use_cache=False)
    mean = torch.stack([weights[0] for weights in seen]).mean((0, 1))[WANTED["rows"]].mean(0)
    expected = mean[WANTED["image_tokens"]].view(2, 3)
    assert torch.allclose(attention_map(model, inputs, **WANTED), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("model_type", "frame"), [("qwen2_5_vl", (336, 168)), ("qwen2_vl", (1000, 1000)), ("llava", (1000, 1000))]
)
def test_boxes_refer_to_thousandths_or_to_the_pixels_that_the_model_gets(model_type, frame):
    config = SimpleNamespace(model_type=model_type, vision_config=SimpleNamespace(patch_size=14))
    pixels = {"image_grid_thw": torch.tensor([[1, 12, 24]])} if model_type == "qwen2_5_vl" else {}
    assert box_frame(SimpleNamespace(config=config), lambda: pixels) == frame


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "3_5" in kind])
def test_a_layer_without_attention_weights_is_refused(kind):
    with pytest.raises(ValueError, match=r"layers 0 to 1, \[1\] have attention weights, found \[0\]"):
        attention_map(MODELS[kind], inputs_of_frames(ROWS), layers=[0], **WANTED)
