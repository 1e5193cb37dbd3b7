# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""LLaMA-Factory's ShareGPT layout, with the keys of the paper's Table A1: its rows, files and ``dataset_info.json``.

A row of the file is ``{"messages": [{"role", "content"}, ...], "images": [path]}``, roles ``user`` and ``assistant``,
the first user message starting with ``<image>``. The side columns ``id``, ``task`` and ``modality`` are ignored by
LLaMA-Factory and read by this project's evaluation and report.
"""

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..utils.boxes import IMAGE_PLACEHOLDER, KEPT_COLUMNS, SIDE_COLUMNS, convert_tags
from ..utils.io import atomic_path, read_json, write_json


_COLUMNS = SIDE_COLUMNS + KEPT_COLUMNS
CHECKPOINT = 5000  # rows of the source
MAX_WARNINGS = 100


def check_name(name: str) -> None:
    """Raises a ValueError if ``name`` cannot be a data set's: its file would be another one's, or cannot exist."""
    reserved = name.lower() in ("dataset_info", "rejects") or name.startswith(".") or len(name.encode()) > 200
    if reserved or not re.fullmatch(r"[\w.-]+", name):
        raise ValueError(f"{name!r} is not a valid data set name: give one of letters, digits, '-', '_' with --name.")


def sharegpt_row(row: Mapping[str, Any], *, tags: str = "qwen2_vl") -> dict[str, Any]:
    """Turns one row into LLaMA-Factory's ShareGPT form, with ``tags`` of the style ``qwen2_vl`` or ``qwen_vl``.

    The row has ``turns`` (a list of ``[question, answer]``, in either style), ``image`` (path relative to the data
    folder, or None for text only) or ``images``, and any of ``system``, ``id``, ``task``, ``modality``. The
    placeholder of a single image moves to the start of the first question; those of several stay in place. A row
    without a turn, or with an empty question or answer, is a ValueError.
    """
    name, turns = row.get("id", row.get("image")), row["turns"]
    if not turns:
        raise ValueError(f"Row {name!r} has no turns; expected at least one [question, answer].")
    images = row.get("images") or ([row["image"]] if row.get("image") else [])
    placeholders_stay = len(images) > 1 and any(IMAGE_PLACEHOLDER in question for question, _ in turns)

    messages = []
    for question, answer in turns:
        if not question.strip() or not answer.strip():
            texts = f"({question!r}, {answer!r})"
            raise ValueError(f"Row {name!r} has an empty question or answer {texts}; fill it or drop the row.")
        if not placeholders_stay:
            question = question.replace(IMAGE_PLACEHOLDER, "")
        messages.append({"role": "user", "content": convert_tags(question.strip(), tags)})
        messages.append({"role": "assistant", "content": convert_tags(answer.strip(), tags)})
    if not placeholders_stay:
        messages[0]["content"] = IMAGE_PLACEHOLDER * len(images) + messages[0]["content"]
    if row.get("system"):
        messages.insert(0, {"role": "system", "content": convert_tags(row["system"].strip(), tags)})
    return {"messages": messages, "images": images} | {key: row[key] for key in _COLUMNS if key in row}


def as_list(value: Any) -> list[Any]:
    """``value`` if it is a list, no item for None, else ``value`` as the only item; for a row's ``images``."""
    return value if isinstance(value, list) else [] if value is None else [value]


def write_sharegpt(path: str | Path, rows: Iterable[Mapping[str, Any]], *, tags: str = "qwen2_vl") -> int:
    """Writes rows (see :func:`sharegpt_row`) as one JSON array, a row a line, atomically; returns how many."""
    return write_array(path, (sharegpt_row(row, tags=tags) for row in rows))


