# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The files of a generation run: one part per rank while it runs, one ordered file at the end."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..utils.io import read_json, read_jsonl, write_json, write_jsonl


Row = dict[str, Any]


class UnfinishedError(RuntimeError):
    """Generation was stopped early; what is there is whole, and the next run goes on from it."""


def part_path(out_path: Path, process_index: int) -> Path:
    """Where one rank appends."""
    return Path(f"{out_path}.rank{process_index}")


def check_settings(out_path: Path, settings: dict[str, Any], process_index: int) -> None:
    """Notes the settings beside the file, and refuses to mix answers of different settings in one file.

    Raises:
        ValueError: If rows of other settings are there.
    """
    path = Path(f"{out_path}.settings.json")
    settings = json.loads(json.dumps(settings, default=str))
    if path.exists() and (out_path.exists() or _parts(out_path)):
        before = read_json(path)
        keys = sorted(key for key in before.keys() | settings.keys() if before.get(key) != settings.get(key))
        if keys:
            changes = ", ".join(f"{key}: {before.get(key)} there, {settings.get(key)} now" for key in keys)
            raise ValueError(
                f"{out_path} was generated with other settings ({changes}). Delete it and its .rank files to start "
                "anew, or choose another path."
            )
    elif process_index == 0:
        write_json(path, settings)


def read_parts(out_path: Path, row_ids: Sequence[str]) -> dict[str, Row]:
    """All rows on disk, by id, whatever number of ranks wrote them; a good row wins over a failed one.

    Raises:
        ValueError: If a row is there that ``row_ids`` does not name.
    """
    rows: dict[str, Row] = {}
    for path in (out_path, *_parts(out_path)):
        for row in read_jsonl(path):
            if "error" not in row or row["id"] not in rows:
                rows[row["id"]] = row

    strangers = rows.keys() - set(row_ids)
    if strangers:
        raise ValueError(
            f"{out_path} holds {len(strangers)} rows that are not in this data, for example {min(strangers)!r}. It "
            "belongs to another run: delete it and its .rank files, or choose another path."
        )
    return rows


def merge_parts(out_path: Path, row_ids: Sequence[str]) -> None:
    """Writes all rows in the order of ``row_ids`` to ``out_path`` and removes the parts; waits for missing rows."""
    if is_merged(out_path):
        return
    parts = _parts(out_path)
    rows = read_parts(out_path, row_ids)
    if any(id_ not in rows for id_ in row_ids):
        return
    write_jsonl(out_path, (rows[id_] for id_ in row_ids))
    for part in parts:
        part.unlink()


def is_merged(out_path: Path) -> bool:
    """Whether the ordered file is all there is."""
    return out_path.exists() and not _parts(out_path)


def _parts(out_path: Path) -> list[Path]:
    return sorted(path for path in out_path.parent.glob(f"{out_path.name}.rank*") if path.suffix[5:].isdigit())
