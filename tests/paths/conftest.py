# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import pytest
import torch
from small_run import drawn_rows

from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt

from .runs import QUESTION, noise_image, train
from .small_model import build_small_model


@pytest.fixture(scope="session")
def sharp_workspace(tmp_path_factory) -> Path:
    """A student whose attention is sharp, and data of six rows."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sharp")
    rows = drawn_rows(folder / "data", 6)
    write_sharegpt(folder / "data" / "train.json", rows[:4])
    write_sharegpt(folder / "data" / "test.json", rows[4:])
    texts = [text for row in rows for turn in row["turns"] for text in turn]
    build_small_model(folder / "student", texts)
    noise_image(folder / "data" / "images" / "ct_big.png", 600, 400)
    big = {"id": "ct_big", "image": "images/ct_big.png", "turns": [[QUESTION, "Square"]]}
    write_sharegpt(folder / "data" / "big.json", [big])
    entries = {f"tiny_{name}": dataset_info_entry(f"{name}.json") for name in ("train", "test", "big")}
    write_dataset_info(folder / "data", entries)
    return folder


@pytest.fixture(scope="session")
def trained(sharp_workspace, tmp_path_factory):
    """``trained(variant)``: the folder of a model trained with it through stock LLaMA-Factory, once a session."""
    made: dict[tuple, Path] = {}

    def of(variant: str, **changes) -> Path:
        key = (variant, *sorted(changes.items()))
        if key not in made:
            folder = tmp_path_factory.mktemp(variant)
            made[key] = train(sharp_workspace, folder, rope_variant=variant, **changes)
        return made[key]

    return of
