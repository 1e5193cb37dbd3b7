# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import copy
import math
import os
from types import SimpleNamespace

import dill
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from transformers import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from llamafactory_clinkd.rope.square import prepared_template, processor_limits, square_size, to_square


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


STOCK = {"image_max_pixels": 768 * 768, "image_min_pixels": 32 * 32}  # LLaMA-Factory's defaults
QWEN = {"min_pixels": 3136, "max_pixels": 12845056}  # of Qwen2-VL's own preprocessor_config.json


@pytest.fixture(scope="module")
def template():
    from llamafactory.data.template import TEMPLATES

    return TEMPLATES["qwen2_vl"]


class Processor:
    """The attributes of a processor that a template's plugin reads."""

    def __init__(self, **limits):
        self.image_processor = Qwen2VLImageProcessor(**limits)
        self.video_processor = None
        self.image_max_pixels, self.image_min_pixels = STOCK["image_max_pixels"], STOCK["image_min_pixels"]


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(1, 1200),
    height=st.integers(1, 1200),
    most=st.sampled_from([252 * 252, 768 * 768, QWEN["max_pixels"]]),
    smallest=st.sampled_from([32 * 32, 100 * 100]),
    largest=st.sampled_from([100 * 100, 300 * 300, 768 * 768]),
)
def test_nothing_after_it_resamples(template, width, height, most, smallest, largest):
    plugin = prepared_template(template, square=True).mm_plugin
    processor = Processor(min_pixels=3136, max_pixels=most)
    plugin.clinkd_limits = processor_limits(processor.image_processor)
    limits = {"image_min_pixels": smallest, "image_max_pixels": largest}
    if smallest > 84 * 84 and largest < 112 * 112:  # between 100 and 100 there is no multiple of 28
        with pytest.raises(ValueError, match="No square"):
            plugin._preprocess_image(Image.new("RGB", (width, height)), **limits)
        return
    found = plugin._preprocess_image(Image.new("RGB", (width, height)), **limits)
    side = found.width
    assert found.size == (side, side) and side % 28 == 0
    assert max(smallest, 3136) <= side * side <= min(largest, most)
    assert smart_resize(side, side, 28, 3136, most) == (side, side)
    assert template.mm_plugin._preprocess_image(found, **limits).size == (side, side)


def test_the_pixels_of_the_model_are_the_square_s(template):
    """LLaMA-Factory's default limit is above this processor's 252 x 252, which would resample 500 x 500 once more."""
    processor = Processor(min_pixels=3136, max_pixels=252 * 252)
    noise = Image.effect_noise((600, 400), 60).convert("RGB")
    found = prepared_template(template, square=True).mm_plugin._get_mm_inputs([noise], [], [], processor)
    square = to_square(noise, min_pixels=3136, max_pixels=252 * 252)
    assert square.size == (252, 252)
    expected = processor.image_processor([square], return_tensors="pt", do_resize=False)
    assert found["image_grid_thw"].tolist() == [[1, 18, 18]]
    assert found["pixel_values"].equal(expected["pixel_values"])
    assert template.mm_plugin._get_mm_inputs([noise], [], [], processor)["image_grid_thw"].tolist() == [[1, 14, 22]]


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_boxes_stay_where_they_were(template, data):
    """A drawn box's normalised corners, from its picture and from the square: the same within a pixel of each."""
    width, height = data.draw(st.integers(100, 500)), data.draw(st.integers(100, 500))
    left, top = data.draw(st.integers(0, width - 60)), data.draw(st.integers(0, height - 60))
    right, bottom = data.draw(st.integers(left + 50, width - 1)), data.draw(st.integers(top + 50, height - 1))
    picture = Image.new("L", (width, height))
    ImageDraw.Draw(picture).rectangle([left, top, right, bottom], fill=255)
    square = prepared_template(template, square=True).mm_plugin._preprocess_image(picture, **STOCK)
    box = square.convert("L").point(lambda value: 255 * (value > 127)).getbbox()
    for found, corner, side in zip(box, (left, top, right + 1, bottom + 1), (width, height) * 2, strict=True):
        assert abs(found / square.width - corner / side) <= 1 / square.width + 1 / side


def test_frames_of_a_video_stay_as_they_are(template):
    frame = Image.new("RGB", (140, 84))
    plugin = prepared_template(template, square=True).mm_plugin
    frames = plugin._regularize_videos([[frame, frame]], video_fps=2.0, video_maxlen=8, **STOCK)["videos"]
    assert [image.size for image in frames[0]] == [(140, 84)] * 2


def test_the_registered_template_is_left_alone_and_the_copy_can_be_pickled(template):
    from datasets.fingerprint import Hasher

    before = dict(vars(template.mm_plugin))
    squared = prepared_template(template, square=True)
    assert vars(template.mm_plugin) == before and squared.mm_plugin is not template.mm_plugin
    # `datasets` names its caches by this hash, and sends the template to its workers.
    assert (
        Hasher.hash(squared)
        == Hasher.hash(prepared_template(template, square=True))
        != Hasher.hash(copy.copy(template))
    )
    sent = dill.loads(dill.dumps(squared)).mm_plugin
    assert sent._preprocess_image.__self__ is sent
    assert sent._preprocess_image(Image.new("RGB", (140, 84)), **STOCK).size == (112, 112)


def test_a_processor_of_another_kind_sets_no_limit():
    class Fixed:
        size = {"height": 336, "width": 336}

    assert processor_limits(None) == processor_limits(Fixed()) == (1, 2**31, 28)


def test_an_image_s_grid_is_computed_once_until_the_file_or_a_limit_changes(tmp_path, monkeypatch):
    from llamafactory.data.mm_plugin import Qwen2VLPlugin, get_mm_plugin

    path, read = tmp_path / "scan.png", []
    Image.new("RGB", (200, 50)).save(path)
    stock = Qwen2VLPlugin._get_mm_inputs
    monkeypatch.setattr(Qwen2VLPlugin, "_get_mm_inputs", lambda *args: read.append(args[1]) or stock(*args))

    def grid(images=1, square=True, **limits):
        image_processor = Qwen2VLImageProcessor(**QWEN)
        processor = SimpleNamespace(image_processor=image_processor, **(STOCK | limits))
        plugin = get_mm_plugin("qwen2_vl", image_token="<|image_pad|>")
        plugin = prepared_template(SimpleNamespace(mm_plugin=plugin), square=square).mm_plugin
        found = plugin._get_mm_token_metadata([str(path)] * images, [], [], processor)
        assert found["image_grid_thw"].dtype == stock(plugin, [str(path)], [], [], processor)["image_grid_thw"].dtype
        return found["image_grid_thw"].tolist()

    assert grid() == [[1, 8, 8]] and grid(images=2) == [[1, 8, 8]] * 2
    assert len(read) == 1
    assert grid(square=False) == [[1, 4, 14]]
    assert grid(image_max_pixels=56 * 56) == [[1, 4, 4]]
    Image.new("RGB", (300, 300)).save(path)
    os.utime(path, ns=(1, 1))
    assert grid() == [[1, 22, 22]]
    assert len(read) == 4
