# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from llamafactory_clinkd.kd import cache_keys
from llamafactory_clinkd.kd.cache_keys import (
    CACHE_KEY,
    KeyedCollator,
    pixel_settings,
    pop_keys,
    sample_key,
    teacher_identity,
)


SETTINGS = {"image_max_pixels": 4096, "image_square": True}


@pytest.fixture
def picture(tmp_path):
    Image.new("RGB", (4, 3), (9, 8, 7)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def feature(**changes):
    parts = {
        "input_ids": [1, 2, 3, 4],
        "attention_mask": [1, 1, 1, 1],
        "labels": [-100, -100, 3, 4],
        "images": [b"one picture"],
        "videos": None,
        "audios": None,
    }
    return parts | changes


def test_the_key_depends_on_content_alone(picture, tmp_path):
    key = sample_key(feature(), SETTINGS)
    assert len(key) == 64
    assert key == sample_key(feature(input_ids=np.array([1, 2, 3, 4], dtype=np.int32)), SETTINGS)
    assert key == sample_key(feature(), dict(reversed(SETTINGS.items())))
    assert key == sample_key({k: v for k, v in feature().items() if k not in ("videos", "audios")}, SETTINGS)
    assert key == sample_key(feature(images=[{"path": None, "bytes": b"one picture"}]), SETTINGS)
    assert key == sample_key(feature(images=[io.BytesIO(b"one picture")]), SETTINGS)
    copy = tmp_path / "copy.png"
    copy.write_bytes(picture.read_bytes())
    of_file = sample_key(feature(images=[str(picture)]), SETTINGS)
    assert of_file == sample_key(feature(images=[{"path": str(copy), "bytes": None}]), SETTINGS) != key


@pytest.mark.parametrize(
    "change",
    [
        {"input_ids": [1, 2, 3, 5]},
        {"labels": [-100, 2, 3, 4]},
        {"attention_mask": [1, 1, 2, 2]},
        {"position_ids": [0, 1, 0, 1]},
        {"packing_params": {"sequence_boundaries": [0, 2, 4]}},
        {"images": [b"one picture", b""]},
        {"images": [b"another picture"]},
        {"images": [b"one", b" picture"]},
        {"images": None},
        {"images": None, "videos": [b"one picture"]},
        {"images": None, "videos": [[b"one picture"]]},
        {"images": [np.zeros((2, 3), dtype=np.uint8)]},
    ],
    ids=str,
)
def test_the_key_changes_with_every_part(change):
    assert sample_key(feature(**change), SETTINGS) != sample_key(feature(), SETTINGS)


def test_pixels_size_and_settings_count(picture):
    def of_image(size, colour):
        return sample_key(feature(images=[Image.new("RGB", size, colour)]), SETTINGS)

    assert len({of_image((4, 3), 1), of_image((3, 4), 1), of_image((4, 3), 2)}) == 3
    assert sample_key(feature(), SETTINGS | {"image_square": False}) != sample_key(feature(), SETTINGS)
    before = sample_key(feature(images=[str(picture)]), SETTINGS)
    Image.new("RGB", (4, 3), (9, 8, 6)).save(picture)
    assert sample_key(feature(images=[str(picture)]), SETTINGS) != before


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(TypeError, match="tell one object from another.*kd_cache: off"):
        sample_key(feature(images=[object()]), SETTINGS)
    with pytest.raises(ValueError, match="one sample without padding"):
        sample_key(feature(labels=[-100, 3, 4]), SETTINGS)


def test_the_collator_takes_keys_before_padding():
    def pads(features):
        for each in features:
            each.pop("images")
        return {"input_ids": torch.zeros(len(features), 8, dtype=torch.int64)}

    rows = [feature(), feature(images=[b"x"])]
    wanted = [sample_key(row, SETTINGS) for row in rows]
    batch = KeyedCollator(pads, SETTINGS)([dict(row) for row in rows])
    assert batch[CACHE_KEY].shape == (2, 32) and batch[CACHE_KEY].dtype == torch.uint8
    assert pop_keys(batch) == wanted
    assert CACHE_KEY not in batch


def test_the_teacher_is_another_with_another_adapter_below_adapter_folder(tmp_path):
    settings = ("quantization_bit", "quantization_type", "compute_dtype", "infer_dtype", "rope_scaling")
    model = SimpleNamespace(
        model_name_or_path=str(tmp_path), adapter_name_or_path=[str(tmp_path)], adapter_folder="one",
        **dict.fromkeys(settings),
    )  # fmt: skip
    (tmp_path / "one").mkdir()
    identities = []
    for content in (b"first", b"second"):
        (tmp_path / "one" / "adapter_model.safetensors").write_bytes(content)
        identities.append(teacher_identity(model, None))
    assert identities[0] != identities[1]


def test_every_rule_of_pixels_is_among_the_settings(monkeypatch):
    from llamafactory.hparams import ModelArguments

    processor = SimpleNamespace(image_processor=SimpleNamespace(to_dict=lambda: {"size": sizes[0]}))
    sizes, model = [28], ModelArguments(model_name_or_path="model")
    before = pixel_settings(processor, model, image_square=True)
    found = [before, pixel_settings(processor, model, image_square=False)]
    sizes[0] = 56
    found.append(pixel_settings(processor, model, image_square=True))
    sizes[0] = 28
    for name in ("image_max_pixels", "image_min_pixels", "video_maxlen", "image_do_pan_and_scan", "crop_to_patches"):
        changed = ModelArguments(model_name_or_path="model")
        setattr(changed, name, 7)
        found.append(pixel_settings(processor, changed, image_square=True))
    monkeypatch.setattr(cache_keys, "installed_version", lambda name: "0")
    found.append(pixel_settings(processor, model, image_square=True))
    assert len({sample_key(feature(), settings) for settings in found}) == len(found) == 9
