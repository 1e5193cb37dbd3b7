# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Parameter counts against models on the meta device, and Table A2 of the paper."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

import llamafactory_clinkd
from llamafactory_clinkd.doctor.model_shape import SIZES, known_config, load_shape, shape_of
from llamafactory_clinkd.doctor.recipe_spec import read_spec


TABLE_A2 = {
    "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "intermediate_size": 18944, "max_position_embeddings": 32768, "vocab_size": 152064, "rms_norm_eps": 1e-06,
    "initializer_range": 0.02, "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
}  # fmt: skip
TABLE_A2_TOP = {
    "image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652, "vision_end_token_id": 151653,
}  # fmt: skip
TABLE_A2_VISION = {"in_channels": 3, "patch_size": 14}


def on_meta(config):
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig.from_dict(config))
    model.tie_weights()
    return model


def count(model, *, inside="", outside=None):
    return sum(
        parameter.numel()
        for name, parameter in model.named_parameters()
        if inside in name and (outside is None or outside not in name)
    )


@pytest.mark.parametrize("size", SIZES)
def test_counts_are_those_of_the_model(size):
    config = known_config(f"Qwen/Qwen2-VL-{size}-Instruct")
    model, shape = on_meta(config), shape_of(config)
    assert shape.parameters == count(model)
    assert shape.merger_parameters == count(model, inside="visual.merger")
    assert shape.vision_parameters == count(model, inside="visual.", outside="merger")
    assert shape.layer_parameters == count(model, inside="language_model.layers.0.")
    linear = [m.weight.numel() for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and n != "lm_head"]
    assert shape.linear_parameters == sum(linear)


def test_an_image_has_the_pixels_that_the_processor_of_the_folder_keeps(tmp_path):
    """The demo's model: LLaMA-Factory's limit is 262,144 pixels, its processor's 12,544 of 14 x 14 a token."""
    from llamafactory_clinkd.data.row_check import count_tokens

    base = str(Path(llamafactory_clinkd.__file__).parent / "demo" / "models" / "base")
    keys = {"use_clinkd": True, "model_name_or_path": base, "ref_model": base, "image_max_pixels": 262144}
    assert read_spec(keys, gpus=1).image_tokens == 64
    rows = [[{"role": "user", "content": text}] for text in ("<image>", "")]
    with_image, without = (
        count_tokens(base, row, sizes, 262144) for row, sizes in zip(rows, ([(900, 900)], []), strict=True)
    )
    assert with_image - without == 64 + 2
    (tmp_path / "config.json").write_text(Path(base, "config.json").read_text())
    without_processor = {**keys, "model_name_or_path": str(tmp_path), "ref_model": str(tmp_path)}
    assert read_spec(without_processor, gpus=1).image_tokens == 262144 // 14**2


def test_adapters_are_those_of_peft():
    from peft import LoraConfig, get_peft_model

    config = known_config("Qwen2-VL-2B")
    pattern = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    with torch.device("meta"):
        model = get_peft_model(on_meta(config), LoraConfig(r=8, target_modules=pattern))
    assert shape_of(config).lora_parameters(8) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_table_a2_on_the_instantiated_7b_model():
    config = on_meta(known_config("Qwen/Qwen2-VL-7B-Instruct")).config
    assert {key: getattr(config.text_config, key) for key in TABLE_A2} == TABLE_A2
    assert {key: getattr(config, key) for key in TABLE_A2_TOP} == TABLE_A2_TOP
    assert {key: getattr(config.vision_config, key) for key in TABLE_A2_VISION} == TABLE_A2_VISION
    # The published configuration names the window of Table A2 and switches it off, which transformers writes as None.
    assert known_config("Qwen2-VL-7B")["sliding_window"] == 32768 and config.text_config.sliding_window is None


def test_table_a2_is_7b_and_no_other():
    assert shape_of(known_config("Qwen2-VL-7B")).parameters == 8_291_375_616
    assert not on_meta(known_config("Qwen2-VL-7B")).config.tie_word_embeddings


def test_saved_model_is_read_from_its_folder(tmp_path):
    config = known_config("Qwen2-VL-2B-Instruct")
    on_meta(config).config.save_pretrained(tmp_path)
    assert "text_config" in json.loads((tmp_path / "config.json").read_text())
    assert load_shape(str(tmp_path)) == shape_of(config)


def test_other_models_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="Qwen2-VL only, found model_type 'llama'"):
        load_shape(str(tmp_path))
    with pytest.raises(ValueError, match=r"neither a folder .*\(2B, 7B, 72B\)"):
        load_shape("Qwen/Qwen2-VL-70B")
    assert known_config("Qwen/Qwen2.5-VL-7B-Instruct") is None


def test_image_tokens_are_merged_patches():
    shape = shape_of(known_config("Qwen2-VL-7B"))
    assert shape.image_tokens(28 * 28 * 100) == 100
    assert dataclasses.replace(shape, merge=1).image_tokens(28 * 28 * 100) == 400
