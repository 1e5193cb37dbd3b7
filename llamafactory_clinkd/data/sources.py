# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Streams the rows of a source: JSON and JSONL, CSV and TSV, Parquet, a folder of them, a data set of the hub.

JSON arrays, JSONL, objects with a list in a member such as ``data``, and objects of objects go through ``reader.py``;
COCO's annotations are joined with images and categories. Python's ``csv`` reads ``.csv`` and ``.tsv``; VinDr-CXR's
lines are joined by picture and class. ``pyarrow`` reads Parquet by batches, ``datasets`` streams folders and the hub;
pictures stay bytes. Text may be UTF-8 or UTF-16, with or without a byte order mark, and gzipped.
"""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .box_formats import coco_rows, vindr_key
from .formats import FORMATS
from .problems import Reject
from .reader import (
    LIST,
    BrokenFileError,
    decoded,
    is_object_file,
    kind_of_members,
    members,
    numbered,
    open_binary,
    read_rows,
)


csv.field_size_limit(1 << 25)
SAMPLE = 100  # rows that determine the format
BATCH = 16  # rows of a Parquet file, pictures included
_KEPT = ("id", "image_id", "category_id", "bbox", "iscrowd", "caption", "file_name", "width", "height")  # of COCO
Row = tuple[int, dict[str, Any] | Reject]


def read_source(
    source: str | Path, split: str | None = None, on_bytes: Callable[[int], None] | None = None
) -> Iterator[Row]:
    """Yields ``(row number from 1, row)`` of any source above; see :func:`.reader.read_rows`.

    ``split`` names the part of a folder, of a hub's data set, or the member of a JSON object that has several lists.

    Raises:
        BrokenFileError: If the source cannot be read, or further.
        FileNotFoundError: If it is no file, no folder and no name of the hub (``owner/name``).
    """
    path = Path(source)
    if not path.is_file():
        return numbered(_datasets(str(source), path, split))
    with open_binary(path) as f:
        magic = f.read(4)
    if magic == b"PAR1":
        return numbered(_parquet(path, on_bytes))
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if {".csv", ".tsv"} & set(suffixes[-2:]):
        return numbered(_csv(path, "\t" if ".tsv" in suffixes else ",", on_bytes))
    if is_object_file(path, lambda row: any(kind.matches(row) for kind in FORMATS.values())):
        return numbered(_object(path, split, on_bytes))
    return read_rows(path, on_bytes)


def first_rows(source: str | Path, split: str | None, required: bool) -> list[dict[str, Any]]:
    """The first :data:`SAMPLE` readable rows; a ValueError if they are ``required`` and the file has only others."""
    sample, first_reject = [], ""
    try:
        for number, row in read_source(source, split):
            if isinstance(row, Reject):
                first_reject = first_reject or f"row {number}: {row}"
            else:
                sample.append(row)
            if len(sample) == SAMPLE:
                break
    except BrokenFileError:
        if not sample:
            raise  # otherwise the conversion raises it, after the readable rows
    if required and first_reject and not sample:
        expected = "Expected JSON objects in an array or a line each, CSV or Parquet."
        raise ValueError(f"{source} has no row that can be read; {first_reject}. {expected}")
    return sample


def _object(path: Path, split: str | None, on_bytes: Callable[[int], None] | None) -> Iterator[Any]:
    """The rows of a file that is one JSON object."""
    kinds = kind_of_members(path)
    lists = [key for key, kind in kinds.items() if kind == "list"]
    if split is not None and split not in lists:
        raise ValueError(f"{path} has no list {split!r}: it has {', '.join(lists) or 'none'}.")
    if {"images", "annotations"} <= kinds.keys() and split is None:
        yield from _coco(path)
    elif split is not None or len(lists) == 1:
        wanted = split or lists[0]
        yield from (value for key, value in members(path, on_bytes) if key == wanted and value is not LIST)
    elif len(lists) > 1:
        raise ValueError(f"{path} has several lists: {', '.join(lists)}. Name one with --split.")
    elif kinds and set(kinds.values()) == {"object"}:  # such as Kvasir-SEG: the key names the picture
        yield from ({"id": key} | value for key, value in members(path, on_bytes))
    else:
        raise ValueError(f"{path} is one JSON object without a list of rows; its members are {', '.join(kinds)}.")


def _coco(path: Path) -> Iterator[Any]:
    images, categories, annotations = {}, {}, []
    for key, value in members(path):
        if value is LIST or key not in ("images", "categories", "annotations"):
            continue
        if not isinstance(value, dict):
            yield Reject("not_an_object", f"{key} should hold objects, found {type(value).__name__}")
        elif key == "annotations":
            annotations.append(_kept(value))
        elif not isinstance(value.get("id"), str | int):
            yield Reject("missing_field", f"an entry of {key} has no id")
        else:
            table, entry = (images, _kept(value)) if key == "images" else (categories, value.get("name"))
            if table.setdefault(value["id"], entry) != entry:
                yield Reject("wrong_type", f"two entries of {key} have the id {value['id']!r}: none is used")
                table[value["id"]] = None
    yield from coco_rows(images, categories, annotations)


def _kept(value: dict[str, Any]) -> dict[str, Any]:
    return {name: value[name] for name in _KEPT if name in value}


def _csv(path: Path, separator: str, on_bytes: Callable[[int], None] | None) -> Iterator[Any]:
    reader = csv.reader(_lines(path, on_bytes), delimiter=separator, strict=True)
    groups: dict[Any, list[dict]] = {}
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            if not header or "unexpected end" in str(error):
                raise BrokenFileError(f"{path}, line {line}: {error}. A quote that is not closed?") from error
            yield Reject("not_json", f"lines {line} to {reader.line_num}: {error}")
            continue
        if not header:
            header = [name.strip() for name in values]
            if len(set(header)) < len(header):
                raise ValueError(f"{path} names a column twice: {', '.join(header)}. Rename one.")
        elif len(values) not in (0, len(header)):
            yield Reject("not_an_object", f"line {line} has {len(values)} fields, the header {len(header)}")
        elif values:
            row = dict(zip(header, values, strict=True))
            if key := vindr_key(row):
                groups.setdefault(key, []).append(row)
            else:
                yield row
    yield from ({"lines": lines} for lines in groups.values())


def _lines(path: Path, on_bytes: Callable[[int], None] | None) -> Iterator[str]:
    rest = ""
    for window in decoded(path, on_bytes):
        *lines, rest = (rest + window).split("\n")
        yield from (line + "\n" for line in lines)
    yield from [rest] if rest else []


def _parquet(path: Path, on_bytes: Callable[[int], None] | None) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as f:
            size, total, done = path.stat().st_size, max(1, f.metadata.num_rows), 0
            for batch in f.iter_batches(BATCH):
                yield from batch.to_pylist()
                done += batch.num_rows
                if on_bytes:
                    on_bytes(size * done // total)
    except (pyarrow.ArrowException, OSError) as error:
        raise BrokenFileError(f"{path} is not a whole Parquet file ({error}).") from error


def _datasets(name: str, folder: Path, split: str | None) -> Iterator[dict[str, Any]]:
    """Rows of a folder or of the hub; pictures stay bytes."""
    is_name = name.count("/") == 1 and not name.startswith((".", "/", "~")) and not folder.parent.exists()
    if not folder.is_dir() and not is_name:
        raise FileNotFoundError(f"{name} is no file and no folder; a data set of the hub is named owner/name.")
    import datasets

    try:
        parts = datasets.load_dataset(name, streaming=True)
    except Exception as error:  # of the network, the hub or the files: the library's own types
        raise BrokenFileError(f"`datasets` does not read {name}: {type(error).__name__}: {error}") from error
    if split is None and len(parts) > 1:
        raise ValueError(f"{name} has the splits {', '.join(parts)}: name one with --split.")
    if split is not None and split not in parts:
        raise ValueError(f"{name} has no split {split!r}: it has {', '.join(parts)}.")
    rows = parts[split or next(iter(parts))]
    for column, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    yield from rows
