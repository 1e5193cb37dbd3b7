# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``examples/table_a3`` through stock LLaMA-Factory's parsing, value by value against the paper's Table A3."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FOLDER = EXAMPLES / "table_a3"
RECIPES = ("base", "lora", "freeze", "badam", "galore", "qlora")

# Row of the table -> (value as printed, recipe that it is checked in, group of LLaMA-Factory's arguments, key, value).
TABLE_A3 = {
    "Base model": ("Qwen2-VL-7B-Instruct", "base", "model", "model_name_or_path", "Qwen/Qwen2-VL-7B-Instruct"),
    "Quantization method": ("bitsandbytes", "base", "model", "quantization_method", "bnb"),
    "Fine-tuning type": ("Full", "base", "finetuning", "finetuning_type", "full"),
    "Template": ("qwen2_vl", "base", "data", "template", "qwen2_vl"),
    "Batch size": ("2", "base", "training", "per_device_train_batch_size", 2),
    "Gradient accumulation": ("8", "base", "training", "gradient_accumulation_steps", 8),
    "Max sequence length": ("2048", "base", "data", "cutoff_len", 2048),
    "Training epochs": ("3", "base", "training", "num_train_epochs", 3),
    "Learning rate": ("2x10^-5", "base", "training", "learning_rate", 2e-5),
    "Warmup steps": ("0", "base", "training", "warmup_steps", 0),
    "Optimizer": ("AdamW", "base", "training", "optim", "adamw_torch"),
    "Learning schedule": ("Cosine", "base", "training", "lr_scheduler_type", "cosine"),
    "DeepSpeed stage": ("3", "base", "deepspeed", "stage", 3),
    "Offloading": ("Disabled", "base", "deepspeed", "offload", False),
    "BF16 computation": ("Enabled", "base", "training", "bf16", True),
    "Max grad norm": ("1.0", "base", "training", "max_grad_norm", 1.0),
    "LoRA rank": ("8", "lora", "finetuning", "lora_rank", 8),
    "LoRA alpha": ("16", "lora", "finetuning", "lora_alpha", 16),
    "LoRA dropout": ("0", "lora", "finetuning", "lora_dropout", 0.0),
    "Trainable layers": ("2", "freeze", "finetuning", "freeze_trainable_layers", 2),
    "BAdam mode": ("Layer (ascending)", "badam", "finetuning", "badam_mode", "layer"),
    "BAdam mode, order": ("Layer (ascending)", "badam", "finetuning", "badam_switch_mode", "ascending"),
    "BAdam update ratio": ("0.05", "badam", "finetuning", "badam_update_ratio", 0.05),
    "GaLoRe rank": ("16", "galore", "finetuning", "galore_rank", 16),
    "SFT stage": ("Supervised Fine-Tuning", "base", "finetuning", "stage", "sft"),
    "Reward modeling": ("Disabled", "base", "finetuning", "reward_model", None),
}
SECTION_4_3 = {
    "kd_alpha": 0.5, "kd_temperature": 0.5, "kd_epochs": 2, "correction_rounds": 2, "image_square": True,
    "sasg_candidates": 3, "sasg_mode": "beam", "pseudo_label_samples": 30000, "kd_method": "pseudo_kd",
    "rope_variant": "mcg",
}  # fmt: skip
BLOCKS = {
    "base": set(),
    "lora": {"finetuning_type", "lora_rank", "lora_alpha", "lora_dropout", "lora_target"},
    "freeze": {"finetuning_type", "freeze_trainable_layers", "freeze_trainable_modules"},
    "badam": {"use_badam", "badam_mode", "badam_switch_mode", "badam_switch_interval", "badam_update_ratio"},
    "galore": {
        "use_galore", "galore_rank", "galore_target", "galore_update_interval", "galore_scale", "deepspeed",
    },
    "qlora": {
        "finetuning_type", "lora_rank", "lora_alpha", "lora_dropout", "lora_target", "quantization_bit",
        "ref_model_quantization_bit", "deepspeed",
    },
}  # fmt: skip


def load(name):
    return OmegaConf.to_container(OmegaConf.load(FOLDER / f"{name}.yaml"))


@pytest.fixture(scope="module")
def parsed():
    """What LLaMA-Factory makes of each recipe, with bf16; DeepSpeed needs its launcher and is read from its file."""
    from llamafactory.hparams import get_train_args

    groups = ("model", "data", "training", "finetuning", "generating")
    result = {}
    for name in RECIPES:
        keys = load(name)
        config = keys.pop("deepspeed", None)
        result[name] = dict(zip(groups, get_train_args({**keys, "use_cpu": True}), strict=True))
        if config is not None:
            zero = OmegaConf.to_container(OmegaConf.load(EXAMPLES.parent / config))["zero_optimization"]
            result[name]["deepspeed"] = {"stage": zero["stage"], "offload": any("offload" in key for key in zero)}
    return result


@pytest.mark.parametrize("row", TABLE_A3)
def test_value_of_table_a3(parsed, row):
    _, recipe, group, key, expected = TABLE_A3[row]
    found = parsed[recipe][group]
    found = found[key] if isinstance(found, dict) else getattr(found, key)
    assert getattr(found, "value", found) == expected


@pytest.mark.parametrize("name", RECIPES)
def test_section_4_3_in_every_recipe(parsed, name):
    finetuning, generating = parsed[name]["finetuning"], parsed[name]["generating"]
    assert {key: getattr(finetuning, key) for key in SECTION_4_3} == SECTION_4_3
    assert generating.num_beams == 3 and finetuning.freeze_vision_tower


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_differs_from_the_base_in_its_block_only(name):
    base, other = load("base"), load(name)
    changed = {key for key in base.keys() | other.keys() if base.get(key) != other.get(key)}
    assert changed - {"output_dir"} == BLOCKS[name]
    assert other["output_dir"].endswith(f"/{name}")


@pytest.mark.parametrize("name", ["base", "lora", "freeze", "badam"])
def test_stage_3_without_offloading(parsed, name):
    assert parsed[name]["deepspeed"] == {"stage": 3, "offload": False}


def test_base_trains_all_and_switches_the_optional_blocks_off(parsed):
    finetuning, model = parsed["base"]["finetuning"], parsed["base"]["model"]
    assert not finetuning.use_badam and not finetuning.use_galore and model.quantization_bit is None


def test_qlora_quantises_student_and_teacher(parsed):
    model, finetuning = parsed["qlora"]["model"], parsed["qlora"]["finetuning"]
    assert (model.quantization_method, model.quantization_bit, finetuning.ref_model_quantization_bit) == ("bnb", 4, 4)


def test_table_a1_is_what_convert_writes():
    from llamafactory_clinkd.data.sharegpt import dataset_info_entry

    table_a1 = {
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }
    entry = dataset_info_entry("train.json")
    assert {key: entry[key] for key in table_a1} == table_a1
