# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd/state.json``: which phases ran, with what, when, and whether they finished."""

import logging
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..arguments import TRAINING_PHASES
from ..utils.io import read_json, write_json
from .fingerprint import changed_inputs, inputs_hash


logger = logging.getLogger(__name__)

FORMAT = 1


class ProcedureState:
    """The state of a run, in ``<output_dir>/clinkd/state.json``; only rank 0 writes."""

    def __init__(self, folder: Path, writes: bool) -> None:
        self.path = folder / "state.json"
        self._writes = writes
        self.phases: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            content = read_json(self.path)
            if content.get("format") != FORMAT:
                raise ValueError(
                    f"{self.path} has format {content.get('format')}, this version writes {FORMAT}. "
                    "Choose a new `output_dir`, or set `overwrite_output_dir: true` to start over."
                )
            self.phases = content["phases"]

    def is_finished(self, phase: str, inputs: dict[str, Any]) -> bool:
        """Whether the phase finished with exactly these inputs.

        A training phase or pseudo-labelling that was started with other inputs is not silently mixed with new ones;
        prediction and evaluation are made anew and said so.

        Raises:
            ValueError: With each changed key, its old and its new value.
        """
        record = self.phases.get(phase)
        if record is None:
            return False
        if record["hash"] == inputs_hash(inputs):
            return record["status"] == "finished"

        changes = "; ".join(changed_inputs(record["inputs"], inputs))
        if phase in (*TRAINING_PHASES, "pseudo_label"):
            folder = self.path.parent.parent
            raise ValueError(
                f"The recipe changed since phase `{phase}` {record['status']} in {folder}: {changes}. "
                "Change it back, choose a new `output_dir`, or set `overwrite_output_dir: true` to start over."
            )
        logger.warning("Phase %s runs again, because the recipe changed: %s.", phase, changes)
        return False

    def was_started(self, phase: str, inputs: dict[str, Any]) -> bool:
        """Whether an unfinished attempt with the same inputs can be continued."""
        record = self.phases.get(phase)
        return record is not None and record["hash"] == inputs_hash(inputs)

    def folder_of(self, phase: str) -> str | None:
        """Where a training phase wrote, relative to ``output_dir``; ``None`` if it never started."""
        record = self.phases.get(phase, {})
        return str(Path(record["outputs"][0]).parent) if "outputs" in record else record.get("folder")

    def start(self, phase: str, inputs: dict[str, Any], folder: str | None = None) -> float:
        """Records the start of a phase; returns the seconds that earlier attempts at it took.

        Args:
            phase: The phase.
            inputs: What it runs with.
            folder: Where a training phase writes, relative to ``output_dir``.
        """
        record = self.phases.get(phase, {})
        spent = record.get("seconds", 0.0) if self.was_started(phase, inputs) else 0.0
        self.phases[phase] = {
            "status": "started",
            "hash": inputs_hash(inputs),
            "inputs": inputs,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "attempts": record.get("attempts", 0) + 1 if self.was_started(phase, inputs) else 1,
            "seconds": spent,
            **({} if folder is None else {"folder": folder}),
        }
        self._write()
        return spent

    def finish(self, phase: str, outputs: list[str], seconds: float) -> None:
        """Records that a phase finished: its files (relative to ``output_dir``) and the time of its last attempt."""
        self.phases[phase] |= {
            "status": "finished",
            "outputs": outputs,
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(self.phases[phase]["seconds"] + seconds, 3),
        }
        self._write()

    def _write(self) -> None:
        if self._writes:
            write_json(self.path, {"format": FORMAT, "phases": self.phases})


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def seconds(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._start
