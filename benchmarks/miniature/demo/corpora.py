# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What the miniature's models are pretrained on: pictures of the training slices, and conversations about them.

The teacher learns from all scans, the base from the brain alone: it has never read about an abdomen.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..render import mask_box
from ..volumes import Volume
from .draw import Source, ask_about, draw, draw_key
from .structures import class_names


SHARES = {"brain_mr": 0.3, "body_ct": 0.45, "body_mr": 0.25}
TASKS = {"VG": 0.42, "ROC": 0.25, "RC": 0.20, "MIA": 0.13}
CELL = 7  # pixels a side; a patch of the vision tower has 2 x 2 cells
TURNS = 6  # questions about each picture
SEED = 1000  # of the pretraining pictures; the shipped data have another


@dataclass(frozen=True)
class Pictures:
    """Pretraining pictures in order.

    Attributes:
        pictures: uint8 ``[N, S, S, 3]``.
        cells: int16 ``[N, 16, 16]``: class of each cell, 0 for background.
        boxes: int16 ``[N, 16, 16, 4]``: the box of the structure that each cell shows, in thousandths.
        classes: Number of classes, background included.
        scans: The scan of each picture.
        messages: For each picture, its conversation (``role``, ``content``).
    """

    pictures: np.ndarray
    cells: np.ndarray
    boxes: np.ndarray
    classes: int
    scans: list[str]
    messages: list[list[dict[str, Any]]]

    def of(self, scans: tuple[str, ...]) -> np.ndarray:
        """The numbers of the pictures of these scans."""
        return np.flatnonzero(np.isin(self.scans, scans))


def make_pictures(volumes: list[Volume], count: int) -> Pictures:
    """Draws ``count`` pictures and up to :data:`TURNS` questions about each."""
    source, pictures, cells, boxes, scans, messages = Source(volumes), [], [], [], [], []
    for number in range(count):
        shown = draw(source, SHARES, SEED, "pretrain", number)
        rng = np.random.default_rng([SEED, number])
        tasks, turns = [], min(TURNS, len(shown.findings) + 1)
        while len(tasks) < turns:
            task = draw_key(rng, TASKS)
            if task != "MIA" or "MIA" not in tasks:
                tasks.append(task)
        asked = ask_about(shown, rng, tasks)
        pictures.append(shown.picture)
        cells.append(source.tables[shown.facts["scan"]][cells_of(shown.labels)])
        boxes.append(cell_boxes(shown.labels))
        scans.append(shown.facts["scan"])
        messages.append(conversation([item["turn"] for item in asked]))
    grey = np.stack(pictures)
    classes = len(class_names(volumes)) + 1
    return Pictures(np.repeat(grey[..., None], 3, axis=-1), np.stack(cells), np.stack(boxes), classes, scans, messages)


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


def conversation(turns: list[list[str]]) -> list[dict[str, str]]:
    """Turns as messages; the picture comes with the first question."""
    messages = []
    for number, (question, answer) in enumerate(turns):
        messages.append({"role": "user", "content": question if number else f"<image>{question}"})
        messages.append({"role": "assistant", "content": answer})
    return messages


def default_archive() -> Path:
    """Where the scans are fetched to."""
    from ..fetch import fetch_totalsegmentator

    return fetch_totalsegmentator("runs/demo/cache")
