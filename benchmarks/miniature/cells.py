# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What the small squares of a picture show: the targets of the vision tower's pretraining."""

import numpy as np

from .render import mask_box


CELL = 7  # pixels a side; a patch of the vision tower has 2 x 2 cells
CELLS = 16  # a side of a picture of 112 pixels
IGNORED = -100  # the class of a cell about which nothing is known


def cells_of(labels: np.ndarray) -> np.ndarray:
    """The label in the middle of each cell: ``[S, S]`` -> ``[S / 7, S / 7]``."""
    return labels[CELL // 2 :: CELL, CELL // 2 :: CELL]


def cell_boxes(labels: np.ndarray) -> np.ndarray:
    """The bounding box of the structure that each cell shows.

    Args:
        labels: int ``[S, S]``.

    Returns:
        int16 ``[S / 7, S / 7, 4]``: x1, y1, x2, y2 in thousandths; zeros for background.
    """
    cells = cells_of(labels)
    boxes = np.zeros((*cells.shape, 4), dtype=np.int16)
    for label in np.unique(cells[cells != 0]):
        boxes[cells == label] = mask_box(labels == label)
    return boxes
