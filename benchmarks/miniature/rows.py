# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One row of the demo's data: a picture drawn from a scan, and a question and answer about it.

Row ``number`` of a split depends on nothing but the scans, the seed, the split and the number: rows can be made in any
order, by any number of processes, and come out the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from .pictures import Picture
from .questions import Finding, analysis, caption, classification, grounding, neighbour_of
from .render import draw_view, mask_box, oriented_slice, render, slice_spacing
from .volumes import PLANES, Volume


SPLITS = ("train", "test", "pretrain")  # `pretrain` draws other views of the training slices
TASK_SHARES = {"VG": 0.5, "ROC": 0.18, "RC": 0.16, "MIA": 0.16}
PRETRAIN_SHARES = {"VG": 0.76, "ROC": 0.12, "RC": 0.06, "MIA": 0.06}  # pointing takes by far the most examples
VOLUME_SHARES = {"brain_mr": 0.4, "body_ct": 0.45, "body_mr": 0.15}
PICTURE_SHARE = 0.5  # of MIA rows
MIN_AREA = 0.008  # a structure must cover this part of the picture to be asked for
FILL = 0.9  # field of view at zoom 1, in parts of the slice's longer side
MIN_LABELLED = 0.06  # a slice must have this part labelled to be used
SHOWN = 3  # structures that an analysis lists
CYCLE = 30  # slices: training, gap, test, gap, and again
TRAIN_SHARE, TEST_SHARE = (0.0, 0.72), (0.80, 0.95)


def split_of(index: int, count: int) -> str | None:
    """Which split slice ``index`` of ``count`` belongs to: ``train``, ``test``, or None in the gaps between.

    Slices go in cycles of 30 (or all, where there are fewer): 22 for training, 2 left out, 5 for test, 1 left out.
    """
    cycle = min(CYCLE, count)
    part = index % cycle / cycle
    if TRAIN_SHARE[0] <= part < TRAIN_SHARE[1]:
        return "train"
    return "test" if TEST_SHARE[0] <= part < TEST_SHARE[1] else None


@dataclass
class Row:
    """A finished row: its picture, its turns and what is known about it."""

    id: str
    picture: np.ndarray  # uint8 [S, S] or [S, S, 3]
    turns: list[list[str]]  # [question, answer] each
    facts: dict[str, Any] = field(default_factory=dict)
    labels: np.ndarray | None = None  # int16 [S, S], the structures of the picture; None where none are known


@dataclass
class Scans:
    """Everything that rows are drawn from."""

    volumes: list[Volume]
    pictures: list[Picture]

    @cached_property
    def slices(self) -> dict[tuple[str, str], list[tuple[int, int]]]:
        """(volume key, split) -> the usable (axis, index) of that split, in order."""
        usable: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for volume in self.volumes:
            for axis in (PLANES.index(plane) for plane in volume.planes):
                count = volume.labels.shape[axis]
                others = tuple(number for number in range(3) if number != axis)
                labelled = (volume.labels != 0).mean(axis=others)
                for index in range(count):
                    if (split := split_of(index, count)) and labelled[index] >= MIN_LABELLED:
                        usable.setdefault((volume.key, split), []).append((axis, index))
        return usable

    @cached_property
    def classes(self) -> dict[tuple[str, int], int]:
        """(volume key, label) -> class, from 1, over the structures of all volumes."""
        present = [
            (volume.key, int(label)) for volume in self.volumes for label in np.unique(volume.labels) if label != 0
        ]
        return {structure: number for number, structure in enumerate(present, start=1)}

    def classes_of(self, key: str, labels: np.ndarray) -> np.ndarray:
        """Labels of volume ``key`` -> classes, int16, in the same shape; background stays 0."""
        table = np.zeros(max(label for _, label in self.classes) + 1, dtype=np.int16)
        for (volume, label), number in self.classes.items():
            if volume == key:
                table[label] = number
        return table[labels]


