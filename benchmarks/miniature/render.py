# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A slice seen through a field of view: shifted, zoomed and turned, so a box must be read from the image.

Geometry: an output pixel ``q`` (row, column; millimetres from the middle of the view) shows the point
``centre + R(angle) q`` of the slice. The mask goes through the same map (nearest neighbour), and its bounding box is
the box of the row.
"""

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import affine_transform


SIZE = 112  # pixels a side: 8 x 8 patches of 14


@dataclass(frozen=True)
class View:
    """A field of view: shift of its centre (parts of the field, down and right), zoom, and angle in radians."""

    down: float
    right: float
    zoom: float
    angle: float


def oriented_slice(array: np.ndarray, axis: int, index: int) -> np.ndarray:
    """Takes a slice of an RAS+ array as a radiologist sees it: patient's right, or front, on the left; head up.

    Args:
        array: ``[X, Y, Z]``.
        axis: 0 sagittal, 1 coronal, 2 axial (front up).
        index: Position along the axis.
    """
    return array[(slice(None),) * axis + (index,)].T[::-1, ::-1]  # a view; np.take would copy the volume


def slice_spacing(spacing: tuple[float, float, float], axis: int) -> tuple[float, float]:
    """Millimetres per (row, column) of :func:`oriented_slice`."""
    column, row = (size for number, size in enumerate(spacing) if number != axis)
    return row, column


def render(
    image: np.ndarray,
    view: View,
    field: float,
    spacing: tuple[float, float] = (1.0, 1.0),
    order: int = 1,
    size: int = SIZE,
) -> np.ndarray:
    """Shows ``image`` through ``view``.

    Args:
        image: ``[H, W]``.
        view: The field of view.
        field: Side of the square field at zoom 1, in the unit of ``spacing``.
        spacing: Size of one pixel of ``image``, (row, column).
        order: 1 for pictures (linear), 0 for masks (nearest).
        size: Side of the output in pixels.

    Returns:
        ``[size, size]`` of ``image``'s type; 0 outside the image.
    """
    step = field / view.zoom / size
    spacing_array = np.asarray(spacing)
    cos, sin = np.cos(view.angle), np.sin(view.angle)
    matrix = np.array([[cos, -sin], [sin, cos]]) * step / spacing_array[:, None]
    centre = (np.asarray(image.shape) - 1) / 2 + np.array([view.down, view.right]) * field / spacing_array
    offset = centre - matrix @ np.full(2, (size - 1) / 2)
    return affine_transform(image, matrix, offset, output_shape=(size, size), order=order, mode="constant", cval=0)


def mask_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The bounding box of a mask ``[S, S]`` in thousandths: x1, y1, x2, y2, the far edge 1000 written as 999.

    Raises:
        ValueError: If the mask is empty.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        raise ValueError("The mask is empty: it has no bounding box.")
    height, width = mask.shape
    edges = (columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height)
    return tuple(min(round(1000 * float(edge)), 999) for edge in edges)
