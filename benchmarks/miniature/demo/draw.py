# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Draws pictures of the miniature with questions: a random view of a slice, and turns of the four tasks.

Picture ``number`` of a split depends on nothing but the scans, the seed, the split and the number.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ..questions import Finding, analysis, caption, classification, grounding, neighbour_of
from ..render import View, mask_box, oriented_slice, render, slice_spacing
from ..volumes import PLANES, Volume
from .structures import class_names


SPLITS = ("train", "test", "pretrain")  # `pretrain` draws other views of the training slices
MIN_AREA = 0.016  # a structure must cover this part of the picture to be asked for
MIN_LABELLED = 0.10  # a slice must have this part labelled to be used
FILL = 0.9  # field of view at zoom 1, in parts of the slice's longer side
SHOWN = 3  # structures that an analysis lists
GRID = 56  # box edges are multiples of 1/56 of the picture (2 pixels): 57 numbers to be written
MAX_SHIFT, ZOOM, MAX_ANGLE = 0.2, (0.7, 1.5), 0.2
# Slices in a cycle, and the parts of it for training and test; the others are never shown.
CYCLES = {"body_mr": (10, range(0, 6), range(7, 9))}
CYCLE = (30, range(0, 22), range(24, 29))


def split_of(key: str, index: int) -> str | None:
    """Which split slice ``index`` of scan ``key`` belongs to: ``train``, ``test``, or None in the gaps between.

    22 for training, 2 left out, 5 for test, 1 left out, and again; of the abdominal MR, which has 20 slices, 6, 1, 2
    and 1. A test slice is at least two slices from any training slice.
    """
    cycle, train, test = CYCLES.get(key, CYCLE)
    return "train" if index % cycle in train else "test" if index % cycle in test else None


def snapped_box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The bounding box of a mask in thousandths, its edges on the grid of 1/56; the far edge is 999."""
    edges = (round(edge * GRID / 1000) for edge in mask_box(mask))
    return tuple(min(round(1000 * edge / GRID), 999) for edge in edges)


@dataclass
class Shown:
    """A picture, uint8 ``[S, S]``, and what it shows: ``labels`` int16 ``[S, S]``, and ``findings`` by label."""

    id: str
    volume: Volume
    picture: np.ndarray
    labels: np.ndarray
    findings: dict[int, Finding]
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Source:
    """The scans that pictures are drawn from."""

    volumes: list[Volume]

    @cached_property
    def slices(self) -> dict[tuple[str, str], list[tuple[int, int]]]:
        """(volume key, split) -> its usable (axis, index), in order."""
        usable: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for volume in self.volumes:
            for axis in (PLANES.index(plane) for plane in volume.planes):
                others = tuple(number for number in range(3) if number != axis)
                labelled = (volume.labels != 0).mean(axis=others)
                for index, part in enumerate(labelled):
                    if (split := split_of(volume.key, index)) and part >= MIN_LABELLED:
                        usable.setdefault((volume.key, split), []).append((axis, index))
        return usable

    @cached_property
    def tables(self) -> dict[str, np.ndarray]:
        """Volume key -> table of its labels' classes, 0 for background."""
        names = class_names(self.volumes)
        return {
            volume.key: np.array([0] + [names.index(volume.names[i]) + 1 for i in sorted(volume.names)], np.int16)
            for volume in self.volumes
        }


def draw_key(rng: np.random.Generator, shares: dict[str, float]) -> str:
    """Draws a key with the given relative shares."""
    keys, weights = list(shares), np.array(list(shares.values()))
    return keys[rng.choice(len(keys), p=weights / weights.sum())]


def draw(source: Source, shares: dict[str, float], seed: int, split: str, number: int) -> Shown:
    """Draws picture ``number`` of ``split``; its plane is drawn evenly, then its slice."""
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    key = draw_key(rng, shares)
    volume = next(volume for volume in source.volumes if volume.key == key)
    slices = source.slices[key, "test" if split == "test" else "train"]
    axes = sorted({axis for axis, _ in slices})
    while True:
        axis = axes[rng.integers(len(axes))]
        indices = [index for other, index in slices if other == axis]
        index = indices[rng.integers(len(indices))]
        down, right = rng.uniform(-MAX_SHIFT, MAX_SHIFT, size=2)
        view = View(down, right, rng.uniform(*ZOOM), rng.uniform(-MAX_ANGLE, MAX_ANGLE))
        spacing = slice_spacing(volume.spacing, axis)
        mask = oriented_slice(volume.labels, axis, index)
        extent = FILL * max(size * pixel for size, pixel in zip(mask.shape, spacing, strict=True))
        labels = render(mask, view, extent, spacing, order=0)
        areas = np.bincount(labels.ravel(), minlength=1) / labels.size
        seen = [label for label in range(1, len(areas)) if areas[label] >= MIN_AREA]
        if len(seen) >= 3:
            break

    findings = {}
    for label in seen:
        other = neighbour_of(labels, label)
        neighbour = volume.names[other] if other else None
        findings[label] = Finding(volume.names[label], snapped_box(labels == label), float(areas[label]), neighbour)
    picture = render(oriented_slice(volume.image, axis, index), view, extent, spacing)
    picture = np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
    facts = {"modality": volume.modality, "scan": key, "plane": PLANES[axis], "slice": index}
    return Shown(f"{volume.modality}_{split}_{number:05d}", volume, picture, labels, findings, facts)


def ask_about(
    shown: Shown, rng: np.random.Generator, tasks: Sequence[str], order: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """One turn for each task: ``{"task", "turn": [question, answer], "structure", "box"}``.

    No structure is asked about twice (an answer could be copied from the text) until all have been; ``order`` gives
    their labels, by default in a random order.
    """
    order = list(order or rng.permutation(sorted(shown.findings)).tolist())
    asked, position = [], 0
    for task in tasks:
        if task == "MIA":
            largest = sorted(shown.findings.values(), key=lambda finding: (-finding.area, finding.name))[:SHOWN]
            view = f"{shown.facts['plane']} {shown.volume.title}"
            asked.append({"task": task, "turn": analysis(rng, view, [finding.name for finding in largest])})
            continue
        finding = shown.findings[order[position % len(order)]]
        position += 1
        if task == "VG":
            turn = grounding(rng, finding)
        elif task == "ROC":
            turn = classification(rng, finding)
        else:
            turn = caption(rng, finding, shown.facts["plane"], shown.volume.title)
        asked.append({"task": task, "turn": turn, "structure": finding.name, "box": list(finding.box)})
    return asked
