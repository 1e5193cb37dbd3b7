# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Training logs as series over steps, and their curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..utils.io import read_json, read_jsonl
from .figures import training_curve


SERIES = {
    "loss": "Loss", "ce": "Cross-entropy", "kl": "KL divergence", "teacher_agreement": "Agreement with the teacher",
    "teacher_entropy": "Entropy of the teacher", "aux_loss": "Expert load-balancing loss",
    "learning_rate": "Learning rate",
}  # fmt: skip
"""Keys of a log entry that are drawn, with their titles."""
UNKNOWN = "training"  # the phase that logged into ``output_dir`` if no state names it


class TrainingLog(NamedTuple):
    """The log of one training phase; ``series[key]`` is ``(steps, values)``, sorted by step."""

    phase: str
    source: str
    series: dict[str, tuple[list[float], list[float]]]


def read_training_logs(folder: Path, phases: dict[str, Any], missing: dict[str, str]) -> list[TrainingLog]:
    """The logs of the phases ``distill`` and ``correct``; of :data:`UNKNOWN` if no state names the phase.

    A finished phase lists its folder in ``outputs``; then come the default folders of ``folder``, the ``output_dir``.
    In each, ``trainer_state.json`` is tried first (it has CE and KL), then that of the last checkpoint, then
    LLaMA-Factory's ``trainer_log.jsonl``. ``missing`` receives a sentence for each phase without its log.
    """
    logs = []
    recorded = [phase for phase in ("distill", "correct") if phase in phases]
    for phase in recorded or ("distill", UNKNOWN):
        folders = [folder / name for name in phases.get(phase, {}).get("outputs", [])]
        is_last = phase in (*recorded[-1:], UNKNOWN)  # the last training phase writes into `output_dir` itself
        folders += [folder / "clinkd" / phase, *([folder] if is_last else [])]
        log = next((log for path in folders if (log := _read_log(phase, path, folder)) is not None), None)
        if log is not None:
            logs.append(log)
        elif phase in phases:
            missing[f"log_{phase}"] = f"Phase {phase} wrote no trainer_state.json and no trainer_log.jsonl: no curves."
    if not logs:
        missing.setdefault("logs", "No training phase wrote a log: there are no loss curves.")
    return logs


def curves(logs: Mapping[str, Sequence[TrainingLog]]) -> list[dict[str, Any]]:
    """For each training phase, a panel for each quantity that any run logged; the keys of ``logs`` are run names."""
    views = []
    for phase in dict.fromkeys(log.phase for run_logs in logs.values() for log in run_logs):
        runs = enumerate(logs.items())
        of_phase = [(i, name, log) for i, (name, run_logs) in runs for log in run_logs if log.phase == phase]
        panels = []
        for key, title in SERIES.items():
            present = [(i, name, *log.series[key]) for i, name, log in of_phase if key in log.series]
            if present:
                ends = "; ".join(f"{name} from {y[0]:.4g} to {y[-1]:.4g}" for _, name, _, y in present)
                series = [(i, x, y) for i, _, x, y in present]
                panels.append(training_curve(title, series, f"curve-{phase}-{key}", f"{title} in {phase}: {ends}."))
        split = all("ce" in log.series and "kl" in log.series for _, _, log in of_phase)
        sources = [f"{name}: {log.source}" if len(logs) > 1 else log.source for _, name, log in of_phase]
        views.append({"phase": phase, "panels": panels, "split": split, "sources": sources})
    return views


def _read_log(phase: str, folder: Path, run_folder: Path) -> TrainingLog | None:
    """The log in one folder, or None if no file there is readable."""
    checkpoints = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=_checkpoint_step)
    for path in (folder / "trainer_state.json", *checkpoints[-1:], folder / "trainer_log.jsonl"):
        try:
            entries = read_jsonl(path) if path.suffix == ".jsonl" else read_json(path).get("log_history", [])
        except (FileNotFoundError, NotADirectoryError, ValueError):
            continue  # absent, or torn by a crash: the next source may be complete
        if series := _series(entries):
            return TrainingLog(phase, path.relative_to(run_folder).as_posix(), series)
    return None


def _checkpoint_step(path: Path) -> int:
    number = path.parent.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _series(entries: list[dict[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """Series of the keys in :data:`SERIES`; the trainer's last entry (``train_loss``) has none of them."""
    values: dict[str, dict[float, float]] = {}
    for entry in entries:
        step = entry.get("step", entry.get("current_steps"))
        entry = {**entry, "learning_rate": entry.get("learning_rate", entry.get("lr"))}
        for key in SERIES:
            if isinstance(step, int | float) and isinstance(entry.get(key), int | float):
                values.setdefault(key, {})[step] = entry[key]  # a resumed run repeats steps: the last value counts
    return {key: (steps := sorted(values[key]), [values[key][s] for s in steps]) for key in SERIES if key in values}
