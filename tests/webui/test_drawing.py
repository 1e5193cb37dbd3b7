# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from PIL import Image

from llamafactory_clinkd.utils.boxes import parse_boxes
from llamafactory_clinkd.webui.chat_tab import COLOURS, MIN_SIDE, draw_boxes


def coloured(picture, colour):
    """Bounds ``x1, y1, x2, y2`` of a colour's pixels, in thousandths of the picture; None where there are none."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    y, x = np.nonzero((np.asarray(picture) == wanted).all(axis=-1))
    if not len(x):
        return None
    return [1000 * v / side for v, side in zip((x.min(), y.min(), x.max(), y.max()), picture.size * 2, strict=True)]


@pytest.mark.parametrize("size", [(40, 30), (1600, 900), (300, 2000)])
def test_the_outline_is_at_the_coordinates_of_the_box(size):
    picture = draw_boxes(Image.new("L", size, 90), parse_boxes("liver <box>(100,250),(600,750)</box>"))
    assert max(picture.size) >= MIN_SIDE and picture.size[0] / picture.size[1] == pytest.approx(
        size[0] / size[1], rel=0.05
    )
    line = 1000 * 12 / min(picture.size)
    assert coloured(picture, COLOURS[0]) == pytest.approx([100, 250, 600, 750], abs=line)
    middle = picture.getpixel((round(0.35 * picture.width), round(0.5 * picture.height)))
    assert middle == (90, 90, 90)


def test_several_boxes_have_colours_and_numbers_of_their_own():
    image = Image.new("RGB", (800, 800), (20, 20, 20))
    before = image.tobytes()
    boxes = [(100, 100, 300, 300), (500, 500, 900, 900)]
    one, both = draw_boxes(image, boxes[:1]), draw_boxes(image, boxes)
    assert coloured(both, COLOURS[0]) == pytest.approx([100, 100, 300, 300], abs=8)
    assert coloured(both, COLOURS[1]) == pytest.approx([500, 500, 900, 900], abs=8)
    patch = np.asarray(both)[90:130, 90:130].astype(int) - np.asarray(one)[90:130, 90:130]
    assert np.abs(patch).sum() > 0
    assert image.tobytes() == before


@pytest.mark.parametrize(
    "box, drawn",
    [
        ((-300, -20, 500, 1400), [0, 0, 500, 1000]),
        ((400, 400, 400, 400), [400, 400, 400, 400]),
        ((1200, 1200, 1500, 1500), [1000, 1000, 1000, 1000]),
        ((700, 800, 200, 100), [200, 100, 700, 800]),
    ],
)
def test_odd_boxes_stay_inside_the_picture(box, drawn):
    picture = draw_boxes(Image.new("RGB", (900, 900)), [box])
    assert coloured(picture, COLOURS[0]) == pytest.approx(drawn, abs=8)


def test_without_boxes_it_is_the_picture():
    image = Image.new("RGB", (900, 800), (1, 2, 3))
    assert draw_boxes(image, []).tobytes() == image.tobytes()
