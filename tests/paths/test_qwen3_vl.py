# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A Qwen3-VL through stock LLaMA-Factory: trained with MCG-RoPE, saved, and served with the same positions."""

import pytest
import torch
from small_run import drawn_rows
from tiny_qwen3_vl import build_tiny_qwen3_vl

from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt
from llamafactory_clinkd.rope import read_rope_config, rope_settings

from .runs import generated, infer_keys, prompt_of, train, training_logits


pytestmark = pytest.mark.slow
TEMPLATE = "qwen3_vl_nothink"


def test_training_and_generation_see_the_same_positions(tmp_path):
    rows = drawn_rows(tmp_path / "data", 4)
    write_sharegpt(tmp_path / "data" / "train.json", rows)
    write_dataset_info(tmp_path / "data", {"tiny_train": dataset_info_entry("train.json")})
    texts = [text for row in rows for turn in row["turns"] for text in turn]
    build_tiny_qwen3_vl(tmp_path / "student", texts, hidden_size=32, seed=0)
    keys = {"rope_variant": "mcg", "mcg_alpha_h": 2, "template": TEMPLATE, "eval_dataset": None, "kd_epochs": 1}
    out = train(tmp_path, tmp_path / "out", **keys, save_strategy="no")
    assert read_rope_config(out)["variant"] == "mcg"

    from llamafactory.chat import ChatModel

    engine = ChatModel(infer_keys(out, template=TEMPLATE)).engine
    assert rope_settings(engine.model)["alpha_h"] == 2
    image = tmp_path / "data" / rows[0]["image"]
    prompt = prompt_of(engine, [str(image)])
    answer, logits = generated(engine, prompt, image)
    assert torch.allclose(training_logits(engine, prompt, answer, image), logits, atol=1e-4)
