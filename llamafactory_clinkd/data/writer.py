# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A ShareGPT file written a row at a time, which a crash or Ctrl-C interrupts without harm.

Until all rows are there they live in ``<folder>/.convert/<name>/``: the rows, the rejects, and a state file that is
written after both are on disk. A later run with the same source and options cuts both back to what the state vouches
for and goes on from there, so its files are byte for byte those of an undisturbed run.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..utils.io import read_json, write_json
from .sharegpt import dataset_info_entry, write_dataset_info


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
