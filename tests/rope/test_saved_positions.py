# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import copy
import json
from types import SimpleNamespace

import huggingface_hub.constants
import pytest
import torch
from paths.small_model import build_small_model
from safetensors.torch import load_file
from transformers import Qwen2VLForConditionalGeneration

from llamafactory_clinkd.arguments import ClinkdArguments
from llamafactory_clinkd.rope import (
    mixed_parameters,
    read_rope_config,
    reconcile,
    rope_settings,
    write_rope_config,
)
from llamafactory_clinkd.rope.mixed import FILE
from llamafactory_clinkd.rope.saved_positions import (
    CONFIG_FILE,
    apply_saved_positions,
    same_positions,
    saved_settings,
    settings_of_run,
    teacher_settings,
    with_saved_positions,
)


SAVED = {"variant": "mcg", "alpha_h": 2, "alpha_w": 1, "gap": 2, "sections": [0, 32, 32], "image_square": True}


def test_what_is_written_is_read(tmp_path):
    path = write_rope_config(tmp_path / "new", SAVED)
    assert json.loads(path.read_text())["format"] == 1
    assert read_rope_config(tmp_path / "new") == SAVED
    assert [p.name for p in path.parent.iterdir()] == [CONFIG_FILE]


def test_no_file_is_none(tmp_path):
    assert read_rope_config(tmp_path) is None


@pytest.mark.parametrize("content", ['{"format": 2, "variant": "mcg"}', "[]", '{"variant": "mcg"}'])
def test_another_format_is_refused(tmp_path, content):
    (tmp_path / CONFIG_FILE).write_text(content)
    with pytest.raises(ValueError, match=r"clinkd_config.json has the format .* reads 1"):
        read_rope_config(tmp_path)


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / CONFIG_FILE).write_text('{"format": 1, "var')
    with pytest.raises(ValueError, match="clinkd_config.json is not valid JSON"):
        read_rope_config(tmp_path)


@pytest.mark.parametrize("settings", [{"alpha_h": 1}, {"variant": "mcg", "alpha": 1}])
def test_unknown_or_missing_keys_are_refused(tmp_path, settings):
    with pytest.raises(ValueError, match="keys must be variant"):
        write_rope_config(tmp_path, settings)
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"format": 1, **settings}))
    with pytest.raises(ValueError, match="keys must be variant"):
        read_rope_config(tmp_path)


@pytest.mark.parametrize(
    ("saved", "requested", "expected"),
    [
        (None, None, None),
        (SAVED, None, SAVED),
        (None, SAVED, SAVED),
        (SAVED, SAVED, SAVED),
        (SAVED, {"variant": "mcg"}, SAVED),
        (SAVED, {"variant": "mcg", "sections": None}, SAVED),
        ({"variant": "mcg"}, {"variant": "mcg", "image_square": False}, {"variant": "mcg", "image_square": False}),
    ],
)
def test_agreeing_settings(saved, requested, expected):
    assert reconcile(saved, requested) == expected


def test_disagreeing_settings_show_both():
    with pytest.raises(ValueError, match=r"alpha_h: saved 2, requested 1") as error:
        reconcile(SAVED, {**SAVED, "alpha_h": 1})
    assert str(SAVED) in str(error.value)
    with pytest.raises(ValueError, match=r"sections: saved None, requested \[0, 32, 32\]"):
        reconcile({**SAVED, "sections": None}, SAVED)


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


OTHER = {"variant": "rope_2d", "alpha_h": 1, "alpha_w": 1, "gap": 2, "sections": [0, 4, 4], "image_square": False}


def loads(folder, **more):
    return SimpleNamespace(**{"model_name_or_path": str(folder), "adapter_name_or_path": None, **more})


def keys(**written):
    arguments = ClinkdArguments(use_clinkd=True, clinkd_phases="predict", **written)
    arguments.check_clinkd()
    return arguments


def test_a_key_that_is_not_written_takes_the_saved_value(tmp_path):
    write_rope_config(tmp_path, OTHER)
    recipe = keys()
    assert settings_of_run(loads(tmp_path), recipe) == OTHER
    resolved = with_saved_positions(loads(tmp_path), recipe)
    assert (resolved.rope_variant, resolved.rope_sections, resolved.image_square) == ("rope_2d", [0, 4, 4], False)
    assert recipe.rope_variant == "mcg"
    assert settings_of_run(loads(tmp_path), resolved) == OTHER  # a later phase resolves them again
    assert settings_of_run(loads(tmp_path), keys(rope_variant="rope_2d", rope_sections="0,4,4")) == OTHER
    assert settings_of_run(loads(tmp_path), SimpleNamespace(use_clinkd=False)) == OTHER


