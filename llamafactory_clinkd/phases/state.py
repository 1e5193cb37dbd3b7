# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd/state.json``: which phases ran, with which inputs, when, where, and whether they finished."""

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..arguments import TRAINING_PHASES
from ..utils.io import content_hash, read_json, write_json
from .checkpoints import checkpoints_in
from .context import Run
from .fingerprint import changed_inputs


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

        If they changed, prediction and evaluation run again; other phases raise ``ValueError`` with each changed key.
        """
        record = self.phases.get(phase)
        if record is None:
            return False
        if record["hash"] == content_hash(inputs):
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
        return record is not None and record["hash"] == content_hash(inputs)

    def folder_of(self, phase: str) -> str | None:
        """Where a training phase wrote, relative to ``output_dir``; ``None`` if it never started."""
        record = self.phases.get(phase, {})
        return str(Path(record["outputs"][0]).parent) if "outputs" in record else record.get("folder")

    def start(self, phase: str, inputs: dict[str, Any], folder: str | None = None) -> None:
        """Records the start of a phase; ``folder`` is where a training phase writes, relative to ``output_dir``."""
        earlier = self.phases[phase] if self.was_started(phase, inputs) else {}
        self.phases[phase] = {
            "status": "started",
            "hash": content_hash(inputs),
            "inputs": inputs,
            "started": _now(),
            "attempts": earlier.get("attempts", 0) + 1,
            "seconds": earlier.get("seconds", 0.0),
            **({} if folder is None else {"folder": folder}),
        }
        self._write()

    def finish(self, phase: str, outputs: list[str], seconds: float) -> None:
        """Records that a phase finished: its files (relative to ``output_dir``) and the time of its last attempt."""
        self.phases[phase] |= {
            "status": "finished",
            "outputs": outputs,
            "finished": _now(),
            "seconds": round(self.phases[phase]["seconds"] + seconds, 3),
        }
        self._write()

    def _write(self) -> None:
        if self._writes:
            write_json(self.path, {"format": FORMAT, "phases": self.phases})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def check_output_dirs(run: Run, state: ProcedureState) -> None:
    """Checks the folder of every training phase before the first phase starts.

    The last training phase of a recipe writes into ``output_dir``, the others into ``clinkd/``, so a phase has another
    folder after ``clinkd_phases`` changed. Its model is read from where it is.

    Raises:
        ValueError: If a phase was trained in ``output_dir`` and another one would now write there, if an unfinished
            phase has its checkpoints in another folder, or if a folder holds checkpoints of another run.
    """
    for phase in [name for name in run.phases if name in TRAINING_PHASES]:
        folder, recorded = run.folder_of(phase), state.folder_of(phase)
        checkpoints = checkpoints_in(folder)
        if phase not in state.phases and checkpoints:
            raise ValueError(
                f"{checkpoints[-1]} is of another run: phase `{phase}` would continue from it after an interruption. "
                "Choose a new `output_dir`, or set `overwrite_output_dir: true`."
            )
        if recorded is None or run.output_dir / recorded == folder:
            continue

        record, old_folder = state.phases[phase], run.output_dir / recorded
        phases, advice = ", ".join(run.phases), "or set `overwrite_output_dir: true` to start over"
        if record["status"] != "finished" or not run.outputs_exist(record["outputs"]):
            raise ValueError(
                f"Phase `{phase}` was started in {old_folder}; with `clinkd_phases: {phases}` it belongs in {folder}. "
                f"Change `clinkd_phases` back, choose a new `output_dir`, {advice}."
            )
        if old_folder == run.output_dir:
            later = run.phases[run.phases.index(phase) + 1 :]
            key = "adapter_name_or_path" if (old_folder / "adapter_config.json").is_file() else "model_name_or_path"
            raise ValueError(
                f"Phase `{phase}` finished in {old_folder} as the last training phase of its recipe; with "
                f"`clinkd_phases: {phases}` another model would overwrite it. Continue from it with `clinkd_phases: "
                f"{', '.join(later)}`, `{key}: {old_folder}` and a new `output_dir`, {advice}."
            )
