# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Which keys were written: a default is no wish, and the installed LLaMA-Factory parses recipe and command line."""

import copy
import pickle

import pytest
from llamafactory.hparams import get_infer_args, get_train_args, parser
from transformers import Seq2SeqTrainingArguments

from llamafactory_clinkd.arguments import OPTIONS_WRITTEN, ClinkdArguments


BASE = {"model_name_or_path": "model", "dataset": "any", "template": "qwen2_vl", "do_train": True, "use_clinkd": True}
WRITTEN = {"rope_variant": "mcg", "image_square": True, "kd_method": "none", "clinkd_phases": "distill"}


def options(keys):
    return [part for key, value in keys.items() for part in (f"--{key}", str(value))]


@pytest.mark.parametrize("as_given", [dict, options], ids=["recipe", "command line"])
def test_keys_are_noted_at_whatever_value(as_given, tmp_path):
    finetuning = get_train_args(as_given(BASE | WRITTEN | {"output_dir": str(tmp_path)}))[3]
    assert finetuning.clinkd_written & set(finetuning.clinkd_dict()) == {"use_clinkd", *WRITTEN}
    assert [finetuning.is_set(key) for key in ("rope_variant", "mcg_gap", "sasg_candidates")] == [True, False, False]
    assert OPTIONS_WRITTEN.get() is None


def test_other_spellings_of_an_option(tmp_path):
    line = [*options(BASE | {"output_dir": str(tmp_path), "kd_method": "none", "clinkd_phases": "distill"})]
    finetuning = get_train_args([*line, "--rope-variant=mcg", "--no_image_square"])[3]
    assert {"rope_variant", "image_square"} <= finetuning.clinkd_written
    assert "mcg_gap" not in finetuning.clinkd_written


def test_inference_keys_are_noted_too():
    keys = {"model_name_or_path": "model", "template": "qwen2_vl", "use_clinkd": True, "clinkd_phases": "predict"}
    assert not get_infer_args(keys)[2].is_set("rope_variant")
    assert get_infer_args(keys | {"rope_variant": "mcg"})[2].is_set("rope_variant")


def test_a_copy_still_knows(tmp_path):
    arguments = ClinkdArguments(rope_variant="mcg", rope_sections=None, kd_alpha=1.0)
    for same in (copy.copy(arguments), copy.deepcopy(arguments), pickle.loads(pickle.dumps(arguments))):
        assert same == arguments and same.clinkd_written == {"rope_variant", "kd_alpha"}
    arguments.mcg_gap = 5
    assert arguments.is_set("mcg_gap") and not arguments.is_set("mcg_alpha_h")


@pytest.mark.parametrize("as_given", [dict, options], ids=["recipe", "command line"])
def test_a_key_at_its_default_needs_the_switch_too(as_given, tmp_path):
    keys = {key: value for key, value in BASE.items() if key != "use_clinkd"} | {"output_dir": str(tmp_path)}
    with pytest.raises(ValueError, match="`rope_variant: mcg` is a ClinKD key, but `use_clinkd` is false"):
        get_train_args(as_given(keys | {"rope_variant": "mcg"}))
    assert get_train_args(as_given(keys))[3].use_clinkd is False


def test_the_help_shows_the_defaults():
    try:
        parser.HfArgumentParser(Seq2SeqTrainingArguments).format_help()
    except TypeError:
        pytest.skip("the help of transformers' own arguments ends with a TypeError")
    shown = " ".join(parser.HfArgumentParser(parser._TRAIN_ARGS).format_help().split())
    assert "rope_mixed (learnable frequencies in vision). (default: mcg)" in shown
    assert "clinkd_written" not in shown


@pytest.mark.parametrize("as_given", [dict, options], ids=["recipe", "command line"])
@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("kd_alhpa", "kd_alpha"),
        ("sasg_scorers", "sasg_scorer"),
        ("lerning_rate", "learning_rate"),
        ("use_clinkdd", None),
    ],
)
def test_a_misspelt_key_is_answered_with_the_key_that_was_meant(as_given, key, meant, tmp_path, monkeypatch, caplog):
    keys = BASE | WRITTEN | {"output_dir": str(tmp_path), key: "1"}
    if meant is None:
        keys, meant = {name: value for name, value in keys.items() if name == key or name in BASE}, "use_clinkd"
        del keys["use_clinkd"]
    with pytest.raises(ValueError, match=f"`{key}` is no key of a recipe. Did you mean `{meant}`"):
        get_train_args(as_given(keys))
    monkeypatch.setenv("ALLOW_EXTRA_ARGS", "1")
    get_train_args(as_given(keys))
    assert f"`{key}` is no key of a recipe. Did you mean `{meant}`? It has no effect" in caplog.text


def test_a_misspelt_key_of_a_stock_recipe_is_answered_by_stock(tmp_path):
    keys = {key: value for key, value in BASE.items() if key != "use_clinkd"} | {"output_dir": str(tmp_path)}
    with pytest.raises(ValueError, match="not used by the HfArgumentParser: ..learning_rat"):
        get_train_args(keys | {"learning_rat": 1.0})


@pytest.mark.parametrize("key", ["streaming", "tokenized_path"])
def test_data_without_rows_are_refused_before_stock_demands_more(key, tmp_path):
    keys = (
        BASE | WRITTEN | {"output_dir": str(tmp_path), key: True if key == "streaming" else str(tmp_path / "tokens")}
    )
    with pytest.raises(ValueError, match=f"`{key}: .*is not allowed. Expected .* with `use_clinkd: true`"):
        get_train_args(keys)
