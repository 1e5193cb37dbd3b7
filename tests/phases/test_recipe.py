# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Adapters that stock merges into the base before it trains a new one stay merged in the phases after it."""

from types import SimpleNamespace

import pytest
from small_run import recipe

from llamafactory_clinkd.phases.recipe import RecipeArguments, with_model
from llamafactory_clinkd.utils.io import read_jsonl


@pytest.mark.parametrize(
    ("adapters", "new", "bits", "below", "expected"),
    [
        (None, False, None, None, []),
        (["a"], False, None, None, []),
        (["a"], True, None, None, ["a"]),
        (["a", "b"], False, None, None, ["a"]),
        (["a", "b"], True, None, "one", ["a/one", "b/one"]),
        (["a"], True, 4, "one", []),
    ],
)
def test_what_was_merged_is_loaded_before_what_was_trained(tmp_path, adapters, new, bits, below, expected):
    """`adapter_folder` is below the recipe's adapters, not below the one that was trained."""
    model = SimpleNamespace(adapter_name_or_path=adapters, quantization_bit=bits, adapter_folder=below)
    finetuning = SimpleNamespace(create_new_adapter=new, finetuning_type="lora")
    found = with_model(RecipeArguments(model, None, None, finetuning, None), tmp_path)
    assert found.model.adapter_name_or_path == [*expected, str(tmp_path)]
    assert not found.finetuning.create_new_adapter and found.model.adapter_folder is None
    assert model.adapter_name_or_path == adapters and model.adapter_folder == below


def test_model_is_what_was_trained_whatever_lies_in_its_folder(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    model = SimpleNamespace(adapter_name_or_path=None, model_name_or_path="base")
    finetuning = SimpleNamespace(create_new_adapter=False, finetuning_type="full")
    found = with_model(RecipeArguments(model, None, None, finetuning, None), tmp_path)
    assert found.model.model_name_or_path == str(tmp_path) and found.model.adapter_name_or_path is None


@pytest.mark.slow
def test_predictions_are_of_the_whole_model(workspace, tmp_path):
    from llamafactory.train.tuner import run_exp

    first, both, named = (tmp_path / name for name in ("first", "both", "named"))
    keys = {"finetuning_type": "lora", "kd_method": "none", "ref_model": None, "learning_rate": 0.05}
    run_exp(recipe(workspace, first, kd_epochs=4, **keys))
    keys |= {"adapter_name_or_path": str(first), "create_new_adapter": True, "clinkd_phases": "distill,predict"}
    run_exp(recipe(workspace, both, **keys))
    keys |= {"adapter_name_or_path": f"{first},{both}", "create_new_adapter": False, "clinkd_phases": "predict"}
    run_exp(recipe(workspace, named, **keys))
    assert read_jsonl(both / "clinkd" / "predictions.jsonl") == read_jsonl(named / "clinkd" / "predictions.jsonl")
