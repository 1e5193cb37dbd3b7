# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The files of a generation run: one shard per rank during the run, one ordered file at the end."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..utils.io import read_json, read_jsonl, write_json, write_jsonl


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


def read_shards(out_path: Path, row_ids: Sequence[str]) -> dict[str, Row]:
    """All rows on disk by id, a good one before a failed one; a ValueError if an id is not in ``row_ids``."""
    rows: dict[str, Row] = {}
    for path in (out_path, *_shard_paths(out_path)):
        for row in read_jsonl(path):
            if "error" not in row or row["id"] not in rows:
                rows[row["id"]] = row
    unknown = rows.keys() - set(row_ids)
    if unknown:
        raise ValueError(
            f"{out_path} holds {len(unknown)} rows that are not in this data, for example {min(unknown)!r}. It "
            "belongs to another run: delete it and its .rank files, or choose another path."
        )
    return rows


def merge_shards(out_path: Path, row_ids: Sequence[str]) -> None:
    """Writes all rows in the order of ``row_ids`` to ``out_path`` and removes the shards, unless a row is missing."""
    if is_merged(out_path):
        return
    rows = read_shards(out_path, row_ids)
    if any(id_ not in rows for id_ in row_ids):
        return
    write_jsonl(out_path, (rows[id_] for id_ in row_ids))
    for shard in _shard_paths(out_path):
        shard.unlink()


def is_merged(out_path: Path) -> bool:
    """Whether the ordered file exists and no shard is left."""
    return out_path.exists() and not _shard_paths(out_path)


def _shard_paths(out_path: Path) -> list[Path]:
    return sorted(path for path in out_path.parent.glob(f"{out_path.name}.rank*") if path.suffix[5:].isdigit())
