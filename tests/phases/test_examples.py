# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The recipes in ``examples``, through stock LLaMA-Factory's own parsing."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf


EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

# Table A3 of the paper, but for its epochs (section 4.3: 2 + 2).
TABLE_A3 = {
    "finetuning_type": "full",
    "template": "qwen2_vl",
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 8,
    "cutoff_len": 2048,
    "learning_rate": 2e-5,
    "warmup_steps": 0,
    "optim": "adamw_torch",
    "lr_scheduler_type": "cosine",
    "bf16": True,
    "max_grad_norm": 1.0,
    "stage": "sft",
}
SECTION_4_3 = {
    "kd_alpha": 0.5,
    "kd_temperature": 0.5,
    "kd_epochs": 2,
    "correction_rounds": 2,
    "sasg_candidates": 3,
    "sasg_mode": "beam",
    "image_square": True,
    "rope_variant": "mcg",
    "pseudo_label_samples": 30000,
    "correction_threshold": 0.8,
}


def load(name):
    return OmegaConf.to_container(OmegaConf.load(EXAMPLES / name))


def parsed(name, **changes):
    """What LLaMA-Factory makes of a recipe on a machine without GPU and without the hub."""
    from llamafactory.hparams import get_train_args

    keys = {**load(name), "bf16": False, "deepspeed": None, **changes}
    return get_train_args({key: value for key, value in keys.items() if value is not None})


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_stock_parsing_takes_every_recipe(path, tmp_path):
    finetuning = parsed(path.name, output_dir=str(tmp_path))[3]
    assert finetuning.use_clinkd and isinstance(finetuning.clinkd_phases, list)


def test_paper_recipe_is_table_a3_and_section_4_3(tmp_path):
    recipe = load("clinkd_distill.yaml")
    model, data, training, finetuning, generating = parsed("clinkd_distill.yaml", output_dir=str(tmp_path))
    found = {**vars(data), **vars(training), **vars(finetuning), "bf16": recipe["bf16"]}
    for key, value in (TABLE_A3 | SECTION_4_3).items():
        assert str(getattr(found[key], "value", found[key])) == str(value), key
    config = OmegaConf.load(EXAMPLES.parent / recipe["deepspeed"])
    assert config.zero_optimization.stage == 3 and "offload_optimizer" not in config.zero_optimization
    assert model.quantization_bit is None


def test_demo_recipe_has_the_keys_of_the_paper_recipe():
    paper, demo = load("clinkd_distill.yaml"), load("clinkd_demo.yaml")
    only_paper = {"image_max_pixels", "deepspeed", "preprocessing_num_workers", "save_steps", "warmup_steps", "optim"}
    only_paper |= {"bf16", "ddp_timeout"}
    only_demo = {"save_strategy", "save_total_limit", "report_to", "correction_max_samples"}
    only_demo |= {"disable_gradient_checkpointing", "kd_cache"}
    assert set(paper) - set(demo) == only_paper
    assert set(demo) - set(paper) == only_demo
