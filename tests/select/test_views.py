# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from PIL import Image

from llamafactory_clinkd.select.views import BOX_VIEWS, REGIONS, box_view, pixel_box, views_of
from llamafactory_clinkd.utils.boxes import Box


def picture(width=200, height=100):
    values = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_boxes_in_pixels():
    image = picture()
    assert pixel_box(image, Box(0, 0, 1000, 1000)) == (0, 0, 200, 100)
    assert pixel_box(image, Box(500, 250, 750, 750)) == (100, 25, 150, 75)
    assert pixel_box(image, Box(500, 500, 501, 501)) == (100, 50, 101, 51)
    assert pixel_box(image, Box(-300, -300, 500, 500)) == (0, 0, 100, 50)
    assert pixel_box(image, Box(500, 500, 500, 700)) is None
    assert pixel_box(image, Box(1100, 0, 1300, 500)) is None


def test_each_view_shows_its_box():
    image, box = picture(), Box(250, 200, 500, 600)
    pixels, (left, top, right, bottom) = np.asarray(image), (50, 20, 100, 60)
    assert np.array_equal(np.asarray(box_view(image, box, "crop")), pixels[16:64, 45:105])  # a tenth on each side
    marked = np.asarray(box_view(image, box, "highlight"))
    changed = (marked != pixels).any(axis=-1)
    assert (marked[top, left:right] == (255, 0, 0)).all() and (marked[top:bottom, right - 1] == (255, 0, 0)).all()
    assert changed.sum() <= 2 * (50 + 40) and not changed[top + 1 : bottom - 1, left + 1 : right - 1].any()
    blurred = np.asarray(box_view(image, box, "blur"))
    assert np.array_equal(blurred[top:bottom, left:right], pixels[top:bottom, left:right])
    outside = np.ones(pixels.shape[:2], dtype=bool)
    outside[top:bottom, left:right] = False
    assert blurred[outside].std() < 0.5 * pixels[outside].std()
    assert np.array_equal(np.asarray(image), pixels), "a view changed its image"
    assert all(box_view(image, Box(1100, 0, 1200, 9), view) is None for view in BOX_VIEWS)


def test_regions():
    assert views_of("image") == () and views_of("mean") == BOX_VIEWS and views_of("blur") == ("blur",)
    assert len(views_of("auto")) == 1 and set(REGIONS) == {"auto", "image", "crop", "highlight", "blur", "mean"}
    with pytest.raises(ValueError, match="expected one of auto, image"):
        views_of("whole")
