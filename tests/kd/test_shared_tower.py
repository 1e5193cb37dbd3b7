# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One run of the vision tower for a teacher and a student on one base, against the same run with one for each."""

import pytest
import torch
from kd_runs import distil, history, same_bits, teacher_adapter, weights
from peft import LoraConfig, get_peft_model

from llamafactory_clinkd.kd.adapter_teacher import SharedTower, find_shared_tower


BATCHES = 16  # eight rows, one a batch, in two epochs


@pytest.fixture
def infos(monkeypatch):
    """What the teacher logs."""
    from llamafactory_clinkd.kd.adapter_teacher import logger

    texts = []
    monkeypatch.setattr(logger, "info", lambda text, *args: texts.append(text % args))
    return texts


def run_twice(workspace, tmp_path, encoded, monkeypatch, **keys):
    """Runs of the tower with and without sharing; both trainings come to the same bits."""
    torch.set_num_threads(1)
    shared = distil(workspace, tmp_path / "shared", **keys)
    once = len(encoded)
    monkeypatch.setattr("llamafactory_clinkd.kd.adapter_teacher.find_shared_tower", lambda model: None)
    apart = distil(workspace, tmp_path / "apart", **keys)
    assert history(shared) == history(apart)
    name = "adapter_model.safetensors"
    assert same_bits(weights(shared, name), weights(apart, name))
    return once, len(encoded) - once


@pytest.mark.parametrize(
    ("keys", "once", "each"),
    [
        ({}, BATCHES, 2 * BATCHES),
        ({"lora_dropout": 0.1, "disable_gradient_checkpointing": True}, BATCHES, 2 * BATCHES),
        ({"kd_cache": "hidden"}, BATCHES, BATCHES + BATCHES // 2),
        ({"per_device_train_batch_size": 2, "kd_method": "vkd"}, BATCHES // 2, BATCHES),
    ],
    ids=str,
)
def test_same_run_with_half_the_encodings(small_workspace, tmp_path, encoded, monkeypatch, infos, keys, once, each):
    keys = teacher_adapter(small_workspace, tmp_path / "adapter") | keys
    assert run_twice(small_workspace, tmp_path, encoded, monkeypatch, **keys) == (once, each)
    assert sum("it runs once for teacher and student" in text for text in infos) == 1


def test_an_adapter_on_the_tower_makes_two_of_it(small_workspace, tmp_path, encoded, monkeypatch, infos):
    keys = teacher_adapter(small_workspace, tmp_path / "adapter", ["qkv", "q_proj"])
    assert run_twice(small_workspace, tmp_path, encoded, monkeypatch, **keys) == (2 * BATCHES, 2 * BATCHES)
    assert not any("it runs once" in text for text in infos)


class Changing(torch.nn.Module):
    """Gives an object that its caller changes, as transformers' models do."""

    def __init__(self):
        super().__init__()
        self.runs = 0

    def forward(self, value):
        self.runs += 1
        return Output(value)


class Output:
    def __init__(self, value):
        self.value = value


def test_outputs_come_in_their_order_unchanged_and_once():
    tower, batch = Changing(), {}
    shared = SharedTower(tower)
    with shared.record(batch):
        for value in (1, 2):
            tower(value).value = "changed by the teacher's model"
    with shared.replay(batch):
        assert [tower(None).value for _ in range(2)] == [1, 2] and tower.runs == 2
        assert tower(3).value == 3 and tower.runs == 3
    with shared.replay(batch):
        assert tower(4).value == 4
    assert "forward" not in vars(tower)


def test_another_batch_is_computed():
    tower = Changing()
    shared = SharedTower(tower)
    with shared.record({}):
        tower(1)
    with shared.replay({}):
        assert tower(2).value == 2


def test_what_was_kept_is_let_go_after_an_error():
    tower, batch = Changing(), {}
    shared = SharedTower(tower)
    with shared.record(batch):
        tower(1)
    with pytest.raises(KeyError), shared.replay(batch):
        raise KeyError
    with shared.replay(batch):
        assert tower(2).value == 2
    assert "forward" not in vars(tower)


def model_with(**parts):
    """A model whose vision tower is made of ``parts``, frozen."""
    model = torch.nn.Module()
    model.visual = torch.nn.Module()
    for name, part in {"proj": torch.nn.Linear(2, 2), **parts}.items():
        setattr(model.visual, name, part)
    return model.requires_grad_(False)


def test_only_a_tower_that_computes_the_same_in_either_pass_is_shared():
    assert find_shared_tower(torch.nn.Linear(2, 2)) is None
    constant = model_with(off=torch.nn.Dropout(0.0))
    assert find_shared_tower(constant) is constant.visual
    assert find_shared_tower(model_with(drop=torch.nn.Dropout(0.1))) is None
    assert find_shared_tower(model_with(norm=torch.nn.BatchNorm2d(2))) is None
    trained = model_with()
    trained.visual.proj.weight.requires_grad_(True)
    assert find_shared_tower(trained) is None
    adapted = get_peft_model(model_with(), LoraConfig(target_modules=["proj"])).requires_grad_(False)
    assert find_shared_tower(adapted) is None


def test_a_tower_whose_attention_drops_out_is_not_shared():
    from transformers import CLIPVisionConfig, CLIPVisionModel

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    for dropout in (0.0, 0.1):
        model = torch.nn.Module()
        config = CLIPVisionConfig(image_size=16, patch_size=8, attention_dropout=dropout, **sizes)
        model.vision_tower = CLIPVisionModel(config).requires_grad_(False)
        assert (find_shared_tower(model) is None) == (dropout > 0)
