# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""LLaMA-Factory's ShareGPT layout, with the keys of the paper's Table A1.

A row of the file is ``{"messages": [{"role", "content"}, ...], "images": [path]}``, roles ``user`` and ``assistant``,
the first user message starting with ``<image>``. The side columns ``id``, ``task`` and ``modality`` are ignored by
stock LLaMA-Factory and read by this project's evaluation and report.
"""

import json
import os
import shutil
from collections import Counter
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


CHECKPOINT = 5000  # rows of the source

MOST_WARNINGS = 100


class RowWriter:
    """Writes ``<folder>/<name>.json``, its entry in ``dataset_info.json`` and its lines in ``rejects.jsonl``.

    Args:
        folder: Where the data set goes (LLaMA-Factory's ``dataset_dir``).
        name: Of the data set.
        signature: What must not change for an interrupted run to be taken up: the source and the options.

    Attributes:
        done: Rows of the source dealt with so far; a caller passes over as many.
        counts: What :meth:`write` and :meth:`reject` counted.
        warnings: The first hundred, over all runs.
    """

    def __init__(self, folder: str | Path, name: str, signature: str) -> None:
        self.folder, self.name, self.signature = Path(folder), name, signature
        self.path = self.folder / f"{name}.json"
        self.rejects_path = self.folder / "rejects.jsonl"
        self._parts = self.folder / ".convert" / name
        self._parts.mkdir(parents=True, exist_ok=True)
        self._state_path = self._parts / "state.json"
        self.done = 0
        self.counts: Counter[str] = Counter()
        self.warnings: list[str] = []
        sizes = self._take_up()
        self._rows = self._open("rows", sizes[0])
        self._rejects = self._open("rejects", sizes[1])

    def _take_up(self) -> tuple[int, int]:
        """Reads the state of an interrupted run of the same work; (0, 0) if there is none."""
        if not self._state_path.exists():
            return 0, 0
        state = read_json(self._state_path)
        sizes = tuple(state["sizes"])
        files = [self._parts / "rows", self._parts / "rejects"]
        held = all(file.exists() and file.stat().st_size >= size for file, size in zip(files, sizes, strict=True))
        if state["signature"] != self.signature or not held:
            return 0, 0
        self.done, self.counts, self.warnings = state["done"], Counter(state["counts"]), state["warnings"]
        return sizes

    def _open(self, part: str, size: int):
        f = open(self._parts / part, "ab")
        f.truncate(size)
        return f

    def write(self, rows: Iterable[Mapping[str, Any]], warnings: Iterable[str] = ()) -> None:
        """Adds the rows of one row of the source, and what is to be said about them."""
        warnings = list(warnings)
        self.counts["warnings"] += len(warnings)
        self.warnings += warnings[: MOST_WARNINGS - len(self.warnings)]
        for row in rows:
            start = "[\n" if not self.counts["rows"] else ",\n"
            self._rows.write((start + json.dumps(row, ensure_ascii=False)).encode("utf-8"))
            self.counts["rows"] += 1
            self.counts[f"task {row['task']}"] += 1
            self.counts[f"modality {row['modality']}"] += 1
        self.counts["converted"] += 1
        self._step()

    def reject(self, number: int, identity: Any, reason: str, detail: str) -> None:
        """Sets one row of the source aside."""
        line = {"dataset": self.name, "row": number, "id": identity, "reason": reason, "detail": detail}
        self._rejects.write((json.dumps(line) + "\n").encode("ascii"))  # escaped: the id may not be valid Unicode
        self.counts["rejected"] += 1
        self.counts[f"reject {reason}"] += 1
        self._step()

    def _step(self) -> None:
        self.done += 1
        if self.done % CHECKPOINT == 0:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Puts everything so far on disk, then the state that says so."""
        sizes = []
        for f in (self._rows, self._rejects):
            f.flush()
            os.fsync(f.fileno())
            sizes.append(f.tell())
        state = {"signature": self.signature, "done": self.done, "sizes": sizes}
        write_json(self._state_path, state | {"counts": dict(self.counts), "warnings": self.warnings})

    def close(self, keep: bool) -> None:
        """Ends an unfinished run: with ``keep`` a later one goes on from here, else its files are removed."""
        if keep:
            self.checkpoint()
        self._rows.close()
        self._rejects.close()
        if not keep:
            self._clean()

    def finish(self) -> None:
        """Moves the files to their places. Killed between two steps, a later run repeats them all."""
        self._rows.write(b"\n]\n" if self.counts["rows"] else b"[]\n")
        for f in (self._rows, self._rejects):
            f.flush()
            os.fsync(f.fileno())
            f.close()
        self._merge_rejects()
        os.replace(self._parts / "rows", self.path)
        write_dataset_info(self.folder, {self.name: dataset_info_entry(self.path.name)})
        self._clean()

    def _merge_rejects(self) -> None:
        """Puts the rejects of other data sets in the folder first, then those of this one."""
        merged = self._parts / "merged"
        with open(merged, "wb") as target, open(self._parts / "rejects", "rb") as new:
            if self.rejects_path.exists():
                with open(self.rejects_path, "rb") as old:
                    target.writelines(line for line in old if _dataset_of(line) != self.name)
            shutil.copyfileobj(new, target)
            target.flush()
            os.fsync(target.fileno())
        os.replace(merged, self.rejects_path)

    def _clean(self) -> None:
        shutil.rmtree(self._parts)
        if not any(self._parts.parent.iterdir()):
            self._parts.parent.rmdir()


def _dataset_of(line: bytes) -> Any:
    """Whose line of ``rejects.jsonl`` it is; one that this project did not write belongs to nobody and stays."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found.get("dataset") if isinstance(found, dict) else None
