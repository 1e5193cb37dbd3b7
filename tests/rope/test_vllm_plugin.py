# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The plugin for vLLM without vLLM: positions token by token, refusals, and models of others, which stay untouched."""

import io
import json
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from PIL import Image

from llamafactory_clinkd.rope import apply_rope, vllm_plugin, write_rope_config
from llamafactory_clinkd.rope.saved_positions import write_mark

from .conftest import FROM_TOKENS
from .layouts import batch_of, rows


SAVED = {"variant": "mcg", "alpha_h": 2, "image_square": True}
PIXELS = (1024, 300 * 300)


def items_of(row):
    """(offset, t, h, w, interval) of each image and video of a drawn row."""
    offset, found = 0, []
    for segment in row.segments:
        if segment.kind:
            found.append((offset, *segment.size, 1))
        offset += segment.tokens
    return found


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows())
@pytest.mark.parametrize("variant", ["mcg", "mcg_released", "rope_2d"])
def test_positions_are_those_of_the_bound_model(qwen2_vl, variant, drawn):
    batch = batch_of(drawn)
    expected, deltas = apply_rope(qwen2_vl, variant).model.get_rope_index(**batch)
    for index, row in enumerate(drawn):
        keep = batch["attention_mask"][index].bool()
        found, delta = vllm_plugin.positions({"variant": variant}, row.tokens, items_of(row))
        counted = deltas[index].item() + (0 if FROM_TOKENS else (~keep).sum().item())
        assert torch.equal(found, expected[:, index, keep]) and delta == counted


def test_options_and_intervals_reach_the_formula():
    from llamafactory_clinkd.rope import mcg

    types = torch.tensor([[0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 0]])
    grid = {"video_grid_thw": torch.tensor([[2, 2, 2]]), "merge_size": 1, "video_intervals": torch.tensor([3])}
    for options, function in (
        ({"variant": "mcg", "alpha_w": 4}, mcg.mcg),
        ({"variant": "mcg_released", "gap": 5}, mcg.mcg_released),
    ):
        expected, delta = function(types, **grid, **{key: value for key, value in options.items() if key != "variant"})
        found, found_delta = vllm_plugin.positions(options, 11, [(2, 2, 2, 2, 3)])
        assert torch.equal(found, expected[:, 0]) and found_delta == delta.item()


class StockModel:
    """vLLM's model class as far as the plugin sees it."""

    def __init__(self, config):
        self.config = config

    def get_mrope_input_positions(self, input_tokens, mm_features):
        return "stock"

    def iter_mm_grid_thw(self, mm_features):
        yield from mm_features


class Parser:
    def is_embeddings(self, data):
        return False

    def _parse_image_data(self, data):
        return data


class Info:
    def __init__(self, config):
        self.config = config

    def get_hf_config(self):
        return self.config

    def get_image_processor(self):
        return SimpleNamespace(size={"shortest_edge": 3136, "longest_edge": 10**6}, patch_size=14, merge_size=2)

    def get_data_parser(self):
        return Parser()


@pytest.fixture
def vllm(monkeypatch):
    """The modules of vLLM that the plugin patches, with classes of their own for each test; returns the classes."""

    class ModelConfig:
        def __init__(self, model, architecture="Qwen2VLForConditionalGeneration"):
            path = model / "config.json"
            self.model, self._architecture, self.multimodal_config = str(model), architecture, None
            self.hf_config = SimpleNamespace(**(json.loads(path.read_text()) if path.exists() else {}))
            self.hf_config.vision_config = SimpleNamespace()

    class Registered:
        def load_model_cls(self):
            return model_class

    class PEFTHelper:
        @classmethod
        def from_local_dir(cls, lora_path, max_position_embeddings):
            return cls, lora_path, max_position_embeddings

    model_class = type("Qwen2VLForConditionalGeneration", (StockModel,), {})
    model_class._processor_factory = SimpleNamespace(info=type("ProcessingInfo", (Info,), {}))
    for name, names in {
        "vllm": {},
        "vllm.config": {"ModelConfig": ModelConfig},
        "vllm.lora": {},
        "vllm.lora.peft_helper": {"PEFTHelper": PEFTHelper},
        "vllm.model_executor": {},
        "vllm.model_executor.models": {},
        "vllm.model_executor.models.registry": {"_LazyRegisteredModel": Registered},
    }.items():
        module = ModuleType(name)
        vars(module).update(names)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(vllm_plugin, "_vllm_version", lambda: "0.32.0")
    return SimpleNamespace(ModelConfig=ModelConfig, Registered=Registered, PEFTHelper=PEFTHelper)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl"}')
    write_rope_config(tmp_path, SAVED, image_pixels=PIXELS)
    write_mark(tmp_path)
    return tmp_path


