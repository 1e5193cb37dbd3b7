# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Image features of a round, computed once, against the same run that computes them for every reader."""

import shutil
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from kd_runs import distil, history, same_bits, teacher_adapter, weights
from torch import nn
from transformers.utils import ModelOutput

from llamafactory_clinkd.kd import on_policy_trainer
from llamafactory_clinkd.kd.tower_features import TowerFeatures, equal_weights


KEYS = {"kd_on_policy": 1.0, "kd_rollout_every": 2, "kd_epochs": 1, "pseudo_label_samples": 8, "rope_variant": "mrope"}
BATCHES = 8
PARTS = ("loss", "kl_on_policy", "rollout_length")


@pytest.mark.parametrize("teacher", ["model", "its copy", "adapter"])
def test_same_bits_with_fewer_runs_of_the_tower(small_workspace, tmp_path, encoded, monkeypatch, teacher):
    """A teacher of another tower runs its own; an equal tower, or the very one, is replaced."""
    torch.set_num_threads(1)
    keys = KEYS | {"freeze_vision_tower": True, "freeze_multi_modal_projector": True}
    if teacher == "adapter":
        keys |= teacher_adapter(small_workspace, tmp_path / "adapter")
    elif teacher == "its copy":
        shutil.copytree(small_workspace / "student", tmp_path / "copy")
        keys["ref_model"] = str(tmp_path / "copy")
    once = distil(small_workspace, tmp_path / "once", **keys)
    runs = len(encoded)
    monkeypatch.setattr(on_policy_trainer.TowerFeatures, "of", lambda student, teacher: None)
    monkeypatch.setattr("llamafactory_clinkd.kd.adapter_teacher.find_shared_tower", lambda model: None)
    apart = distil(small_workspace, tmp_path / "apart", **keys)
    assert history(once, PARTS) == history(apart, PARTS)
    name = "adapter_model.safetensors" if teacher == "adapter" else "model.safetensors"
    assert same_bits(weights(once, name), weights(apart, name))
    assert runs == (2 * BATCHES if teacher == "model" else BATCHES)
    assert len(encoded) - runs == 2 * BATCHES + BATCHES // 4  # one run for the two windows of two batches in a round


@dataclass
class Output(ModelOutput):
    last: Any = None
    deep: Any = None
    grid: Any = None


class Sums(nn.Module):
    runs = 0

    def forward(self, pixel_values, grid_thw):
        self.runs += 1
        return Output(last=pixel_values * 2, deep=[pixel_values + 1], grid=(grid_thw,))


def test_outputs_of_all_batches_are_joined_and_dropped_after_use():
    tower = Sums()
    features = TowerFeatures(tower, None)
    pixels, grids = torch.arange(10.0).view(5, 2), torch.tensor([[1, 2, 1], [1, 3, 1]])
    batches = [
        {"pixel_values": pixels[:2], "image_grid_thw": grids[:1]},
        {"pixel_values": pixels[2:], "image_grid_thw": grids[1:]},
    ]
    with features.record(batches) as numbers:
        output = tower(pixels, grid_thw=grids)
    assert tower.runs == 2 and numbers == [0, 1]
    assert torch.equal(output["last"], pixels * 2) and torch.equal(output["deep"][0], pixels + 1)
    assert torch.equal(output["grid"][0], grids)
    for number, rows in ((1, slice(2, 5)), (0, slice(0, 2))):
        with features.replay(number):
            for _ in range(2):  # student and teacher
                assert torch.equal(tower(None, None)["last"], pixels[rows] * 2)
    assert tower.runs == 2
    with pytest.raises(KeyError), features.replay(0):
        pass


def test_batches_without_images_and_videos_run_as_ever():
    tower = Sums()
    features = TowerFeatures(tower, None)
    pixels, grids = torch.ones(4, 2), torch.tensor([[1, 4, 1]])
    for batches in ([{"pixel_values": pixels}, {}], [{"pixel_values": pixels[:3], "image_grid_thw": grids}]):
        with features.record(batches) as numbers:
            tower(pixels, grids)
        assert numbers == [None] * len(batches)
    assert tower.runs == 2


def test_a_video_beside_images_is_not_replaced_by_their_features():
    """A batch with both has two calls of the tower, which a replay would answer with the same output."""
    tower = Sums()
    features = TowerFeatures(tower, None)
    pixels, videos, grid = torch.ones(2, 2), torch.zeros(2, 2), torch.tensor([[1, 2, 1]])
    batch = {"pixel_values": pixels, "image_grid_thw": grid, "pixel_values_videos": videos, "video_grid_thw": grid}
    with features.record([batch]) as numbers:
        assert torch.equal(tower(pixels, grid)["last"], pixels * 2)
        assert torch.equal(tower(videos, grid)["last"], videos * 2)
    assert numbers == [None]


def test_towers_of_other_weights_or_types_differ():
    torch.manual_seed(0)
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    assert equal_weights(a, a) and not equal_weights(a, b)
    b.load_state_dict(a.state_dict())
    assert equal_weights(a, b)
    assert not equal_weights(a, b.half()) and not equal_weights(a, nn.Bilinear(2, 2, 2))
