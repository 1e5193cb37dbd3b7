# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd/state.json``: which phases ran, with which inputs, when, where, and whether they finished."""

import json
import logging
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..arguments import TRAINING_PHASES
from ..utils.io import content_hash, read_json, write_json
from .checkpoints import model_files, refuse_leftovers
from .content import ContentHashes, model_fingerprint
from .context import Run
from .fingerprint import changed_inputs


logger = logging.getLogger(__name__)

FORMAT = 1
ROWS = ("per_device_train_batch_size", "gradient_accumulation_steps")


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

    def is_finished(self, phase: str, inputs: dict[str, Any], rows: dict[str, int]) -> bool:
        """Whether the phase finished with exactly these inputs, and :func:`step_rows` of a training step.

        If they changed, prediction and evaluation run again; other phases raise ``ValueError`` with each changed key.
        """
        record = self.phases.get(phase)
        if record is None:
            return False
        finished, same = record["status"] == "finished", record["hash"] == content_hash(inputs)
        other_rows = changed_result(record.get("step_rows"), rows) if same and finished else None
        if same and other_rows is None:
            return finished

        changes = other_rows or "; ".join(changed_inputs(record["inputs"], inputs))
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

    def start(
        self, phase: str, inputs: dict[str, Any], folder: str | None = None, rows: dict[str, int] | None = None
    ) -> None:
        """Records the start of a phase; ``folder`` is where a training phase writes, relative to ``output_dir``."""
        earlier = self.phases[phase] if self.was_started(phase, inputs) else {}
        timed = earlier.get("timed_attempts", int(earlier.get("status") == "finished"))  # older versions lack the key
        if self._writes and (lost := earlier.get("attempts", 0) - timed):
            logger.info(
                "The time of phase %s lacks attempts that were killed, whose time is unknown: %d.", phase, lost
            )
        self.phases[phase] = {
            "status": "started",
            "hash": content_hash(inputs),
            "inputs": inputs,
            "started": earlier.get("started") or _now(),
            "attempts": earlier.get("attempts", 0) + 1,
            "timed_attempts": timed,  # all but killed ones
            "seconds": earlier.get("seconds", 0.0),
            **({} if folder is None else {"folder": folder, "step_rows": rows}),
        }
        self._write()

    def interrupt(self, phase: str, seconds: float) -> None:
        """Records that an attempt of ``seconds`` ended before the phase did."""
        self._add_time(phase, seconds)
        self._write()

    def finish(self, phase: str, outputs: list[str], seconds: float, model: Any = None) -> None:
        """Records that a phase finished: files (relative to ``output_dir``), this attempt's time, trained model."""
        self._add_time(phase, seconds)
        self.phases[phase] |= {
            "status": "finished",
            "outputs": outputs,
            "finished": _now(),
            **({} if model is None else {"model": model}),
        }
        self._write()

    def _add_time(self, phase: str, seconds: float) -> None:
        record = self.phases[phase]
        record["timed_attempts"] += 1
        record["seconds"] = round(record["seconds"] + seconds, 3)

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
            phase has its checkpoints in another folder, or if a folder holds checkpoints or a model of another run.
    """
    trained = [name for name in TRAINING_PHASES if state.phases.get(name, {}).get("status") == "finished"]
    if trained and not set(TRAINING_PHASES) & set(run.phases):
        logger.warning(
            "The phases %s use the model of the recipe, not what phase %s trained in %s. To use that, add %s to "
            "`clinkd_phases`: what is finished is skipped.",
            ", ".join(run.phases), trained[-1], run.output_dir, ", ".join(trained),
        )  # fmt: skip
    for phase in [name for name in run.phases if name in TRAINING_PHASES]:
        folder, recorded = run.folder_of(phase), state.folder_of(phase)
        if phase not in state.phases:
            refuse_leftovers(folder, phase, adapter=run.trains_adapter)
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
            key = "adapter_name_or_path" if run.trains_adapter else "model_name_or_path"
            raise ValueError(
                f"Phase `{phase}` finished in {old_folder} as the last training phase of its recipe; with "
                f"`clinkd_phases: {phases}` another model would overwrite it. Continue from it with `clinkd_phases: "
                f"{', '.join(later)}`, `{key}: {old_folder}` and a new `output_dir`, {advice}."
            )


def trained_model(folder: Path, hashes: ContentHashes, *, adapter: bool, recorded: Any = None) -> Any:
    """The fingerprint of the model that a training phase wrote to ``folder``, as JSON holds it.

    Raises:
        ValueError: If there is not exactly one model, of the kind that was trained, or it is not the ``recorded`` one.
    """
    names = [path.name for path in model_files(folder)]
    whole = [name for name in names if name in ("model.safetensors", "model.safetensors.index.json")]
    expected = "an adapter" if adapter else "a whole model"
    problem = None
    if len(whole) != (not adapter) or ("adapter_config.json" in names) != adapter:
        problem = f"should hold {expected} and nothing else that is loaded, found {', '.join(names) or 'none'}"
    found = json.loads(json.dumps(model_fingerprint(str(folder), hashes)))
    if problem is None and recorded not in (None, found):
        changes = "; ".join(changed_inputs(recorded, found))
        problem = f"does not hold the model that the phase wrote: {changes}"
    if problem is not None:
        raise ValueError(
            f"{folder} {problem}. Remove what is not of this run and put back what is, or set `overwrite_output_dir: "
            "true` to start over."
        )
    return found


def step_rows(training: Any, ranks: int) -> dict[str, int]:
    """The factors of the rows that a training step sees, as the state records them.

    The loader deals micro-batches out to the ranks in turn, and a checkpoint counts steps. Training therefore
    continues with the right rows exactly if the product is what it was (accelerate, ``BatchSamplerShard``).
    """
    return {"ranks": ranks, **{key: getattr(training, key) for key in ROWS}}


def changed_result(old: dict[str, int] | None, new: dict[str, int]) -> str | None:
    """Why a *finished* training is not that of the recipe; another number of ranks alone is no other recipe."""
    changed = [key for key in ROWS if old is not None and old[key] != new[key]]
    if not changed or math.prod(old.values()) == math.prod(new.values()):
        return None
    return "; ".join(f"{key} was {old[key]}, is {new[key]}" for key in changed)


def fault_of_resume(old: dict[str, int] | None, new: dict[str, int], arguments: Any) -> str | None:
    """Why an *unfinished* training of a recipe cannot be continued exactly with other factors, and the way out."""
    if old in (None, new):
        return None
    was, now = (", ".join(f"{key} {rows[key]}" for key in ("ranks", *ROWS)) for rows in (old, new))
    before, after, accumulation = math.prod(old.values()), math.prod(new.values()), ROWS[1]
    if before != after:
        steps, rest = divmod(before, after // new[accumulation])
        way = f"{old['ranks']} ranks and the old batch size" if rest else f"`{accumulation}: {steps}`"
        return f"a step would see {after} rows ({now}) instead of {before} ({was}). Continue with {way}"
    training, split = arguments.training, getattr(arguments.training.accelerator_config, "split_batches", False)
    reasons = {
        f"DeepSpeed's checkpoints belong to {old['ranks']} ranks": training.deepspeed and old["ranks"] != new["ranks"],
        "`group_by_length` orders the rows by these numbers": training.train_sampling_strategy == "group_by_length",
        "`split_batches` divides a batch among the ranks": split,
        "the load-balancing loss depends on what is in a micro-batch": old[ROWS[0]] != new[ROWS[0]]
        and arguments.model.moe_aux_loss_coef is not None,
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    return reason and f"{reason} (was {was}, is {now}). Continue with {was}"
