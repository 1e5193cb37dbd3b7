# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import copy

import dill
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from transformers import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

from llamafactory_clinkd.rope.square import processor_limits, squared_template, to_square


STOCK = {"image_max_pixels": 768 * 768, "image_min_pixels": 32 * 32}  # LLaMA-Factory's defaults
QWEN = {"min_pixels": 3136, "max_pixels": 12845056}  # of Qwen2-VL's own preprocessor_config.json


@pytest.fixture(scope="module")
def template():
    from llamafactory.data.template import TEMPLATES

    return TEMPLATES["qwen2_vl"]


class Processor:
    """What a template's plugin asks a processor for."""

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
    plugin = squared_template(template).mm_plugin
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
    found = squared_template(template).mm_plugin._get_mm_inputs([noise], [], [], processor)
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
    square = squared_template(template).mm_plugin._preprocess_image(picture, **STOCK)
    box = square.convert("L").point(lambda value: 255 * (value > 127)).getbbox()
    for found, corner, side in zip(box, (left, top, right + 1, bottom + 1), (width, height) * 2, strict=True):
        assert abs(found / square.width - corner / side) <= 1 / square.width + 1 / side


def test_frames_of_a_video_stay_as_they_are(template):
    frame = Image.new("RGB", (140, 84))
    plugin = squared_template(template).mm_plugin
    frames = plugin._regularize_videos([[frame, frame]], video_fps=2.0, video_maxlen=8, **STOCK)["videos"]
    assert [image.size for image in frames[0]] == [(140, 84)] * 2


def test_the_registered_template_is_left_alone_and_the_copy_can_be_pickled(template):
    from datasets.fingerprint import Hasher

    before = dict(vars(template.mm_plugin))
    squared = squared_template(template)
    assert vars(template.mm_plugin) == before and squared.mm_plugin is not template.mm_plugin
    # `datasets` names its caches by this hash, and sends the template to its workers.
    assert Hasher.hash(squared) == Hasher.hash(squared_template(template)) != Hasher.hash(copy.copy(template))
    sent = dill.loads(dill.dumps(squared)).mm_plugin
    assert sent._preprocess_image.__self__ is sent
    assert sent._preprocess_image(Image.new("RGB", (140, 84)), **STOCK).size == (112, 112)


def test_a_processor_of_another_kind_sets_no_limit():
    class Fixed:
        size = {"height": 336, "width": 336}

    assert processor_limits(None) == processor_limits(Fixed()) == (1, 2**31, 28)
