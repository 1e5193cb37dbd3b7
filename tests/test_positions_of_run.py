# Copyright 2026 the llamafactory-clinkd team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

import copy
from types import SimpleNamespace

import pytest
import torch
from paths.small_model import build_small_model
from safetensors.torch import load_file
from transformers import Qwen2VLForConditionalGeneration

from llamafactory_clinkd.positions_of_run import apply_saved_positions, same_positions, teacher_settings
from llamafactory_clinkd.rope import mixed_parameters, read_rope_config, rope_settings, write_rope_config
from llamafactory_clinkd.rope.mixed import FILE


MCG = {"variant": "mcg", "alpha_h": 1, "alpha_w": 1, "gap": 2, "sections": None, "image_square": True}


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (None, None, True),
        (None, {"variant": "mrope", "sections": [0, 4, 4]}, True),
        ({"variant": "rope_mixed"}, None, True),
        (MCG, {"variant": "mcg"}, True),
        (MCG, {**MCG, "sections": [0, 4, 4], "image_square": False}, True),
        (MCG, {**MCG, "alpha_h": 2}, False),
        (MCG, None, False),
        ({"variant": "mcg_released", "gap": 1}, {"variant": "mcg_released"}, False),
        ({"variant": "rope_2d"}, MCG, False),
    ],
)
def test_same_positions(a, b, same):
    assert same_positions(a, b) is same_positions(b, a) is same


def test_a_saved_teacher_keeps_its_own(tmp_path):
    arguments = SimpleNamespace(model_name_or_path=str(tmp_path), adapter_name_or_path=None)
    keys = SimpleNamespace(teacher_rope_variant="rope_2d")
    assert teacher_settings(arguments, keys) == {"variant": "rope_2d"}
    write_rope_config(tmp_path, MCG)
    assert teacher_settings(arguments, keys) == MCG


@pytest.fixture
def loaded(tmp_path):
    """A model and the arguments that loaded it, from a folder saved with rope_mixed."""
    folder = build_small_model(tmp_path / "model", ["a few words"])
    write_rope_config(folder, {"variant": "rope_mixed", "image_square": False})
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder)
    arguments = SimpleNamespace(model_name_or_path=str(folder), adapter_name_or_path=None)
    return apply_saved_positions(model, arguments, SimpleNamespace(use_clinkd=False))


def test_a_deep_copy_saves_itself(loaded, tmp_path):
    copied = copy.deepcopy(loaded)
    with torch.no_grad():
        for _, delta in mixed_parameters(copied):
            delta.fill_(0.5)
    copied.save_pretrained(tmp_path / "copy")
    loaded.save_pretrained(tmp_path / "original")
    assert all((tensor == 0.5).all() for tensor in load_file(tmp_path / "copy" / FILE).values())
    assert all((tensor == 0).all() for tensor in load_file(tmp_path / "original" / FILE).values())
    for name in ("copy", "original"):
        assert read_rope_config(tmp_path / name) == {"variant": "rope_mixed", "image_square": False}
    assert rope_settings(copied)["variant"] == "rope_mixed"


def test_gathered_weights_are_what_is_saved(loaded, tmp_path):
    """DeepSpeed ZeRO-3 and FSDP hold parameters in parts and hand ``save_pretrained`` the gathered ones."""
    gathered = {name: tensor + 1 if "rope_mixed" in name else tensor for name, tensor in loaded.state_dict().items()}
    for _, delta in mixed_parameters(loaded):
        delta.data = torch.empty(0)
    loaded.save_pretrained(tmp_path / "out", state_dict=gathered)
    assert all((tensor == 1).all() for tensor in load_file(tmp_path / "out" / FILE).values())
    with pytest.raises(RuntimeError, match="stage3_gather_16bit_weights_on_model_save"):
        loaded.save_pretrained(tmp_path / "parts", state_dict={"a": torch.zeros(1)})
