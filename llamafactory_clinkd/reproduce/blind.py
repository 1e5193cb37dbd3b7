# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Data sets whose pictures are noise: what a model scores that sees nothing, neither in training nor at test.

The rows of a data set share a few dozen noise pictures, so that none can be told from the others by its noise.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.sharegpt import dataset_info_entry, write_dataset_info
from ..utils.boxes import modality_of
from ..utils.io import content_hash, read_json, write_json


PICTURES = 64
SUFFIX = "_blind"


def write_blind(data: Path, names: Sequence[str], *, side: int, seed: int = 0) -> list[str]:
    """Writes a copy of each data set with noise in the place of its images, named ``<name>_blind``.

    Ids, tasks and modalities stay; a modality that only the image's name told is written down first.

    Args:
        data: LLaMA-Factory's ``dataset_dir``.
        names: Data sets in its ``dataset_info.json``, in the layout of ``clinkd data convert``.
        side: Pixels a side of the noise.
        seed: Of the noise, and of which row gets which picture.

    Returns:
        The names of the copies.

    Raises:
        FileNotFoundError: If ``dataset_info.json`` or a data set's file is not there.
        ValueError: If ``dataset_info.json`` does not have a data set.
    """
    info = read_json(data / "dataset_info.json")
    unknown = [name for name in names if name not in info]
    if unknown:
        raise ValueError(f"{data}/dataset_info.json has no {', '.join(unknown)}: convert them first.")
    pictures = _noise(data / "noise", side, seed)
    entries = {}
    for name in names:
        rows = read_json(data / info[name]["file_name"])
        file = f"{name}{SUFFIX}.json"
        write_json(data / file, [_blinded(row, number, pictures, seed) for number, row in enumerate(rows)])
        entries[f"{name}{SUFFIX}"] = dataset_info_entry(file)
    write_dataset_info(data, entries)
    return list(entries)


def _noise(folder: Path, side: int, seed: int) -> list[str]:
    """Draws the pictures; returns their paths relative to the data set."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    names = [f"noise_{number:02d}.png" for number in range(PICTURES)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(folder / name)
    return [f"{folder.name}/{name}" for name in names]


def _blinded(row: dict[str, Any], number: int, pictures: list[str], seed: int) -> dict[str, Any]:
    if not row.get("images"):
        return row
    drawn = [
        pictures[int(content_hash([seed, number, place])[:8], 16) % len(pictures)]
        for place in range(len(row["images"]))
    ]
    return {**row, "modality": row.get("modality") or modality_of(row["images"][0]), "images": drawn}
