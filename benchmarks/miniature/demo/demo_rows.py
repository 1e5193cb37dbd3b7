# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Draws the data set that is shipped: CT of the abdomen in three planes, a few questions about each picture.

``python -m miniature.demo.demo_rows OUT`` writes ``images/*.png`` (8 bits, grey), ``demo_{train,test}.json`` in the
layout of the paper's Table A1, ``dataset_info.json`` and ``facts_{train,test}.jsonl`` (scan, plane, slice, structure
and box).
"""

import argparse
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt
from llamafactory_clinkd.utils.io import write_jsonl

from .corpora import default_archive
from .draw import Shown, Source, ask_about, draw
from .structures import load_volumes


SHARES = {"body_ct": 1.0}
SEED = 7
PICTURES = {"train": 440, "test": 110}
TASKS = {  # asked about each picture, in turn
    "train": (("VG", "ROC", "RC"), ("VG", "ROC", "MIA"), ("VG", "VG", "ROC")),
    "test": (("VG", "ROC", "RC", "MIA"),),
}
BALANCED = ("VG", "ROC", "RC")


def make_split(source: Source, split: str, folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Draws the pictures of a split and saves them; returns its rows and the facts of each.

    Of the structures in a picture those are asked about that the task has asked about least so far, so that no
    answer is much more frequent than the others.
    """
    rows, facts = [], []
    asked: Counter[tuple[str, str, str]] = Counter()
    for number in range(PICTURES[split]):
        shown = draw(source, SHARES, SEED, split, number)
        rng = np.random.default_rng([SEED, 1 if split == "test" else 0, number, 1])
        tasks = TASKS[split][number % len(TASKS[split])]
        image = f"images/{shown.id}.png"
        Image.fromarray(shown.picture).save(folder / image, optimize=True)
        turns = ask_about(shown, rng, tasks, _least_asked(shown, rng, tasks, asked))
        for place, item in enumerate(turns):
            key, modality = f"{shown.id}_{place}", shown.facts["modality"]
            rows.append(
                {"id": key, "image": image, "task": item["task"], "modality": modality, "turns": [item["turn"]]}
            )
            known = {name: item[name] for name in ("structure", "box") if name in item}
            facts.append({"id": key, "task": item["task"], **shown.facts, **known})
    return rows, facts


def _least_asked(shown: Shown, rng: np.random.Generator, tasks: tuple[str, ...], asked: Counter) -> list[int]:
    """The labels to ask about, one for each task that needs one, each at most once."""
    left, order = rng.permutation(sorted(shown.findings)).tolist(), []
    for task in tasks:
        if task in BALANCED and left:
            counts = [asked[task, shown.volume.key, shown.findings[label].name] for label in left]
            order.append(left.pop(int(np.argmin(counts))))
            asked[task, shown.volume.key, shown.findings[order[-1]].name] += 1
    return order


def write_data(folder: Path) -> None:
    """Writes the whole data set into ``folder``."""
    if (folder / "images").exists():
        shutil.rmtree(folder / "images")
    (folder / "images").mkdir(parents=True)
    source = Source(load_volumes(default_archive()))
    for split in PICTURES:
        rows, facts = make_split(source, split, folder)
        write_sharegpt(folder / f"demo_{split}.json", rows)
        write_jsonl(folder / f"facts_{split}.jsonl", facts)
    write_dataset_info(folder, {f"demo_{split}": dataset_info_entry(f"demo_{split}.json") for split in PICTURES})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    write_data(parser.parse_args().folder)
