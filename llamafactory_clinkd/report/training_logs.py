# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Training logs: what the trainer logged, as series over steps."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.io import read_json, read_jsonl


SERIES = {
    "loss": "Loss",
    "ce": "Cross-entropy",
    "kl": "KL divergence",
    "teacher_agreement": "Agreement with the teacher",
    "teacher_entropy": "Entropy of the teacher",
    "aux_loss": "Load balancing of the experts",
    "learning_rate": "Learning rate",
}
"""Keys of a log entry that are drawn, with their titles."""

UNKNOWN = "training"
"""The phase that logged into ``output_dir``, where no state says which it was."""


@dataclass(frozen=True)
class TrainingLog:
    """The log of one training phase; ``series[key]`` is ``(steps, values)``, in the order of the steps."""

    phase: str
    source: str
    series: dict[str, tuple[list[float], list[float]]]
    epochs: float | None


def read_training_logs(folder: Path, phases: dict[str, Any], missing: dict[str, str]) -> list[TrainingLog]:
    """The logs of the phases ``distill`` and ``correct``; :data:`UNKNOWN` where no state tells the phase.

    A finished phase names its folder in ``outputs``; else the places where the procedure writes are tried. In each,
    ``trainer_state.json`` comes first (it has CE and KL apart), then that of the last checkpoint, then LLaMA-Factory's
    ``trainer_log.jsonl``.

    Args:
        folder: The run's ``output_dir``.
        phases: ``state.json``'s phases.
        missing: Gets a sentence for each phase that should have a log and has none.
    """
    logs = []
    known = [phase for phase in ("distill", "correct") if phase in phases]
    for phase in known or ("distill", UNKNOWN):
        places = [folder / name for name in phases.get(phase, {}).get("outputs", [])]
        is_last = phase in (*known[-1:], UNKNOWN)  # the last training phase writes into `output_dir` itself
        places += [folder / "clinkd" / phase, *([folder] if is_last else [])]
        log = next((log for place in places if (log := _read(phase, place, folder)) is not None), None)
        if log is not None:
            logs.append(log)
        elif phase in phases:
            missing[f"log_{phase}"] = f"Phase {phase} left no trainer_state.json and no trainer_log.jsonl: no curves."
    if not logs:
        missing.setdefault("logs", "No training phase left a log: there are no loss curves.")
    return logs


def _read(phase: str, place: Path, folder: Path) -> TrainingLog | None:
    """The log in one folder, None where there is none that can be read."""
    states = [place / "trainer_state.json", *sorted(place.glob("checkpoint-*/trainer_state.json"), key=_step)[-1:]]
    for path in [*(path for path in states if path.is_file()), place / "trainer_log.jsonl"]:
        try:
            entries = read_jsonl(path) if path.suffix == ".jsonl" else read_json(path).get("log_history", [])
        except ValueError:
            continue  # torn by a crash: the next source may be whole
        series = _series(entries)
        if series:
            epochs = [entry["epoch"] for entry in entries if isinstance(entry.get("epoch"), int | float)]
            return TrainingLog(phase, path.relative_to(folder).as_posix(), series, max(epochs, default=None))
    return None


def _step(path: Path) -> int:
    number = path.parent.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _series(entries: list[dict[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """Series of the keys in :data:`SERIES`; the trainer's closing entry (``train_loss``) has none of them."""
    found: dict[str, dict[float, float]] = {}
    for entry in entries:
        step = entry.get("step", entry.get("current_steps"))
        named = {**entry, "learning_rate": entry.get("learning_rate", entry.get("lr"))}
        for key in SERIES:
            if isinstance(step, int | float) and isinstance(named.get(key), int | float):
                found.setdefault(key, {})[step] = named[key]  # a resumed run logs a step again: the later one counts
    return {key: (sorted(found[key]), [found[key][s] for s in sorted(found[key])]) for key in SERIES if key in found}
