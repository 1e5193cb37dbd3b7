# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The rule from file to pixels, against references written from its table with numpy."""

import io

import numpy as np
import pytest
from picture_files import FILES, RGB, saved
from PIL import Image

from llamafactory_clinkd.utils.pixels import (
    PictureError,
    examine,
    examine_header,
    picture_size,
    read_pixels,
    rgb_pixels,
    stretch_percentiles,
)


ORIENTATIONS = {  # EXIF 2.3: what turns the stored rows and columns upright
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("name", FILES)
def test_the_pixels_and_remarks_of_every_mode(tmp_path, name):
    content, expected, remarks = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    pixels, found = examine(content, name)
    assert pixels.mode == "RGB" and set(found) == remarks
    for other in (read_pixels(path), read_pixels(str(path)), read_pixels(content), read_pixels(io.BytesIO(content))):
        np.testing.assert_array_equal(other, pixels)
    difference = np.abs(np.asarray(pixels).astype(int) - expected.astype(int)).max()
    assert difference <= (1 if "clear" in name or "ycbcr" in name else 0)  # these round
    header = set(examine_header(path))
    assert header - {"image_alpha"} == remarks - {"image_alpha", "image_blank"} - ({"image_mode"} & (remarks - header))
    assert ("image_alpha" in header) == ("image_alpha" in remarks or name == "opaque.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_upright(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(RGB, kind, exif=exif)
    (tmp_path / "a").write_bytes(content)
    with Image.open(io.BytesIO(content)) as opened:
        stored, size = np.asarray(opened.convert("RGB")), picture_size(opened)
    pixels, remarks = examine(content, "a")
    assert pixels.size == size == ((40, 60) if orientation > 4 else (60, 40))
    turned_by_pil = orientation == 1 or kind == "TIFF"
    expected = stored if turned_by_pil else ORIENTATIONS[orientation](stored)
    np.testing.assert_array_equal(pixels, expected)
    assert set(remarks) == (set() if orientation == 1 else {"image_rotated"})
    assert ("image_rotated" in examine_header(tmp_path / "a")) == (orientation > 1)
    np.testing.assert_array_equal(read_pixels(tmp_path / "a"), pixels)  # of a raw TIFF's path, PIL gives others
    with Image.open(io.BytesIO(content)) as opened:
        assert picture_size(opened, upright=False) == (60, 40)
        as_stored = np.asarray(rgb_pixels(opened, upright=False))
    np.testing.assert_array_equal(as_stored if orientation == 1 else ORIENTATIONS[orientation](as_stored), pixels)


def test_a_few_bright_pixels_survive_the_stretch():
    values = np.zeros((100, 100), np.uint16)
    values[5, 5] = 60_000
    expected = np.where(values > 0, 255, 0)
    np.testing.assert_array_equal(stretch_percentiles(values), expected)
    np.testing.assert_array_equal(stretch_percentiles(np.full((3, 3), 9)), 0)


@pytest.mark.parametrize("values", [np.full((40, 40), np.nan), np.full((40, 40), np.inf)])
def test_a_picture_without_a_finite_value_has_no_pixels(values):
    with pytest.raises(PictureError, match="no finite value") as caught:
        read_pixels(saved(Image.fromarray(values.astype(np.float32)), "TIFF"))
    assert caught.value.code == "image_unreadable"


@pytest.mark.parametrize(
    ("size", "code"), [((27, 60), "image_small"), ((28, 28), None), ((28, 5600), "image_aspect"), ((28, 5599), None)]
)
def test_sizes_that_a_model_cannot_take(tmp_path, size, code):
    content = saved(Image.effect_noise(size, 60), "PNG")
    (tmp_path / "a.png").write_bytes(content)
    for look in (lambda: examine(content, "a.png"), lambda: examine_header(tmp_path / "a.png")):
        if code is None:
            look()
            continue
        with pytest.raises(PictureError) as caught:
            look()
        assert caught.value.code == code


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("left_out", [12, 100, 2000])
def test_a_file_whose_end_is_missing_is_found_by_the_header_too(tmp_path, kind, left_out):
    content = saved(RGB, kind)[:-left_out] if kind != "TIFF" else saved(RGB, kind, compression="raw")[:-left_out]
    path = tmp_path / "a"
    path.write_bytes(content)
    for look in (lambda: examine(content, "a"), lambda: examine_header(path)):
        with pytest.raises(PictureError) as caught:
            look()
        assert caught.value.code in ("image_truncated", "image_unreadable")