def test_what_was_not_saved_is_the_recipes(tmp_path):
    write_rope_config(tmp_path, {"variant": "mrope"})
    assert settings_of_run(loads(tmp_path), keys()) == {**MCG, "variant": "mrope"}
    assert settings_of_run(loads(tmp_path), keys(image_square=False))["image_square"] is False
    assert settings_of_run(loads(tmp_path / "stock"), keys(mcg_alpha_h=3)) == {**MCG, "alpha_h": 3}
    assert settings_of_run(loads(tmp_path / "stock"), SimpleNamespace(use_clinkd=False)) is None


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            {"rope_variant": "mcg"},
            "`rope_variant: saved 'rope_2d', requested 'mcg'`",
        ),  # written, though it is the default
        ({"rope_variant": "mrope"}, "variant: saved 'rope_2d', requested 'mrope'"),
        ({"mcg_alpha_w": 3}, "alpha_w: saved 1, requested 3"),
        ({"rope_sections": "0,2,6"}, r"sections: saved \[0, 4, 4\], requested \[0, 2, 6\]"),
        ({"image_square": True}, "image_square: saved False, requested True.*Remove these keys from the recipe"),
    ],
)
def test_a_written_key_that_disagrees_is_an_error_with_both(tmp_path, written, message):
    write_rope_config(tmp_path, OTHER)
    with pytest.raises(ValueError, match=message):
        settings_of_run(loads(tmp_path), keys(**written))
    with pytest.raises(ValueError, match=message):
        with_saved_positions(loads(tmp_path), keys(**written))


def test_the_last_adapters_positions_are_the_models(tmp_path):
    write_rope_config(tmp_path / "base", MCG)
    write_rope_config(tmp_path / "adapter", OTHER)
    (tmp_path / "plain").mkdir()
    for adapters in (f"{tmp_path}/plain,{tmp_path}/adapter", [str(tmp_path / "adapter"), str(tmp_path / "plain")]):
        assert saved_settings(loads(tmp_path / "base", adapter_name_or_path=adapters)) == OTHER
    assert saved_settings(loads(tmp_path / "base", adapter_name_or_path=str(tmp_path / "plain"))) == MCG


def test_a_saved_teacher_keeps_its_own(tmp_path):
    assert teacher_settings(loads(tmp_path), keys()) is None
    assert teacher_settings(loads(tmp_path), keys(teacher_rope_variant="rope_2d")) == {"variant": "rope_2d"}
    write_rope_config(tmp_path, MCG)
    assert teacher_settings(loads(tmp_path), keys()) == MCG
    assert teacher_settings(loads(tmp_path), keys(teacher_rope_variant="mcg")) == MCG
    for requested in ("rope_2d", "mrope"):
        with pytest.raises(
            ValueError, match=f"The teacher was saved.*`teacher_rope_variant: saved 'mcg', requested '{requested}'"
        ):
            teacher_settings(loads(tmp_path), keys(teacher_rope_variant=requested))


def test_a_model_of_the_hub_brings_its_positions(tmp_path, monkeypatch):
    """From the hub's cache, without network; a name that the hub does not know, or a broken path, has none."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    home, commit = tmp_path / "models--clinic--reader", "0" * 40
    write_rope_config(home / "snapshots" / commit, OTHER)
    (home / "snapshots" / commit / "config.json").write_text("{}")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    hub = {"cache_dir": str(tmp_path), "model_revision": "main", "hf_hub_token": None}
    assert saved_settings(loads("clinic/reader", **hub)) == OTHER
    for name in ("clinic/other", "no/such/folder", "/no/such/folder", "a b"):
        assert saved_settings(loads(name, **hub)) is None


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


def test_an_adapter_below_adapter_folder_keeps_its_positions(tmp_path):
    write_rope_config(tmp_path / "adapters" / "one", SAVED)
    place = {"model_name_or_path": str(tmp_path), "adapter_name_or_path": [str(tmp_path / "adapters")]}
    assert saved_settings(SimpleNamespace(**place, adapter_folder="one")) == SAVED
    assert saved_settings(SimpleNamespace(**place, adapter_folder=None)) is None
