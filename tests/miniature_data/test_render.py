# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from miniature.render import SIZE, View, mask_box, oriented_slice, render, slice_spacing


STILL = View(down=0.0, right=0.0, zoom=1.0, angle=0.0)


def test_a_still_view_of_the_whole_slice_is_the_slice():
    image = np.random.default_rng(0).uniform(size=(SIZE, SIZE)).astype(np.float32)
    np.testing.assert_allclose(render(image, STILL, field=SIZE), image, atol=1e-6)


def test_each_output_pixel_shows_the_point_that_the_definition_names():
    rng = np.random.default_rng(1)
    labels = rng.integers(1, 1000, size=(60, 50))
    spacing, field, size = (3.0, 2.0), 120.0, 40
    view = View(down=0.05, right=-0.08, zoom=1.2, angle=0.25)
    shown = render(labels, view, field, spacing, order=0, size=size)
    millimetres = field / view.zoom / size
    for row, column in rng.integers(0, size, size=(200, 2)):
        y, x = (row - (size - 1) / 2) * millimetres, (column - (size - 1) / 2) * millimetres
        down = y * np.cos(view.angle) - x * np.sin(view.angle) + view.down * field
        right = y * np.sin(view.angle) + x * np.cos(view.angle) + view.right * field
        at = ((60 - 1) / 2 + down / spacing[0], (50 - 1) / 2 + right / spacing[1])
        inside = -0.5 < at[0] < 59.5 and -0.5 < at[1] < 49.5
        if inside and all(0 <= value <= limit for value, limit in zip(at, (59, 49), strict=True)):
            near = [abs(value - np.floor(value) - 0.5) for value in at]
            if min(near) > 1e-3:  # halfway between two pixels either is right
                assert shown[row, column] == labels[round(at[0]), round(at[1])]


def test_mask_and_image_go_through_the_same_map():
    mask = np.zeros((100, 100))
    mask[30:60, 20:70] = 1
    view = View(down=0.1, right=-0.05, zoom=0.8, angle=-0.3)
    linear, nearest = render(mask, view, 100.0), render(mask.astype(int), view, 100.0, order=0)
    certain = (linear < 0.01) | (linear > 0.99)
    assert certain.mean() > 0.9
    np.testing.assert_array_equal(nearest[certain], linear[certain].round().astype(int))


@pytest.mark.parametrize(
    ("rows", "columns", "expected"),
    [
        ((0, 112), (0, 112), (0, 0, 999, 999)),
        ((10, 11), (20, 22), (179, 89, 196, 98)),
        ((100, 112), (0, 56), (0, 893, 500, 999)),
    ],
)
def test_box_of_a_rectangle(rows, columns, expected):
    mask = np.zeros((112, 112), dtype=bool)
    mask[rows[0] : rows[1], columns[0] : columns[1]] = True
    assert mask_box(mask) == expected


def test_an_empty_mask_has_no_box():
    with pytest.raises(ValueError, match="empty"):
        mask_box(np.zeros((5, 5), dtype=bool))


def test_slices_look_as_in_a_report():
    volume = np.zeros((4, 5, 6))  # towards right, front, head
    volume[3, :, :] += 1  # patient's right
    volume[:, 4, :] += 10  # front
    volume[:, :, 5] += 100  # head
    axial, coronal, sagittal = (oriented_slice(volume, axis, 1) for axis in (2, 1, 0))
    assert axial.shape == (5, 4) and axial[0, 0] == 11 and axial[-1, -1] == 0
    assert coronal.shape == (6, 4) and coronal[0, 0] == 101 and coronal[-1, -1] == 0
    assert sagittal.shape == (6, 5) and sagittal[0, 0] == 110 and sagittal[-1, -1] == 0
    assert slice_spacing((1.0, 2.0, 3.0), 2) == (2.0, 1.0)
    assert slice_spacing((1.0, 2.0, 3.0), 0) == (3.0, 2.0)
