# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Images: every kind of scan becomes a small 8-bit picture, and a file that is no image is reported."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from llamafactory_clinkd.report.excerpts import embed, find_image


def decoded(picture) -> Image.Image:
    assert picture.uri.startswith("data:image/jpeg;base64,")
    return Image.open(io.BytesIO(base64.b64decode(picture.uri.partition(",")[2])))


def test_large_image_keeps_its_shape_and_small_one_its_size(tmp_path):
    Image.new("RGB", (3000, 1500), "red").save(tmp_path / "large.jpg")
    Image.new("L", (64, 48), 90).save(tmp_path / "small.png")
    large, small = embed(tmp_path / "large.jpg", 300), embed(tmp_path / "small.png", 300)
    assert (large.width, large.height) == decoded(large).size == (300, 150)
    assert (small.width, small.height) == (64, 48)


def test_sixteen_bit_scan_is_stretched_not_clipped(tmp_path):
    ramp = np.linspace(900, 3000, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "scan.png")
    shown = np.asarray(decoded(embed(tmp_path / "scan.png")))
    assert shown.min() < 10 and shown.max() > 245 and abs(shown.mean() - 127) < 5


def test_float_scan_with_holes_and_constant_scan(tmp_path):
    values = np.array([[0.0, np.nan], [1.0, np.inf]], np.float32)
    Image.fromarray(values).save(tmp_path / "float.tiff")
    Image.fromarray(np.full((8, 8), 7, np.int32)).save(tmp_path / "flat.tiff")
    assert decoded(embed(tmp_path / "float.tiff")).size == (2, 2)
    assert np.asarray(decoded(embed(tmp_path / "flat.tiff"))).max() == 0


def test_transparent_parts_are_black(tmp_path):
    Image.new("RGBA", (32, 32), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    assert np.asarray(decoded(embed(tmp_path / "clear.png"))).max() == 0


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "ct_1.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="ct_1.png cannot be read as an image"):
        embed(path)


def test_image_cut_off_in_the_middle_is_named(tmp_path):
    buffer = io.BytesIO()
    Image.effect_noise((200, 200), 60).save(buffer, "PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[:2000])
    with pytest.raises(ValueError, match="cut.png cannot be read"):
        embed(tmp_path / "cut.png")


def test_too_large_image_is_refused(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="DecompressionBombError"):
        embed(tmp_path / "bomb.png")


def test_image_is_found_as_named_within_the_run_or_beside_it(tmp_path):
    folder = tmp_path / "out"
    for place in (folder / "a.png", tmp_path / "images" / "b.png"):
        place.parent.mkdir(exist_ok=True)
        place.touch()
    assert find_image("a.png", folder) == folder / "a.png"
    assert find_image("images/b.png", folder) == tmp_path / "images" / "b.png"
    assert find_image(str(folder / "a.png"), tmp_path) == folder / "a.png"
    assert find_image("c.png", folder) is None and find_image("", folder) is None


def test_image_is_found_from_any_working_directory_and_where_it_has_moved(tmp_path, monkeypatch):
    """A run started in ``project`` names its images from there; the report is written elsewhere."""
    folder = tmp_path / "project" / "saves" / "run"
    image = tmp_path / "project" / "data" / "images" / "ct.png"
    for place in (folder, image.parent, tmp_path / "other" / "data" / "images", tmp_path / "moved"):
        place.mkdir(parents=True)
    for path in (image, tmp_path / "other" / "data" / "images" / "ct.png", tmp_path / "moved" / "mr.png"):
        path.touch()
    monkeypatch.chdir(tmp_path / "other")
    assert find_image("data/images/ct.png", folder) == image
    assert find_image("/gone/mr.png", folder) is None
    assert find_image("/gone/mr.png", folder, tmp_path / "moved") == tmp_path / "moved" / "mr.png"
    assert find_image("images/mr.png", folder, tmp_path / "moved") == tmp_path / "moved" / "mr.png"