def test_a_saved_model_gets_its_positions_and_square_images(vllm, folder):
    vllm_plugin.register()
    config = vllm.ModelConfig(folder)
    cls = vllm.Registered().load_model_cls()
    found, delta = cls(config.hf_config).get_mrope_input_positions([0] * 9, [(2, 1, 2, 3, 1.0)])
    expected, _ = vllm_plugin.positions({"variant": "mcg", "alpha_h": 2}, 9, [(2, 1, 2, 3, 1)])
    assert torch.equal(found, expected) and delta == 0
    image = Image.new("RGB", (500, 200), "red")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    received = SimpleNamespace(media=image, original_bytes=buffer.getvalue())
    parser = cls._processor_factory.info(config.hf_config).get_data_parser()
    for data in (image, [image, np.asarray(image)], received, np.asarray(image)[None]):
        assert {picture.size for picture in parser._parse_image_data(data)} == {(280, 280)}  # at most 300 x 300
    assert parser._parse_image_data(None) is None and parser._parse_image_data([None]) == [None]
    with pytest.raises(ValueError, match="float64"):
        parser._parse_image_data(np.zeros((30, 30, 3)))


def test_a_rotated_or_deep_file_has_the_pixels_of_the_training(vllm):
    deep = io.BytesIO()
    Image.fromarray((np.arange(64 * 64, dtype=np.uint16) * 16).reshape(64, 64)).save(deep, "PNG")
    flat = Image.new("RGB", (64, 64), "white")  # what a reader that clips at 255 makes of it
    found = vllm_plugin.prepared_image(SimpleNamespace(media=flat, original_bytes=deep.getvalue()), None, (1, 2, 28))
    assert found.getextrema()[0] == (0, 255) and 100 < np.asarray(found).mean() < 150


def test_other_models_are_untouched(vllm, tmp_path):
    vllm_plugin.register()
    (tmp_path / "config.json").write_text("{}")
    config = vllm.ModelConfig(tmp_path, architecture="LlamaForCausalLM")
    assert vars(config.hf_config).keys() == {"vision_config"}
    cls = vllm.Registered().load_model_cls()
    assert cls(config.hf_config).get_mrope_input_positions([], []) == "stock"
    assert "_parse_image_data" not in vars(cls._processor_factory.info(config.hf_config).get_data_parser())
    assert vllm.PEFTHelper.from_local_dir(str(tmp_path), 5) == (vllm.PEFTHelper, str(tmp_path), 5)
    before = vllm.ModelConfig.__init__
    vllm_plugin.register()
    assert vllm.ModelConfig.__init__ is before


@pytest.mark.parametrize("version", ["0.31.1", "0.33.0", "0.11.0", "1.0"])
def test_an_untested_version_refuses_the_model_and_serves_others(vllm, folder, tmp_path, monkeypatch, version):
    monkeypatch.setattr(vllm_plugin, "_vllm_version", lambda: version)
    monkeypatch.delitem(sys.modules, "vllm.model_executor.models.registry")  # may be elsewhere in that version
    vllm_plugin.register()
    with pytest.raises(ValueError, match=f"(?s)would answer wrongly: vLLM {version} is installed.*0.32"):
        vllm.ModelConfig(folder)
    (tmp_path / "other").mkdir()
    assert vllm.ModelConfig(tmp_path / "other", architecture="LlamaForCausalLM")
    write_rope_config(folder, {"variant": "mrope", "image_square": False})
    assert vllm.ModelConfig(folder)


@pytest.mark.parametrize(
    ("saved", "architecture", "message"),
    [
        ({"variant": "rope_mixed"}, None, "learns frequencies"),
        ({"variant": "mcg", "sections": [0, 32, 32]}, None, r"rope_sections: \[0, 32, 32\]"),
        ({"variant": "mcg"}, "TransformersMultiModalForConditionalGeneration", "architecture in vLLM is Transformers"),
        ({"variant": "mrope", "image_square": True}, "LlavaForConditionalGeneration", "architecture in vLLM is Llava"),
        ({"variant": "mcg", "image_square": True}, None, "without `image_pixels`"),
    ],
)
def test_what_vllm_cannot_do_is_refused(vllm, folder, saved, architecture, message):
    vllm_plugin.register()
    write_rope_config(folder, saved)
    with pytest.raises(vllm_plugin.UnsupportedModelError, match=message):
        vllm.ModelConfig(folder, *([architecture] if architecture else []))


def test_lost_settings_are_refused(vllm, folder):
    vllm_plugin.register()
    config = vllm.ModelConfig(folder)
    cls = vllm.Registered().load_model_cls()
    delattr(config.hf_config, vllm_plugin.SETTINGS)
    with pytest.raises(ValueError, match="lost on the way"):
        cls(config.hf_config).get_mrope_input_positions([0], [])
    (folder / "clinkd_config.json").unlink()
    with pytest.raises(ValueError, match=r"clinkd_config.json beside it is missing"):
        vllm.ModelConfig(folder)


def test_an_adapter_of_other_positions_is_refused(vllm, folder):
    vllm_plugin.register()
    with pytest.raises(ValueError, match="Merge it with `llamafactory-cli export`"):
        vllm.PEFTHelper.from_local_dir(str(folder), 5)


def test_importing_the_plugin_needs_nothing_that_may_be_missing():
    code = (
        "import sys; import llamafactory_clinkd.rope.vllm_plugin, llamafactory_clinkd.attach as attach; "
        "from importlib.metadata import packages_distributions; "
        "found = {name.split('.')[0] for name in sys.modules} & set(packages_distributions()) - {'_distutils_hack'}; "
        "sys.modules['wrapt'] = None; attach.autoload(); print(*found, attach.status()['error'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("llamafactory_clinkd ModuleNotFoundError")
