# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Builds the demo's data set: real scans -> LLaMA-Factory's ShareGPT rows and PNG images, the same for a seed."""

import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt
from llamafactory_clinkd.utils.io import content_hash, read_json, write_json, write_jsonl

from .cells import CELLS, IGNORED, cell_boxes, cells_of
from .fetch import ScansUnavailable, fetch_totalsegmentator
from .pictures import load_pictures
from .rows import SPLITS, Scans, make_row
from .volumes import load_brain_mr, load_totalsegmentator
from .workers import end_with_parent


FORMAT = 2  # raise it when rows of the same settings change
CHUNK = 100  # rows a task of the pool


@dataclass(frozen=True)
class DataSettings:
    """What the data set depends on.

    Attributes:
        seed: Seed of every row.
        train: Training rows of the ClinKD run, one question each.
        test: Test rows, one question each.
        pretrain: Pictures that the two models are pretrained on: other views of the training slices.
        pretrain_turns: Questions about each of those, at most.
    """

    seed: int = 0
    train: int = 2000
    test: int = 400
    pretrain: int = 8000
    pretrain_turns: int = 7


def find_archive(cache: str | Path, say: Callable[[str], None] = print) -> Path | None:
    """The folder of ``totalsegmentator``'s scans; None, and a word about it, where they cannot be had."""
    try:
        return fetch_totalsegmentator(cache)
    except ScansUnavailable as reason:
        say(f"CT and abdominal MR are left out: {reason} The rows show brain MR only.")
        return None


def load_scans(archive: Path | None) -> Scans:
    """Loads every scan; ``archive`` is what :func:`find_archive` returned."""
    return Scans([load_brain_mr()] + (load_totalsegmentator(archive) if archive else []), load_pictures())


def build_data(
    directory: str | Path,
    settings: DataSettings,
    cache: str | Path,
    *,
    processes: int | None = None,
    say: Callable[[str], None] = print,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Builds the data set in ``directory``, or finds it built with the same settings and scans and leaves it alone.

    It writes ``images/*.png``, ``demo_{train,test,pretrain}.json`` (the layout of the paper's Table A1),
    ``dataset_info.json``, ``facts_{train,test,pretrain}.jsonl`` (scan, plane, slice, view and box of each row),
    ``cells_pretrain.safetensors`` (what each cell of the pretraining pictures shows) and ``build.json``, which is
    written last and so tells that the build is complete.

    Args:
        directory: Where to write.
        settings: Sizes and seed.
        cache: Folder for downloaded scans.
        processes: Worker processes; the default is the number of cores, at most 8.
        say: Called with each message.
        advance: Called with (rows made, rows in all).

    Returns:
        The content of ``build.json``: ``hash``, ``settings``, ``scans`` and ``counts``.
    """
    directory, archive = Path(directory), find_archive(cache, say)
    scans = load_scans(archive)
    described = [
        {"key": scan.key, "modality": scan.modality, "source": scan.source, "licence": scan.licence}
        for scan in (*scans.volumes, *scans.pictures)
    ]
    fingerprint = content_hash([FORMAT, asdict(settings), described])
    marker = directory / "build.json"
    if marker.exists() and (built := read_json(marker))["hash"] == fingerprint:
        return built

    marker.unlink(missing_ok=True)
    if (directory / "images").exists():
        shutil.rmtree(directory / "images")
    (directory / "images").mkdir(parents=True)
    jobs = [
        (split, number, min(number + CHUNK, count), settings.pretrain_turns if split == "pretrain" else 1)
        for split in SPLITS
        for count in [getattr(settings, split)]
        for number in range(0, count, CHUNK)
    ]
    total, rows = settings.train + settings.test + settings.pretrain, {split: [] for split in SPLITS}
    for split, made in _make(jobs, directory, archive, settings.seed, processes):
        rows[split] += made
        advance(sum(map(len, rows.values())), total)

    counts: Counter[str] = Counter()
    for split, made in rows.items():
        write_sharegpt(directory / f"demo_{split}.json", (row for row, _, _ in made))
        write_jsonl(directory / f"facts_{split}.jsonl", (facts for _, facts, _ in made))
        counts.update(f"{split}/{row['task']}/{row['modality']}" for row, _, _ in made)
    cells, boxes = (np.stack(parts) for parts in zip(*(known for _, _, known in rows["pretrain"]), strict=True))
    classes = {"classes": str(len(scans.classes) + 1)}
    save_file({"cells": cells, "boxes": boxes}, directory / "cells_pretrain.safetensors", classes)
    write_dataset_info(directory, {f"demo_{split}": dataset_info_entry(f"demo_{split}.json") for split in SPLITS})
    built = {"hash": fingerprint, "settings": asdict(settings), "scans": described}
    built["counts"] = dict(sorted(counts.items()))
    write_json(marker, built)
    return built


def _make(
    jobs: list[tuple], directory: Path, archive: Path | None, seed: int, processes: int | None
) -> Iterator[tuple[str, list[tuple[dict, dict, tuple[np.ndarray, np.ndarray]]]]]:
    """Yields (split, rows) of every job in order; a pool loads the scans in each process, one works here."""
    workers = processes or min(os.cpu_count() or 1, 8)
    if workers == 1:
        _worker.update(scans=load_scans(archive), directory=directory, seed=seed)
        yield from map(_make_chunk, jobs)
        return
    context = multiprocessing.get_context("spawn")  # torch's threads, if any, must not be forked
    with ProcessPoolExecutor(workers, context, _start_worker, (directory, archive, seed)) as pool:
        yield from pool.map(_make_chunk, jobs)


_worker: dict[str, Any] = {}


def _start_worker(directory: Path, archive: Path | None, seed: int) -> None:
    """Loads the scans, once in each worker."""
    end_with_parent()
    _worker.update(scans=load_scans(archive), directory=directory, seed=seed)


def _make_chunk(job: tuple[str, int, int, int]) -> tuple[str, list[tuple[dict, dict, tuple[np.ndarray, np.ndarray]]]]:
    """Makes rows ``start`` to ``stop`` of a split, saves their pictures, returns each row, its facts and its cells."""
    from PIL import Image

    split, start, stop, turns = job
    scans: Scans = _worker["scans"]
    made = []
    for number in range(start, stop):
        row = make_row(scans, _worker["seed"], split, number, turns)
        name = f"images/{row.id}.png"
        Image.fromarray(row.picture).save(_worker["directory"] / name)
        entry = {"id": row.id, "image": name, "task": row.facts["task"], "modality": row.facts["modality"]}
        if row.labels is None:
            known = (np.full((CELLS, CELLS), IGNORED, np.int16), np.zeros((CELLS, CELLS, 4), np.int16))
        else:
            known = (scans.classes_of(row.facts["scan"], cells_of(row.labels)), cell_boxes(row.labels))
        made.append((entry | {"turns": row.turns}, {"id": row.id} | row.facts, known))
    return split, made
