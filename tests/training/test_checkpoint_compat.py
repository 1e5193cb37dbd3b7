# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest
import torch
from paths.small_model import build_small_model
from transformers import Qwen2VLForConditionalGeneration
from transformers.trainer_utils import load_sharded_checkpoint

from llamafactory_clinkd.training.sft_trainer import accepts_saved_names


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models of one shape; the folders that the first was saved to, whole and in shards."""
    folder = tmp_path_factory.mktemp("models")
    for number in (0, 1):
        build_small_model(folder / str(number), ["a few words"], seed=number)
    first = Qwen2VLForConditionalGeneration.from_pretrained(folder / "0")
    first.save_pretrained(folder / "shards", max_shard_size="40KB")
    return folder


def other(models):
    return Qwen2VLForConditionalGeneration.from_pretrained(models / "1")


def test_stock_loading_by_the_names_of_the_file_misses_weights(models):
    """What this module is for; when it fails, transformers has fixed it. 5.5 loads the vision tower only."""
    model, expected = other(models), Qwen2VLForConditionalGeneration.from_pretrained(models / "0").state_dict()
    load_sharded_checkpoint(model, models / "shards", strict=False)
    assert not all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_shards_are_loaded_whole(models):
    assert len(list((models / "shards").glob("*.safetensors"))) > 2
    expected = Qwen2VLForConditionalGeneration.from_pretrained(models / "0").state_dict()
    model = other(models)
    with accepts_saved_names(model):
        load_sharded_checkpoint(model, models / "shards", strict=False)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    assert "load_state_dict" not in vars(model)


def test_present_names_still_load(models):
    model, expected = other(models), Qwen2VLForConditionalGeneration.from_pretrained(models / "0").state_dict()
    with accepts_saved_names(model):
        model.load_state_dict(expected)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_a_checkpoint_with_a_gap_is_refused(models):
    model = other(models)
    state = {name: tensor for name, tensor in model.state_dict().items() if "visual.merger" not in name}
    with pytest.raises(ValueError, match=r"lacks 6 of the model's 58 weights.*visual.merger"):
        with accepts_saved_names(model):
            model.load_state_dict(state, strict=False)


def test_loading_nothing_is_no_error(models):
    with accepts_saved_names(other(models)):
        pass