def make_row(scans: Scans, seed: int, split: str, number: int, turns: int = 1) -> Row:
    """Makes row ``number`` of ``split``.

    Args:
        scans: What to draw from.
        seed: Seed of the whole data set.
        split: One of :data:`SPLITS`.
        number: Position in the split, from 0.
        turns: Questions about the same picture; tasks are drawn anew for each. There are no more than structures, and
            one where none is known.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), number])
    shares = PRETRAIN_SHARES if split == "pretrain" else TASK_SHARES
    task = _draw(rng, shares)
    if task == "MIA" and scans.pictures and rng.random() < PICTURE_SHARE:
        return _picture_row(scans, rng, split, number)
    return _volume_row(scans, rng, split, number, [task] + [_draw(rng, shares) for _ in range(turns - 1)])


def _picture_row(scans: Scans, rng: np.random.Generator, split: str, number: int) -> Row:
    """An analysis (MIA) of an X-ray, an ultrasound or a fundus picture; modalities are drawn evenly."""
    modality = rng.choice(sorted({picture.modality for picture in scans.pictures}))
    choices = [picture for picture in scans.pictures if picture.modality == modality]
    picture = choices[rng.integers(len(choices))]
    part = picture.part("test" if split == "test" else "train")
    shown = render(part, draw_view(rng), field=float(min(part.shape[:2])))
    facts = {"task": "MIA", "modality": picture.modality, "scan": picture.key}
    turns = [analysis(rng, picture.title, list(picture.shows))]
    return Row(f"{picture.modality}_{split}_{number:05d}", _to_bytes(shown), turns, facts)


def _volume_row(scans: Scans, rng: np.random.Generator, split: str, number: int, tasks: Sequence[str]) -> Row:
    """Questions about a slice of a labelled scan; draws again until the view shows one that is large enough."""
    by_key = {volume.key: volume for volume in scans.volumes}
    volume = by_key[_draw(rng, {key: share for key, share in VOLUME_SHARES.items() if key in by_key})]
    slices = scans.slices[volume.key, "test" if split == "test" else "train"]
    while True:
        axis, index = slices[rng.integers(len(slices))]
        view = draw_view(rng)
        spacing = slice_spacing(volume.spacing, axis)
        mask = oriented_slice(volume.labels, axis, index)
        extent = FILL * max(size * pixel for size, pixel in zip(mask.shape, spacing, strict=True))
        labels = render(mask, view, extent, spacing, order=0)
        areas = np.bincount(labels.ravel(), minlength=1)[1:] / labels.size
        seen = (np.flatnonzero(areas >= MIN_AREA) + 1).tolist()
        if seen:
            break

    picture = render(oriented_slice(volume.image, axis, index), view, extent, spacing)
    plane = PLANES[axis]
    facts = {"task": tasks[0], "modality": volume.modality, "scan": volume.key, "plane": plane, "slice": index}
    facts["view"] = [view.down, view.right, view.zoom, view.angle]

    turns, order = [], rng.permutation(seen).tolist()
    for position, task in enumerate(tasks[: len(order)]):  # an answer repeated could be copied from the text
        if task == "MIA":
            largest = sorted(seen, key=lambda label: (-areas[label - 1], label))[:SHOWN]
            turns.append(analysis(rng, f"{plane} {volume.title}", [volume.names[label] for label in largest]))
            continue
        label = order[position]
        other = neighbour_of(labels, label) if task == "RC" else None
        neighbour = volume.names[other] if other else None
        finding = Finding(volume.names[label], mask_box(labels == label), float(areas[label - 1]), neighbour)
        if position == 0:
            facts |= {"label": label, "structure": finding.name, "box": list(finding.box)}
        if task == "VG":
            turns.append(grounding(rng, finding))
        elif task == "ROC":
            turns.append(classification(rng, finding))
        else:
            turns.append(caption(rng, finding, plane, volume.title))
    return Row(f"{volume.modality}_{split}_{number:05d}", _to_bytes(picture), turns, facts, labels)


def _draw(rng: np.random.Generator, shares: dict[str, float]) -> str:
    """Draws a key with the given relative shares."""
    keys = list(shares)
    weights = np.array([shares[key] for key in keys])
    return keys[rng.choice(len(keys), p=weights / weights.sum())]


def _to_bytes(picture: np.ndarray) -> np.ndarray:
    """[0, 1] floats -> uint8."""
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)
