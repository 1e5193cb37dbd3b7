# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Tokens that a recipe adds, with a teacher of every kind and with vocabularies of different sizes."""

import json
import shutil

import pytest
from kd_runs import distil, history, teacher_adapter
from tiny_models import build_tiny_qwen2vl

from llamafactory_clinkd.utils.io import read_jsonl


ADDED = {"add_special_tokens": "<lesion>,</lesion>", "add_tokens": "hepatosplenomegaly"}
TOKENS = ["<lesion>", "</lesion>", "hepatosplenomegaly"]
REPORT = "The teacher lacks 3 of the 3 tokens that the recipe adds (hepatosplenomegaly, <lesion>, </lesion>)"


def vocabulary(folder):
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return content["model"]["vocab"].keys() | {token["content"] for token in content["added_tokens"]}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"kd_cache": "hidden"},
        {"kd_teacher_offload": True},
        {"kd_method": "vkd"},
        {"ref_model_adapters": "adapter"},
    ],
    ids=lambda keys: "-".join(keys) or "live",
)
def test_teacher_of_every_kind(small_workspace, tmp_path, caplog, keys):
    if "ref_model_adapters" in keys:
        keys = teacher_adapter(small_workspace, tmp_path / "adapter") | {"clinkd_phases": "distill,correct,predict"}
        keys |= {"eval_dataset": "tiny_test", "correction_rounds": 1}
    out = distil(small_workspace, tmp_path / "out", kd_epochs=1, **keys | ADDED)
    assert REPORT in caplog.text
    assert all(0 < entry["loss"] < 100 for entry in history(out)) and history(out)
    assert set(TOKENS) <= vocabulary(out)


def test_every_phase_and_the_same_command_again(small_workspace, tmp_path):
    keys = {"clinkd_phases": "pseudo_label,distill,correct,predict", "eval_dataset": "tiny_test"} | ADDED
    out = distil(small_workspace, tmp_path / "out", kd_epochs=1, correction_rounds=1, **keys)
    before = json.loads((out / "clinkd" / "state.json").read_text(encoding="utf-8"))
    (out / "clinkd" / "predictions.jsonl").unlink()
    distil(small_workspace, tmp_path / "out", kd_epochs=1, correction_rounds=1, **keys)
    after = json.loads((out / "clinkd" / "state.json").read_text(encoding="utf-8"))
    for phase in ("pseudo_label", "distill", "correct"):  # loading adds tokens and changes a key; no phase runs again
        assert before["phases"][phase] == after["phases"][phase]
    assert len(read_jsonl(out / "clinkd" / "predictions.jsonl")) == 4


def test_a_description_of_the_tokens_takes_precedence(small_workspace, tmp_path):
    config = tmp_path / "tokens.yaml"
    config.write_text("'<lesion>': a place that looks ill\n")
    keys = {"new_special_tokens_config": str(config), "init_special_tokens": "desc_init"}
    out = distil(small_workspace, tmp_path / "out", kd_epochs=1, **keys)
    assert "<lesion>" in vocabulary(out)


@pytest.mark.parametrize("wider", ["student", "teacher"])
def test_vocabularies_of_different_sizes(small_workspace, tmp_path, wider, caplog):
    """One model has rows for ids that no token has, as Qwen2-VL-7B beside 2B, and the recipe adds tokens."""
    from transformers import AutoModelForImageTextToText

    padded = shutil.copytree(small_workspace / wider, tmp_path / wider)
    model = AutoModelForImageTextToText.from_pretrained(padded)
    model.resize_token_embeddings(model.get_input_embeddings().num_embeddings + 256)
    model.save_pretrained(padded)
    key = {"student": "model_name_or_path", "teacher": "ref_model"}[wider]
    out = distil(small_workspace, tmp_path / "out", kd_epochs=1, **ADDED | {key: str(padded)})
    assert REPORT in caplog.text and all(0 < entry["loss"] < 100 for entry in history(out))


def test_a_teacher_that_has_the_tokens_is_not_reported(small_workspace, tmp_path, caplog):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    teacher = shutil.copytree(small_workspace / "teacher", tmp_path / "teacher")
    processor, model = AutoProcessor.from_pretrained(teacher), AutoModelForImageTextToText.from_pretrained(teacher)
    processor.tokenizer.add_tokens(["hepatosplenomegaly"])
    processor.tokenizer.add_tokens(TOKENS[:2], special_tokens=True)
    model.resize_token_embeddings(len(processor.tokenizer))
    model.save_pretrained(teacher)
    processor.save_pretrained(teacher)
    out = distil(small_workspace, tmp_path / "out", kd_epochs=1, **ADDED | {"ref_model": str(teacher)})
    assert "The teacher lacks" not in caplog.text and history(out)


def test_a_teacher_with_the_tokens_in_another_order_is_refused(small_workspace, tmp_path):
    texts = ["a b"]
    teacher = build_tiny_qwen2vl(tmp_path / "teacher", hidden_size=64, layers=1, seed=1, texts=texts)
    with pytest.raises(ValueError, match="tokens have other ids"):
        distil(small_workspace, tmp_path / "out", **ADDED | {"ref_model": str(teacher)})
