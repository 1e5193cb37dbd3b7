# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What a run under way has done so far, read from the files that it writes."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ..arguments import PHASES, TRAINING_PHASES
from ..utils.io import read_json, read_jsonl
from ..utils.value_checks import split_list


RECIPE_FILE = "training_args.yaml"

"""LLaMA Board writes the recipe of the run that it starts here."""


class Progress(NamedTuple):
    """How far a run is.

    Attributes:
        phases: The chosen phases.
        finished: How many of them are finished.
        fraction: Part of the present phase that is done, 0 to 1, 0 where the phase does not tell.
        steps: ``(steps done, steps in all, elapsed, remaining)`` of a training phase under way.
        answers: Answers generated in the present phase.
        corrections: ``(round, answers judged, answers corrected)`` of each round so far.
    """

    phases: list[str]
    finished: int
    fraction: float
    steps: tuple[int, int, str, str] | None
    answers: int | None
    corrections: list[tuple[int, int, int]]

    @property
    def phase(self) -> str | None:
        """The present phase, ``None`` when all are finished."""
        return self.phases[self.finished] if self.finished < len(self.phases) else None

    @property
    def percentage(self) -> float:
        """Over all phases, each of them counted alike."""
        return round(100 * (self.finished + self.fraction) / len(self.phases), 2)


def read_progress(output_dir: Path) -> Progress | None:
    """The progress of the run that LLaMA Board started in a folder, ``None`` unless it is one of ClinKD's."""
    recipe = _started_recipe(output_dir)
    if not recipe.get("use_clinkd"):
        return None
    phases = split_list(recipe.get("clinkd_phases", PHASES))
    state_path = output_dir / "clinkd" / "state.json"
    records = read_json(state_path)["phases"] if state_path.is_file() else {}
    finished = 0
    while finished < len(phases) and records.get(phases[finished], {}).get("status") == "finished":
        finished += 1

    phase = phases[finished] if finished < len(phases) else None
    steps, fraction, answers = None, 0.0, None
    if phase in records and phase in TRAINING_PHASES:
        log = training_log(output_dir, phases, phase)
        if log:
            last = log[-1]
            steps = (last["current_steps"], last["total_steps"], last["elapsed_time"], last["remaining_time"])
            fraction = min(last["percentage"] / 100, 1.0)
    elif phase in records and phase in ("pseudo_label", "predict"):
        answers = _lines(sorted((output_dir / "clinkd" / phase).glob("answers.jsonl*")))
    return Progress(phases, finished, fraction, steps, answers, _corrections(output_dir / "clinkd" / "corrections"))


def training_log(output_dir: Path, phases: list[str], phase: str) -> list[dict[str, Any]]:
    """LLaMA-Factory's ``trainer_log.jsonl`` of a training phase: lines with a training step, of its last attempt.

    The last training phase writes into ``output_dir`` itself, where prediction logs too.
    """
    trains = [name for name in phases if name in TRAINING_PHASES]
    folder = output_dir if trains[-1] == phase else output_dir / "clinkd" / phase
    return [line for line in read_jsonl(folder / "trainer_log.jsonl") if "epoch" in line]


def _started_recipe(output_dir: Path) -> dict[str, Any]:
    import yaml

    path = output_dir / RECIPE_FILE
    return (yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def _lines(paths: list[Path]) -> int:
    return sum(path.read_bytes().count(b"\n") for path in paths)


def _corrections(folder: Path) -> list[tuple[int, int, int]]:
    rounds = []
    for path in folder.glob("round-*.jsonl"):
        number = path.name.removeprefix("round-").removesuffix(".jsonl")
        if number.isdecimal():  # `round-1.outputs.jsonl` holds answers that are not judged yet
            content = path.read_bytes()  # counted, not parsed: the page asks every two seconds
            rounds.append((int(number), content.count(b"\n"), content.count(b'"status": "corrected"')))
    return sorted(rounds)


PARTS = ("ce", "kl", "vkd", "teacher_agreement", "teacher_entropy", "aux_loss")


def noting_parts(stock: Callable[..., None]) -> Callable[..., None]:
    """``LogCallback.on_log`` that notes the parts of the loss by step before stock writes its line."""

    @functools.wraps(stock)
    def on_log(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        entry = state.log_history[-1] if state.log_history else {}
        parts = {name: entry[name] for name in PARTS if name in entry}
        if parts:
            self.__dict__.setdefault("_clinkd_parts", {})[state.global_step] = parts
        return stock(self, args, state, control, **kwargs)

    return on_log


def writing_parts(stock: Callable[..., None]) -> Callable[..., None]:
    """``LogCallback._write_log``, which runs later in a thread of its own, that adds the noted parts."""

    @functools.wraps(stock)
    def _write_log(self: Any, output_dir: str, logs: dict[str, Any]) -> None:
        noted = self.__dict__.get("_clinkd_parts", {})
        return stock(self, output_dir, logs | noted.pop(logs.get("current_steps"), {}))

    return _write_log
