# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What the runs of a scale start from: built where it is missing, and identified by hashes."""

import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from rich.console import Console

from ..data.sharegpt import dataset_info_entry, write_dataset_info
from ..utils.boxes import modality_of
from ..utils.console import bars_of_parts
from ..utils.io import content_hash, file_sha256, read_json, write_json
from .row_recipes import RECIPES_DIR, Plan, models_of, read_recipe


MINI_MODELS = {
    "base": "model.safetensors",
    "teacher": "model.safetensors",
    "scorer": "open_clip_model.safetensors",
}
"""Models of the miniature: folder -> the file of its weights."""
NOISE_SIDE = 448  # side in pixels of the noise that replaces Med-GRIT's images
NOISE_IMAGES = 64  # noise images of a data set: too few to tell its rows apart by them
BLIND_SUFFIX = "_blind"


def benchmark_of(scale: str) -> str | None:
    """The hash that identifies the data and models of a scale; None where the user brings them."""
    return None if scale == "paper" else read_json(RECIPES_DIR / scale / "benchmark.json")["id"]


def inputs_of(plan: Plan, directory: Path) -> dict[str, str]:
    """SHA-256 of the data and models that a run starts from, kept with its result; none where the user brings them."""
    if plan.scale == "paper":
        return {}
    folder = directory / plan.scale
    weights = {
        f"models/{name}": file_sha256(folder / "models" / name / MINI_MODELS[name]) for name in sorted(models_of(plan))
    }
    return {**read_json(folder / "data" / "benchmark.json")["sha256"], **weights}


def models_are_built(plan: Plan, directory: Path) -> bool:
    """Whether the scale's own models that a run needs are finished; at paper scale the user brings them."""
    folder = directory / plan.scale / "models"
    return plan.scale == "paper" or all((folder / f"{name}.json").is_file() for name in models_of(plan))


def prepare(
    scale: str,
    directory: Path,
    cache: Path,
    console: Console,
    plans: Collection[Plan] | None = None,
    *,
    dry_run: bool = False,
) -> None:
    """Builds the miniature benchmark in ``directory``, or the noise copies of Med-GRIT's data sets.

    Of the models, only those that ``plans`` need are built; all by default. A ``dry_run`` prints what would be built.

    Raises:
        FileNotFoundError: At mini scale without a checkout, or at paper scale without Med-GRIT.
    """
    if scale == "paper":
        base = read_recipe(RECIPES_DIR / scale / "base.yaml")
        sources = [base["dataset"], base["eval_dataset"]]
        if dry_run:
            console.print(f"Would copy {' and '.join(sources)} in {base['dataset_dir']} with noise for images.")
            return
        names = write_blind(Path(base["dataset_dir"]), sources, side=NOISE_SIDE)
        console.print(f"Data sets of noise: {', '.join(names)}. The others come from `clinkd data convert`.")
        return
    models = MINI_MODELS if plans is None else set().union(*map(models_of, plans))
    if dry_run:
        folder = directory / scale / "models"
        state = {name: "finished" if (folder / f"{name}.json").is_file() else "to be built" for name in sorted(models)}
        console.print(f"Models in {folder}: {', '.join(f'{name} {each}' for name, each in state.items())}.")
        return
    with bars_of_parts(console) as show:
        _miniature().build_mini(directory / scale, cache, show, console.print, models)


def _miniature() -> ModuleType:
    """The module that draws and trains the miniature; it is in a checkout's ``benchmarks/``, not in the wheel."""
    benchmarks = Path(__file__).resolve().parents[2] / "benchmarks"
    if not (benchmarks / "miniature").is_dir():
        raise FileNotFoundError(
            f"{benchmarks}/miniature does not exist. `--scale mini` draws its data and trains its models with it: run "
            "the command in a checkout of the project. `--scale paper` needs none."
        )
    if str(benchmarks) not in sys.path:
        sys.path.append(str(benchmarks))
    return import_module("miniature.mini")


def write_blind(data: Path, names: Sequence[str], *, side: int, seed: int = 0) -> list[str]:
    """Writes a copy of each data set with noise instead of its images, named ``<name>_blind``; returns their names.

    ``data`` is LLaMA-Factory's ``dataset_dir``, ``side`` the noise's side in pixels; ``seed`` sets the noise and which
    row gets which image. Ids, tasks and modalities stay; a modality that only the image's name holds is written down.

    Raises:
        FileNotFoundError: If ``dataset_info.json`` or a data set's file does not exist.
        ValueError: If ``dataset_info.json`` has no entry for a data set.
    """
    info = read_json(data / "dataset_info.json")
    unknown = [name for name in names if name not in info]
    if unknown:
        raise ValueError(f"{data}/dataset_info.json has no {', '.join(unknown)}: convert them first.")
    pictures = _noise(data / "noise", side, seed)
    entries = {}
    for name in names:
        rows = read_json(data / info[name]["file_name"])
        file = f"{name}{BLIND_SUFFIX}.json"
        write_json(data / file, [_blinded(row, number, pictures, seed) for number, row in enumerate(rows)])
        entries[f"{name}{BLIND_SUFFIX}"] = dataset_info_entry(file)
    write_dataset_info(data, entries)
    return list(entries)


def _noise(folder: Path, side: int, seed: int) -> list[str]:
    """Draws the pictures; returns their paths relative to the data set."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    names = [f"noise_{number:02d}.png" for number in range(NOISE_IMAGES)]
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
