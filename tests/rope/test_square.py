# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from llamafactory_clinkd.rope.square import square_size, to_square


examples = settings(deadline=None)  # tests assert no time
sides = st.integers(1, 3000)


@examples
@given(sides, sides, st.integers(0, 200_000), st.integers(28 * 28, 2_000_000))
def test_the_side_is_on_the_grid_and_inside_the_limits(width, height, min_pixels, max_pixels):
    fitting = [n * 28 for n in range(1, math.isqrt(max_pixels) // 28 + 1) if (n * 28) ** 2 >= min_pixels]
    assume(fitting)
    side = square_size(width, height, min_pixels=min_pixels, max_pixels=max_pixels)
    assert side in fitting
    # No fitting side is nearer to the side that keeps the area.
    assert abs(side - math.sqrt(width * height)) == min(abs(s - math.sqrt(width * height)) for s in fitting)


@examples
@given(sides, sides)
def test_qwen2_vl_s_own_processor_resizes_no_more(width, height):
    limits = {"min_pixels": 56 * 56, "max_pixels": 768 * 768}
    side = square_size(width, height, **limits)
    assert smart_resize(side, side, factor=28, **limits) == (side, side)
    assert square_size(side, side, **limits) == side


def test_limits_that_hold_no_square_are_an_error():
    with pytest.raises(ValueError, match="multiple of 28 has 1000 to 1100 pixels.*at least 3136"):
        square_size(100, 100, min_pixels=1000, max_pixels=1100)


def test_an_empty_image_is_an_error():
    with pytest.raises(ValueError, match="found 0 x 5"):
        square_size(0, 5, min_pixels=1, max_pixels=10_000)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "I;16"])
def test_images_of_any_mode_become_square(mode):
    source = Image.new("L", (200, 50), 90)
    image = Image.new("I;16", (200, 50), 900) if mode == "I;16" else source.convert(mode)
    square = to_square(image, min_pixels=1024, max_pixels=589_824)
    assert square.size == (112, 112)  # sqrt(200 * 50) = 100, and 112 = 4 * 28 is nearer than 84
    assert image.size == (200, 50)


def test_a_box_keeps_its_fractions_of_the_sides():
    pixels = np.zeros((300, 600), dtype=np.uint8)
    pixels[60:150, 120:480] = 255
    square = np.asarray(to_square(Image.fromarray(pixels), min_pixels=1024, max_pixels=589_824)) > 127
    rows, columns = np.nonzero(square.any(1))[0], np.nonzero(square.any(0))[0]
    side = square.shape[0]
    found = [columns[0] / side, rows[0] / side, (columns[-1] + 1) / side, (rows[-1] + 1) / side]
    assert np.allclose(found, [0.2, 0.2, 0.8, 0.5], atol=1 / side)


def test_a_fitting_image_is_returned_as_it_is():
    image = Image.new("RGB", (112, 112))
    assert to_square(image, min_pixels=1024, max_pixels=589_824) is image
