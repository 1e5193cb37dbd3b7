# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The files of a generation run: one shard per rank during the run, one ordered file at the end."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..utils.io import placed_rows, read_json, write_json, write_lines_of
from ..utils.row_index import RowNumbers, chunks


Row = dict[str, Any]


class UnfinishedError(RuntimeError):
    """Generation stopped early. The rows on disk are valid, and the next run continues after them."""


def shard_path(out_path: Path, process_index: int) -> Path:
    """The file that one rank appends to."""
    return Path(f"{out_path}.rank{process_index}")


def check_settings(out_path: Path, settings: dict[str, Any], process_index: int) -> None:
    """Writes the settings beside the file; a ValueError if there are answers of other settings."""
    path = Path(f"{out_path}.settings.json")
    settings = json.loads(json.dumps(settings, default=str))
    if path.exists() and (out_path.exists() or _shard_paths(out_path)):
        before = read_json(path)
        keys = sorted(key for key in before.keys() | settings.keys() if before.get(key) != settings.get(key))
        if keys:
            changes = ", ".join(f"{key}: was {before.get(key)}, now {settings.get(key)}" for key in keys)
            raise ValueError(
                f"{out_path} was generated with other settings ({changes}). Delete it and its .rank files to start "
                "anew, or choose another path."
            )
    elif process_index == 0:
        write_json(path, settings)


class StoredRows(NamedTuple):
    """Where the rows of a data set are on disk, by their number; 11 bytes a row."""

    paths: list[Path]
    files: np.ndarray  # of `paths`
    offsets: np.ndarray  # of the row's line, -1 without one
    good: np.ndarray  # whether it has no error


def read_shards(out_path: Path, numbers: RowNumbers) -> StoredRows:
    """All rows on disk, a good one before a failed one; a ValueError if an id is not in ``numbers``."""
    paths = [path for path in (out_path, *_shard_paths(out_path)) if path.exists()]
    rows = len(numbers)
    stored = StoredRows(paths, np.zeros(rows, np.uint16), np.full(rows, -1, np.int64), np.zeros(rows, bool))
    unknown: set[str] = set()
    for file, path in enumerate(paths):
        lines = ((offset, row["id"], "error" not in row) for offset, row in placed_rows(path))
        for part in chunks(lines):
            offsets, ids, good = zip(*part, strict=True)
            found, offsets, good = np.array(numbers.find(ids)), np.array(offsets), np.array(good)
            known = found >= 0
            unknown.update(ids[place] for place in np.flatnonzero(~known))
            for chosen in (known & ~good, known & good):
                rows_found, is_good = found[chosen], bool(good[chosen].any())
                new = is_good | ~stored.good[rows_found]
                stored.files[rows_found[new]], stored.offsets[rows_found[new]] = file, offsets[chosen][new]
                stored.good[rows_found[new]] = is_good
    if unknown:
        raise ValueError(
            f"{out_path} holds {len(unknown)} rows that are not in this data, for example {min(unknown)!r}. It "
            "belongs to another run: delete it and its .rank files, or choose another path."
        )
    return stored


def merge_shards(out_path: Path, numbers: RowNumbers) -> None:
    """Writes all rows in order to ``out_path`` and removes the shards, unless a row is missing."""
    if is_merged(out_path):
        return
    stored = read_shards(out_path, numbers)
    if (stored.offsets < 0).any():
        return
    write_lines_of(out_path, stored.paths, zip(stored.files, stored.offsets, strict=True))
    for shard in _shard_paths(out_path):
        shard.unlink()


def is_merged(out_path: Path) -> bool:
    """Whether the ordered file exists and no shard is left."""
    return out_path.exists() and not _shard_paths(out_path)


def _shard_paths(out_path: Path) -> list[Path]:
    return sorted(path for path in out_path.parent.glob(f"{out_path.name}.rank*") if path.suffix[5:].isdigit())
