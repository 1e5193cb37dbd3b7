# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Builds what the runs of a scale start from, where it is not there yet."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ..data.sharegpt import dataset_info_entry, write_dataset_info
from ..demo.progress import bars_of_parts
from ..utils.boxes import modality_of
from ..utils.io import content_hash, read_json, write_json
from .row_recipes import EXAMPLES, Plan, models_of, read_recipe


NOISE_SIDE = 448

"""Pixels a side of the noise that stands for Med-GRIT's images."""


def benchmark_of(scale: str) -> str | None:
    """What identifies the data and models that come with a scale; None where the user brings them."""
    if scale == "paper":
        return None
    from miniature.mini import benchmark_id

    return benchmark_id()


def inputs_of(plan: Plan, directory: Path) -> dict[str, str]:
    """SHA-256 of what a run starts from, to be kept with its result; none where the user brings it."""
    if plan.scale == "paper":
        return {}
    from miniature.mini import inputs_of

    return inputs_of(directory / plan.scale, models_of(plan))


def models_are_there(plan: Plan, directory: Path) -> bool:
    """Whether the models of the scale that a run needs are built; at paper scale the user brings them."""
    if plan.scale == "paper":
        return True
    from miniature.mini import models_are_there

    return models_are_there(directory / plan.scale, models_of(plan))


def prepare(scale: str, directory: Path, cache: Path, console: Console, plans: Collection[Plan] | None = None) -> None:
    """Builds the miniature benchmark, or the data sets of noise beside Med-GRIT's.

    Args:
        scale: ``paper`` or ``mini``.
        directory: The folder in the place of ``runs/reproduce``.
        cache: Folder of downloaded scans.
        console: Where progress is shown.
        plans: The runs that it is for, whose models alone are built; all models by default.
    """
    if scale == "paper":
        base = read_recipe(EXAMPLES / scale / "base.yaml")
        made = write_blind(Path(base["dataset_dir"]), [base["dataset"], base["eval_dataset"]], side=NOISE_SIDE)
        console.print(f"Data sets of noise: {', '.join(made)}. The others come from `clinkd data convert`.")
        return
    from miniature.mini import MODELS, build_mini

    models = MODELS if plans is None else set().union(*map(models_of, plans))
    with bars_of_parts(console) as show:
        build_mini(directory / scale, cache, show, console.print, models)


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
