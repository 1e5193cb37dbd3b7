# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Adapters that stock merges into the base before it trains a new one stay merged in the phases after it."""

from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from small_run import recipe

from llamafactory_clinkd.phases.recipe import RecipeArguments, phase_arguments, with_model
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
def test_what_was_merged_is_loaded_before_what_was_trained(
    tmp_path, monkeypatch, adapters, new, bits, below, expected
):
    """`adapter_folder` is below the recipe's adapters, not below the one that was trained."""
    monkeypatch.chdir(tmp_path)
    for name in adapters or []:
        (tmp_path / name).mkdir()
    model = SimpleNamespace(adapter_name_or_path=adapters, quantization_bit=bits, adapter_folder=below)
    finetuning = SimpleNamespace(create_new_adapter=new, finetuning_type="lora")
    found = with_model(RecipeArguments(model, None, None, finetuning, None), tmp_path)
    assert found.model.adapter_name_or_path == [*expected, str(tmp_path)]
    assert not found.finetuning.create_new_adapter and found.model.adapter_folder is None
    assert model.adapter_name_or_path == adapters and model.adapter_folder == below


def in_hub_cache(cache, name):
    """The folder of a hub repository's only commit in a cache."""
    home = cache / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text("0" * 40)
    (folder := home / "snapshots" / ("0" * 40)).mkdir(parents=True)
    return folder


def test_what_was_merged_from_below_a_hub_adapter_is_found_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (one := in_hub_cache(tmp_path, "clinic/reader") / "one").mkdir()
    hub = {"cache_dir": str(tmp_path), "model_revision": "main", "hf_hub_token": None, "quantization_bit": None}
    model = SimpleNamespace(adapter_name_or_path=["clinic/reader"], adapter_folder="one", **hub)
    finetuning = SimpleNamespace(create_new_adapter=True, finetuning_type="lora")
    arguments = RecipeArguments(model, None, None, finetuning, None)
    assert with_model(arguments, tmp_path).model.adapter_name_or_path == [str(one), str(tmp_path)]


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


@pytest.mark.parametrize("has_accelerator", [True, False])
def test_memory_is_pinned_for_an_accelerator_only(monkeypatch, tmp_path, has_accelerator):
    """torch pins none without one, and warns of it at each data loader."""
    accelerator = getattr(torch, "accelerator", torch.cuda)
    monkeypatch.setattr(accelerator, "is_available", lambda: has_accelerator)
    training = SimpleNamespace(dataloader_pin_memory=True, deepspeed=None)
    recipe = RecipeArguments(None, SimpleNamespace(), training, None, None)
    assert phase_arguments(recipe, tmp_path).training.dataloader_pin_memory is has_accelerator
    assert training.dataloader_pin_memory is True
