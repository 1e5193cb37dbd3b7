# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Progress of a running ClinKD recipe, read from the files in its ``output_dir``."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from ..arguments import PHASES, TRAINING_PHASES
from ..utils.io import read_json, read_jsonl
from ..utils.value_checks import split_list


class Progress(NamedTuple):
    """Progress of a run."""

    phases: list[str]
    finished: int  # number of finished phases
    fraction: float  # finished part of the current phase, 0 to 1; 0 if the phase does not report it
    steps: tuple[int, int, str, str] | None  # (current, total, elapsed, remaining) of a running training phase
    answers: int | None  # generated in the current phase
    corrections: list[tuple[int, int, int]]  # (round, answers judged, answers corrected) of each round so far

    @property
    def phase(self) -> str | None:
        """The current phase, ``None`` if all are finished."""
        return self.phases[self.finished] if self.finished < len(self.phases) else None

    @property
    def percentage(self) -> float:
        """Over all phases, with equal weights."""
        return round(100 * (self.finished + self.fraction) / len(self.phases), 2)


def read_progress(output_dir: Path) -> Progress | None:
    """The progress of the run that LLaMA Board started in a folder, ``None`` unless it is a ClinKD run."""
    recipe_path = output_dir / "training_args.yaml"  # LLaMA Board's copy of the recipe
    recipe = (yaml.safe_load(recipe_path.read_text(encoding="utf-8")) or {}) if recipe_path.is_file() else {}
    if not recipe.get("use_clinkd"):
        return None
    return progress_of(output_dir, split_list(recipe.get("clinkd_phases", PHASES)))


def progress_of(output_dir: Path, phases: list[str]) -> Progress:
    """The progress of a run with these phases in a folder, which may still be empty."""
    folder = output_dir / "clinkd"
    records = read_json(folder / "state.json")["phases"] if (folder / "state.json").is_file() else {}
    finished = 0
    while finished < len(phases) and records.get(phases[finished], {}).get("status") == "finished":
        finished += 1

    phase = phases[finished] if finished < len(phases) else None
    steps, fraction, answers = None, 0.0, None
    if phase in records and phase in TRAINING_PHASES:
        if log := read_trainer_log(output_dir, phases, phase):
            last = log[-1]
            steps = (last["current_steps"], last["total_steps"], last["elapsed_time"], last["remaining_time"])
            fraction = min(last["percentage"] / 100, 1.0)
    elif phase in records and phase in ("pseudo_label", "predict"):
        answers = sum(_count_lines(path) for path in (folder / phase).glob("answers.jsonl*"))
    return Progress(phases, finished, fraction, steps, answers, _count_corrections(folder / "corrections"))


def read_trainer_log(output_dir: Path, phases: list[str], phase: str) -> list[dict[str, Any]]:
    """LLaMA-Factory's ``trainer_log.jsonl`` of a training phase: lines with a training step, of its last attempt.

    The last training phase writes into ``output_dir`` itself, where prediction logs, too.
    """
    is_last = phase == [name for name in phases if name in TRAINING_PHASES][-1]
    folder = output_dir if is_last else output_dir / "clinkd" / phase
    return [line for line in read_jsonl(folder / "trainer_log.jsonl") if "epoch" in line]


def _count_corrections(folder: Path) -> list[tuple[int, int, int]]:
    rounds = []
    for path in folder.glob("round-*.jsonl"):
        number = path.name.removeprefix("round-").removesuffix(".jsonl")
        if number.isdecimal():  # `round-1.outputs.jsonl` holds answers that are not judged yet
            rounds.append((int(number), _count_lines(path), _count_lines(path, b'"status": "corrected"')))
    return sorted(rounds)


_counted: dict[tuple[Path, bytes], tuple[int, int, int]] = {}  # -> inode, bytes counted, lines


def _count_lines(path: Path, text: bytes = b"") -> int:
    """Lines of a growing file that contain ``text``; reads what is new, for the page refreshes every two seconds."""
    with open(path, "rb") as f:
        status = os.fstat(f.fileno())
        inode, read, count = _counted.get((path, text), (0, 0, 0))
        if inode != status.st_ino or status.st_size < read:
            read = count = 0
        f.seek(read)
        for line in f:
            if line.endswith(b"\n"):
                read, count = read + len(line), count + (text in line)
    _counted[path, text] = status.st_ino, read, count
    return count


LOSS_TERMS = ("ce", "kl", "vkd", "teacher_agreement", "teacher_entropy", "aux_loss")


def collect_loss_terms(
    stock: Callable[..., None], self: Any, args: Any, state: Any, control: Any, **kwargs: Any
) -> None:
    """Wraps ``LogCallback.on_log``: stores the loss terms by step before LLaMA-Factory writes its line."""
    entry = state.log_history[-1] if state.log_history else {}
    loss_terms = {name: entry[name] for name in LOSS_TERMS if name in entry}
    if loss_terms:
        self.__dict__.setdefault("_clinkd_loss_terms", {})[state.global_step] = loss_terms
    stock(self, args, state, control, **kwargs)


def write_loss_terms(stock: Callable[..., None], self: Any, output_dir: str, logs: dict[str, Any]) -> None:
    """Wraps ``LogCallback._write_log``, which runs later in another thread: adds the stored loss terms."""
    loss_terms = self.__dict__.get("_clinkd_loss_terms", {})
    stock(self, output_dir, logs | loss_terms.pop(logs.get("current_steps"), {}))
