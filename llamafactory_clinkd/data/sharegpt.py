# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""LLaMA-Factory's ShareGPT layout, with the keys of the paper's Table A1.

A row of the file is ``{"messages": [{"role", "content"}, ...], "images": [path]}``, roles ``user`` and ``assistant``,
the first user message starting with ``<image>``. The side columns ``id``, ``task`` and ``modality`` are ignored by
stock LLaMA-Factory and read by this project's evaluation and report.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..utils.boxes import convert_tags
from ..utils.io import read_json, write_json


IMAGE_PLACEHOLDER = "<image>"
SIDE_COLUMNS = ("id", "task", "modality")


def sharegpt_row(row: Mapping[str, Any], *, tags: str = "qwen2_vl") -> dict[str, Any]:
    """Turns one row into LLaMA-Factory's ShareGPT form.

    Args:
        row: ``image`` (path relative to the data folder, or None for text only), ``turns`` (a list of
            ``[question, answer]``, in either tag style) and any of the side columns ``id``, ``task``, ``modality``.
        tags: Style of the ref and box tags in the output, ``qwen2_vl`` or ``qwen_vl``.

    Raises:
        ValueError: If the row has no turn, or a question or an answer is empty.
    """
    name = row.get("id", row.get("image"))
    if not row["turns"]:
        raise ValueError(f"Row {name!r} has no turns; expected at least one [question, answer].")

    messages = []
    for question, answer in row["turns"]:
        if not question.strip() or not answer.strip():
            raise ValueError(
                f"Row {name!r} has an empty question or answer ({question!r}, {answer!r}); fill it or drop the row."
            )
        question = question.replace(IMAGE_PLACEHOLDER, "").strip()
        messages.append({"role": "user", "content": convert_tags(question, tags)})
        messages.append({"role": "assistant", "content": convert_tags(answer.strip(), tags)})

    images = [row["image"]] if row.get("image") else []
    if images:
        messages[0]["content"] = IMAGE_PLACEHOLDER + messages[0]["content"]
    return {"messages": messages, "images": images} | {key: row[key] for key in SIDE_COLUMNS if key in row}


def write_sharegpt(path: str | Path, rows: Iterable[Mapping[str, Any]], *, tags: str = "qwen2_vl") -> int:
    """Writes rows (see :func:`sharegpt_row`) as one JSON array, a row a line, atomically; returns how many."""
    return write_array(path, (sharegpt_row(row, tags=tags) for row in rows))


def write_array(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Streams rows that are in ShareGPT form already to a JSON array, a row a line, atomically; returns how many."""
    path, count = Path(path), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")  # a fixed name: what a killed run left is overwritten
    try:
        with open(unfinished, "w", encoding="utf-8") as f:
            for row in rows:
                f.write(("[\n" if not count else ",\n") + json.dumps(row, ensure_ascii=False))
                count += 1
            f.write("\n]\n" if count else "[]\n")
            f.flush()
            os.fsync(f.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    return count


def dataset_info_entry(file_name: str) -> dict[str, Any]:
    """The entry of ``dataset_info.json`` for a file of :func:`write_sharegpt` (Table A1's columns and tags)."""
    return {
        "file_name": file_name,
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }


def write_dataset_info(directory: str | Path, entries: Mapping[str, Mapping[str, Any]]) -> Path:
    """Adds ``entries`` (data set name -> entry) to ``directory/dataset_info.json``, keeping what others put there.

    Raises:
        ValueError: If the file is there and is not a JSON object; the message names it.
    """
    path = Path(directory) / "dataset_info.json"
    known = read_json(path) if path.exists() else {}
    if not isinstance(known, dict):
        raise ValueError(
            f"{path} holds a {type(known).__name__}, expected data set names with their entries. Mend it."
        )
    write_json(path, known | {name: dict(entry) for name, entry in entries.items()})
    return path
