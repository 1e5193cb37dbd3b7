# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What the runs of a scale start from: the demo's data and models, or the user's; identified by hashes."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from ..data.sharegpt import dataset_info_entry, write_dataset_info
from ..demo.run_demo import check_assets
from ..utils.boxes import modality_of
from ..utils.io import content_hash, file_sha256, read_json, write_json
from .row_recipes import DEMO, RECIPES_DIR, Plan, models_of, read_recipe


NOISE_SIDES = {"paper": 448, "mini": 112}  # side in pixels of the noise that replaces the images
NOISE_IMAGES = 64  # noise images of a data set: too few to tell its rows apart by them
BLIND_SUFFIX = "_blind"


def benchmark_of(scale: str) -> str | None:
    """The hash that identifies the data and models of a scale; None where the user brings them."""
    if scale == "paper":
        return None
    models = {name: sha256 for name, sha256 in _model_hashes().items() if not name.endswith(".md")}
    pictures = {path.name: file_sha256(path) for path in sorted((DEMO / "data" / "images").iterdir())}
    return content_hash([models, _data_hashes(), pictures])


def inputs_of(plan: Plan) -> dict[str, str]:
    """SHA-256 of the data and models that a run starts from, kept with its result; none where the user brings them."""
    if plan.scale == "paper":
        return {}
    hashes, models = _model_hashes(), sorted(models_of(plan))
    weights = {f"models/{model}": hashes[name] for model in models for name in hashes if _is_weights(name, model)}
    return {**_data_hashes(), **weights}


def _is_weights(name: str, model: str) -> bool:
    return name.startswith(f"{model}/") and name.endswith(".safetensors")


def _model_hashes() -> dict[str, str]:
    return read_json(DEMO / "models" / "sha256.json")


def _data_hashes() -> dict[str, str]:
    return {f"demo_{part}.json": file_sha256(DEMO / "data" / f"demo_{part}.json") for part in ("train", "test")}


def prepare(scale: str, directory: Path, console: Console, *, dry_run: bool = False) -> None:
    """Writes the data sets of a scale: the demo's with copies whose images are noise, or such copies of Med-GRIT's.

    A ``dry_run`` prints what would be written.

    Raises:
        RuntimeError: At mini scale, if a shipped model is damaged.
        FileNotFoundError: At paper scale without Med-GRIT.
    """
    base = read_recipe(RECIPES_DIR / scale / "base.yaml")
    sources = [base["dataset"], base["eval_dataset"]]
    data = directory / scale / "data" if scale == "mini" else Path(base["dataset_dir"])
    if dry_run:
        console.print(f"Would write {' and '.join(sources)} to {data} with noise for images.")
        return
    if scale == "mini":
        check_assets()
        marker, identity = data / "benchmark.json", benchmark_of(scale)
        if marker.is_file() and read_json(marker)["id"] == identity:
            return
        shutil.copytree(DEMO / "data", data, dirs_exist_ok=True)
    names = write_blind(data, sources, side=NOISE_SIDES[scale])
    if scale == "mini":
        write_json(marker, {"id": identity})
    console.print(f"Data sets of noise in {data}: {', '.join(names)}.")


def write_blind(data: Path, names: Sequence[str], *, side: int) -> list[str]:
    """Writes a copy of each data set with noise instead of its images, named ``<name>_blind``; returns their names.

    ``data`` is LLaMA-Factory's ``dataset_dir``, ``side`` the noise's side in pixels. Every call draws the
    same noise for the same row. Ids, tasks and modalities stay; a modality that only the image's name holds is written
    down.

    Raises:
        FileNotFoundError: If ``dataset_info.json`` or a data set's file does not exist.
        ValueError: If ``dataset_info.json`` has no entry for a data set.
    """
    info = read_json(data / "dataset_info.json")
    unknown = [name for name in names if name not in info]
    if unknown:
        raise ValueError(f"{data}/dataset_info.json has no {', '.join(unknown)}: convert them first.")
    pictures = _noise(data / "noise", side)
    entries = {}
    for name in names:
        rows = read_json(data / info[name]["file_name"])
        file = f"{name}{BLIND_SUFFIX}.json"
        write_json(data / file, [_blinded(row, number, pictures) for number, row in enumerate(rows)])
        entries[f"{name}{BLIND_SUFFIX}"] = dataset_info_entry(file)
    write_dataset_info(data, entries)
    return list(entries)


def _noise(folder: Path, side: int) -> list[str]:
    """Draws the pictures; returns their paths relative to the data set."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    names = [f"noise_{number:02d}.png" for number in range(NOISE_IMAGES)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(folder / name)
    return [f"{folder.name}/{name}" for name in names]


def _blinded(row: dict[str, Any], number: int, pictures: list[str]) -> dict[str, Any]:
    if not row.get("images"):
        return row
    drawn = [
        pictures[int(content_hash([0, number, place])[:8], 16) % len(pictures)] for place in range(len(row["images"]))
    ]
    return {**row, "modality": row.get("modality") or modality_of(row["images"][0]), "images": drawn}
