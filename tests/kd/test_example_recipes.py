# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The distillation recipes in ``examples`` as they stand, but for models, data and sizes."""

import importlib.util
from pathlib import Path

import pytest
import torch
from kd_runs import history
from omegaconf import OmegaConf
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
NAMES = ("kd_only", "kd_lora_teacher", "kd_qlora", "kd_cached", "kd_vkd", "kd_on_policy")


def load(name):
    return OmegaConf.to_container(OmegaConf.load(EXAMPLES / f"{name}.yaml"))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("kd_lora_teacher", {"ref_model", "ref_model_adapters"}),
        ("kd_qlora", {"quantization_bit", "ref_model_quantization_bit"}),
        ("kd_cached", {"kd_cache"}),
        ("kd_vkd", {"kd_method"}),
        ("kd_on_policy", {"kd_divergence", "kd_beta", "kd_on_policy", "kd_rollout_every", "max_new_tokens"}),
    ],
)
def test_a_recipe_differs_from_plain_distillation_by_its_own_keys(name, keys):
    plain, recipe = load("kd_only"), load(name)
    allowed = keys | {"output_dir", "ref_model_quantization_bit", "teacher_rope_variant", "kd_temperature"}
    different = {key for key in plain.keys() | recipe.keys() if plain.get(key) != recipe.get(key)}
    assert keys - {"ref_model_quantization_bit"} <= different <= allowed


@pytest.fixture
def adapter(small_workspace, tmp_path):
    from transformers import AutoModelForImageTextToText

    base = AutoModelForImageTextToText.from_pretrained(small_workspace / "student")
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(tmp_path / "adapter")
    return str(tmp_path / "adapter")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs(name, small_workspace, tmp_path, adapter):
    from llamafactory.train.tuner import run_exp

    recipe = load(name)
    bits = {"quantization_bit", "ref_model_quantization_bit"} & recipe.keys()
    if bits and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed: pip install 'llamafactory-clinkd[quant]'")
    torch.set_num_threads(1)
    recipe |= {
        "model_name_or_path": str(small_workspace / "student"),
        "dataset_dir": str(small_workspace / "data"),
        "dataset": "tiny_train",
        "output_dir": str(tmp_path / "out"),
        "bf16": False,
        "kd_epochs": 2,
        "cutoff_len": 512,
        "gradient_accumulation_steps": 2,
        "logging_steps": 1,
        "save_steps": 2,
        "max_new_tokens": 4,
        "report_to": "none",
    }
    if "ref_model" in recipe:
        recipe["ref_model"] = str(small_workspace / "teacher")
    if "ref_model_adapters" in recipe:
        recipe["ref_model_adapters"] = adapter
    run_exp(recipe)

    out, second = tmp_path / "out", {"kd_vkd": "vkd", "kd_on_policy": "kl_on_policy"}.get(name, "kl")
    terms = [entry["ce"] for entry in history(out)], [entry[second] for entry in history(out, (second,))]
    assert len(terms[0]) == 8 and all(entry["loss"] > 0 for entry in history(out))
    kind = any if name == "kd_on_policy" else all  # half of its batches have no cross-entropy, half no rollouts
    assert all(kind(value > 0 for value in values) for values in terms)
    saved = load_file(out / "adapter_model.safetensors")
    assert saved and not any("vkd" in key or "teacher" in key for key in saved)
    assert bool(list(out.glob("clinkd/teacher_cache/hidden-*"))) == (name == "kd_cached")
    assert (out / "training_loss.png").is_file() and (out / f"training_{second}.png").is_file()