def write_array(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Streams rows that are in ShareGPT form already to a JSON array, a row a line, atomically; returns how many."""
    count = 0
    with atomic_path(path) as temporary, open(temporary, "wb") as f:
        for count, row in enumerate(rows, start=1):
            f.write(_array_item(row, first=count == 1))
        f.write(_array_end(count))
    return count


def _array_item(row: Mapping[str, Any], first: bool) -> bytes:
    return (("[\n" if first else ",\n") + json.dumps(row, ensure_ascii=False)).encode("utf-8")


def _array_end(count: int) -> bytes:
    return b"\n]\n" if count else b"[]\n"


def _sync(f: BinaryIO) -> None:
    f.flush()
    os.fsync(f.fileno())


def dataset_info_entry(file_name: str) -> dict[str, Any]:
    """The entry of ``dataset_info.json`` for a file of :func:`write_sharegpt` (Table A1's columns and tags)."""
    return {
        "file_name": file_name,
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
    }


def write_dataset_info(directory: str | Path, entries: Mapping[str, Mapping[str, Any]]) -> Path:
    """Adds ``entries`` (data set name -> entry) to ``directory/dataset_info.json`` and keeps the others."""
    path = Path(directory) / "dataset_info.json"
    known = read_json(path) if path.exists() else {}
    if not isinstance(known, dict):
        raise ValueError(f"{path} holds a {type(known).__name__}, expected data set names with their entries. Fix it.")
    write_json(path, known | {name: dict(entry) for name, entry in entries.items()})
    return path


class ResumableWriter:
    """Writes ``<folder>/<name>.json``, its entry in ``dataset_info.json`` and its lines in ``rejects.jsonl``.

    Rows go to partial files under ``<folder>/.convert/<name>``, with a checkpoint every :data:`CHECKPOINT` rows. A
    writer with the same ``signature`` (of source and options) resumes from the last one: the caller skips the first
    ``done`` rows. ``entry`` has more keys of the entry, ``warnings`` the first hundred over all runs.
    """

    def __init__(self, folder: str | Path, name: str, signature: str, **entry: Any) -> None:
        self.name, self.signature, self._entry = name, signature, entry
        self.path, self.rejects_path = Path(folder) / f"{name}.json", Path(folder) / "rejects.jsonl"
        self._partial = Path(folder) / ".convert" / name
        self._partial.mkdir(parents=True, exist_ok=True)
        self._state_path = self._partial / "state.json"
        self._rows, self._rejects = self._files = [open(self._partial / part, "ab") for part in ("rows", "rejects")]
        state = read_json(self._state_path) if self._state_path.exists() else {"signature": None, "sizes": [0, 0]}
        complete = all(f.tell() >= size for f, size in zip(self._files, state["sizes"], strict=True))
        if state["signature"] != signature or not complete:
            state = {"done": 0, "sizes": [0, 0], "counts": {}, "warnings": []}
        self.done, self.warnings = state["done"], state["warnings"]
        self.counts: Counter[str] = Counter(state["counts"])
        for f, size in zip(self._files, state["sizes"], strict=True):
            f.truncate(size)
            f.seek(size)

    def write(self, rows: list[dict[str, Any]], warnings: list[str]) -> None:
        """Writes the rows and the warnings of one row of the source."""
        self.counts["warnings"] += len(warnings)
        self.warnings += warnings[: MAX_WARNINGS - len(self.warnings)]
        for row in rows:
            self._rows.write(_array_item(row, first=not self.counts["rows"]))
            self.counts.update(("rows", f"task {row['task']}", f"modality {row['modality']}"))
        self._advance("converted")

    def reject(self, number: int, identity: Any, reason: str, detail: str) -> None:
        """Records one rejected row of the source."""
        line = {"dataset": self.name, "row": number, "id": identity, "reason": reason, "detail": detail}
        self._rejects.write((json.dumps(line) + "\n").encode("ascii"))  # escaped: the id may not be valid Unicode
        self.counts[f"reject {reason}"] += 1
        self._advance("rejected")

    def _advance(self, outcome: str) -> None:
        self.counts[outcome] += 1
        self.done += 1
        if self.done % CHECKPOINT == 0:
            self.checkpoint()

    def counts_of(self, kind: str) -> dict[str, int]:
        """Counts of each ``reject`` reason, ``task`` or ``modality``, the largest first."""
        counts = {key.removeprefix(f"{kind} "): n for key, n in self.counts.items() if key.startswith(f"{kind} ")}
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def checkpoint(self) -> None:
        """Syncs the partial files to disk, then writes the state that refers to them."""
        for f in self._files:
            _sync(f)
        state = {"signature": self.signature, "done": self.done, "sizes": [f.tell() for f in self._files]}
        write_json(self._state_path, state | {"counts": dict(self.counts), "warnings": self.warnings})

    def close(self, keep: bool) -> None:
        """Ends an unfinished run: with ``keep`` a later run continues from here, else its files are removed."""
        if keep:
            self.checkpoint()
        for f in self._files:
            f.close()
        if not keep:
            self._remove_partial()

    def finish(self) -> None:
        """Moves the files into place. If killed between two steps, the next run repeats them all."""
        self._rows.write(_array_end(self.counts["rows"]))
        for f in self._files:
            _sync(f)
            f.close()
        merged = self._partial / "merged"
        with open(merged, "wb") as target, open(self._partial / "rejects", "rb") as rejects:
            if self.rejects_path.exists():
                with open(self.rejects_path, "rb") as old:  # lines of other data sets stay, and come first
                    target.writelines(line for line in old if _dataset_of(line) != self.name)
            shutil.copyfileobj(rejects, target)
            _sync(target)
        for finished, path in ((merged, self.rejects_path), (self._partial / "rows", self.path)):
            if path.is_file() and not path.is_symlink():
                shutil.copymode(path, finished)
            os.replace(finished, path)
        write_dataset_info(self.path.parent, {self.name: dataset_info_entry(self.path.name) | self._entry})
        self._remove_partial()

    def _remove_partial(self) -> None:
        shutil.rmtree(self._partial)
        if not any(self._partial.parent.iterdir()):
            self._partial.parent.rmdir()


def _dataset_of(line: bytes) -> Any:
    """The data set of a line of ``rejects.jsonl``; None for a line of another program, which is kept."""
    with suppress(ValueError, AttributeError):  # not JSON, or not an object
        return json.loads(line).get("dataset")
