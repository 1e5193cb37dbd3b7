# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The validation part of the miniature benchmark: slices taken out of the training slices, on which the base is tuned.

The demo cuts each plane of a scan into cycles of 30 slices: 22 for training, 2 left out, 5 for test, 1 left out. Here
the 22 are cut again: 16 for training, 2 left out, 4 for validation. A validation slice is seen neither in training nor
in the models' pretraining. Rows that show no slice (X-ray, ultrasound, fundus) stay in training.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info
from llamafactory_clinkd.utils.io import read_json, read_jsonl, write_json, write_jsonl

from .rows import CYCLE, TRAIN_SHARE
from .volumes import PLANES, Volume


TRAIN_PART, VALIDATION_PART = (0.0, 0.52), (0.58, TRAIN_SHARE[1])
"""Parts of a cycle: slices 0 to 15 and 18 to 21 of 30."""
VALIDATION = "validation"


def part_of(index: int, count: int) -> str | None:
    """Which part training slice ``index`` of ``count`` goes to: ``train``, ``validation``, or None in the gap."""
    cycle = min(CYCLE, count)
    place = index % cycle / cycle
    if TRAIN_PART[0] <= place < TRAIN_PART[1]:
        return "train"
    return VALIDATION if VALIDATION_PART[0] <= place < VALIDATION_PART[1] else None


def part_of_row(facts: Mapping[str, Any], counts: Mapping[tuple[str, str], int]) -> str | None:
    """The part of a row; ``counts`` has (scan, plane) -> number of slices."""
    if "slice" not in facts:
        return "train"
    return part_of(facts["slice"], counts[facts["scan"], facts["plane"]])


def slice_counts(volumes: Iterable[Volume]) -> dict[tuple[str, str], int]:
    """(scan, plane) -> number of slices."""
    return {(volume.key, plane): volume.labels.shape[PLANES.index(plane)] for volume in volumes for plane in PLANES}


def hold_out(data: Path, volumes: Iterable[Volume], *, train: int, validation: int) -> dict[str, int]:
    """Cuts ``demo_train`` into ``demo_train`` and ``demo_validation``, and takes validation out of ``demo_pretrain``.

    It rewrites what :func:`~miniature.scans.build_data` wrote into ``data`` a moment before.

    Args:
        data: The folder.
        volumes: The labelled scans.
        train: Training rows wanted.
        validation: Validation rows wanted.

    Returns:
        Rows kept: ``train``, ``validation``, ``pretrain``.

    Raises:
        ValueError: If there are fewer than wanted: more have to be drawn.
    """
    counts = slice_counts(volumes)
    parts = {
        split: [part_of_row(facts, counts) for facts in read_jsonl(data / f"facts_{split}.jsonl")]
        for split in ("train", "pretrain")
    }
    chosen = {
        "train": [i for i, part in enumerate(parts["train"]) if part == "train"],
        VALIDATION: [i for i, part in enumerate(parts["train"]) if part == VALIDATION],
        "pretrain": [i for i, part in enumerate(parts["pretrain"]) if part == "train"],
    }
    for name, wanted in (("train", train), (VALIDATION, validation)):
        if len(chosen[name]) < wanted:
            raise ValueError(
                f"{len(parts['train'])} drawn rows leave {len(chosen[name])} for {name}, {wanted} are wanted: raise "
                "`train` of the benchmark's DataSettings."
            )
        chosen[name] = chosen[name][:wanted]

    for name, split in ((VALIDATION, "train"), ("train", "train"), ("pretrain", "pretrain")):
        rows, facts = read_json(data / f"demo_{split}.json"), read_jsonl(data / f"facts_{split}.jsonl")
        write_json(data / f"demo_{name}.json", [rows[i] for i in chosen[name]])
        write_jsonl(data / f"facts_{name}.jsonl", (facts[i] for i in chosen[name]))
    _keep_cells(data / "cells_pretrain.safetensors", chosen["pretrain"])
    write_dataset_info(data, {f"demo_{VALIDATION}": dataset_info_entry(f"demo_{VALIDATION}.json")})
    return {name: len(numbers) for name, numbers in chosen.items()}


def _keep_cells(path: Path, numbers: list[int]) -> None:
    with safe_open(path, framework="np") as file:
        kept = {name: np.ascontiguousarray(file.get_tensor(name)[numbers]) for name in ("cells", "boxes")}
        facts = file.metadata()
    save_file(kept, path, facts)
