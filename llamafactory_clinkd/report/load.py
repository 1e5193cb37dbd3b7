# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Reads run folders; a file that is absent or unreadable becomes a sentence in :attr:`RunData.missing`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ..data.box_convention import BOXES_KEY, unit_shown
from ..data.coordinates import Evidence, Unit
from ..evaluate import read_rows
from ..utils.box_forms import PLAIN, find_boxes
from ..utils.io import read_json, read_jsonl
from .training_logs import TrainingLog, read_training_logs


class CorrectionRound(NamedTuple):
    """The rows of ``round-N.jsonl`` and the counts of ``round-N.summary.json``, None if the round is unfinished."""

    number: int
    rows: list[dict[str, Any]]
    summary: dict[str, Any] | None


@dataclass
class RunData:
    """Everything the report reads from a run's ``output_dir``, :attr:`folder`."""

    folder: Path
    name: str  # unique among the runs of a report
    phases: dict[str, dict[str, Any]] = field(default_factory=dict)  # of state.json, each with its `inputs`
    metrics: dict[str, Any] | None = None  # metrics.json
    predictions: list[dict[str, Any]] = field(default_factory=list)  # shared vocabulary, with `scorer` and `error`
    pseudo_labels: list[dict[str, Any]] = field(default_factory=list)
    rounds: list[CorrectionRound] = field(default_factory=list)
    logs: list[TrainingLog] = field(default_factory=list)
    scorer: dict[str, Any] | None = None  # identity of the model that ranked the candidates
    attention: list[Path] = field(default_factory=list)  # PNG files
    missing: dict[str, str] = field(default_factory=dict)  # a sentence for each absent or unreadable file
    image_dir: Path | None = None  # where images are looked for first

    def setting(self, key: str) -> Any:
        """The value of a recipe key in the last phase that recorded it, or None."""
        values = [phase["inputs"][key] for phase in self.phases.values() if phase["inputs"].get(key) is not None]
        return values[-1] if values else None

    @cached_property
    def box_unit(self) -> Unit:
        """The unit of the boxes in the predictions: recorded with the test data, else what the ground truth shows."""
        entries = self.phases.get("predict", {}).get("inputs", {}).get("data_entries") or {}
        recorded = {entry.get(BOXES_KEY) for entry in entries.values() if isinstance(entry, dict)} - {None}
        if recorded:
            return min(recorded)
        evidence = Evidence()
        for row in self.predictions:
            for box in find_boxes(f"{row['question']} {row['annotation']}".translate(PLAIN)):
                evidence.add(box.numbers, None)
        return unit_shown(evidence, "resized")

    def read(self, path: Path, reader: Callable[[Path], Any], consequence: str, default: Any = None) -> Any:
        """The file's content; if it is absent or broken, ``default``, with the reason in :attr:`missing`."""
        name, key = path.relative_to(self.folder).as_posix(), path.name.partition(".")[0]
        if not path.is_file():
            self.missing[key] = f"{name} does not exist: {consequence}."
            return default
        try:
            return reader(path)
        except (ValueError, OSError) as error:
            self.missing[key] = f"{name} cannot be read ({error}): {consequence}."
            return default


def load_runs(
    run_dirs: list[Path], image_dir: Path | None = None, names: Sequence[str] | None = None
) -> list[RunData]:
    """Reads run folders, by default under their own names.

    Raises:
        ValueError: If there is no folder, or not one name for each.
        FileNotFoundError: If a folder is not the ``output_dir`` of a run.
    """
    if not run_dirs:
        raise ValueError("No run was given: expected at least one `output_dir` of a ClinKD recipe.")
    if image_dir is not None and not image_dir.is_dir():
        raise FileNotFoundError(f"{image_dir} is no folder: expected that of the images.")
    folders = [Path(folder).resolve() for folder in run_dirs]
    names = _short_names(folders) if names is None else names
    return [_load(folder, name, image_dir) for folder, name in zip(folders, names, strict=True)]


def _short_names(folders: list[Path]) -> list[str]:
    """The shortest path endings that differ; numbered names if a folder occurs twice."""
    for length in range(1, 4):
        names = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [f"{folder.name} ({number})" for number, folder in enumerate(folders, start=1)]


def _load(folder: Path, name: str, image_dir: Path | None) -> RunData:
    home = folder / "clinkd"
    if not home.is_dir():
        raise FileNotFoundError(
            f"{folder} has no folder `clinkd`: it is not the `output_dir` of a ClinKD run. "
            "Pass the folder that the recipe names as `output_dir`."
        )
    run = RunData(folder, name, image_dir=image_dir)
    run.phases = _phases(run, home / "state.json")
    run.metrics = run.read(home / "metrics.json", read_json, "there are no scores")
    if run.metrics is not None and not (isinstance(run.metrics, dict) and isinstance(run.metrics.get("tasks"), dict)):
        run.missing["metrics"] = "clinkd/metrics.json has no `tasks`: there are no scores."
        run.metrics = None
    rows = run.read(home / "predictions.jsonl", read_jsonl, "there are no example answers", [])
    run.predictions = _predictions(rows)
    if (path := home / "predictions.scorer.json").is_file():
        record = run.read(path, read_json, "only the short name of the scorer is known")
        identity = record.get("identity") if isinstance(record, dict) else None
        run.scorer = identity if isinstance(identity, dict) else None
    run.pseudo_labels = run.read(home / "pseudo_labels.jsonl", read_jsonl, "the teacher's answers are not shown", [])
    run.rounds = _rounds(run, home / "corrections")
    run.logs = read_training_logs(folder, run.phases, run.missing)
    run.attention = sorted((home / "attention").glob("*.png"))
    if not run.attention:
        reason = "clinkd/attention has no PNG file: no attention maps (`clinkd attention` draws them)."
        run.missing["attention"] = reason
    return run


def _phases(run: RunData, path: Path) -> dict[str, dict[str, Any]]:
    """The phases of ``state.json`` that are records, each with its inputs."""
    state = run.read(path, read_json, "phases, times, recipe, data and weights are unknown")
    phases = state.get("phases") if isinstance(state, dict) else None
    if not isinstance(phases, dict):
        reason = "clinkd/state.json has no `phases`: times, recipe, data and weights are unknown."
        run.missing.setdefault("state", reason)
        return {}
    records = {name: phase for name, phase in phases.items() if isinstance(phase, dict)}
    return {
        name: {**phase, "inputs": (phase.get("inputs") or {}) | (phase.get("step_rows") or {})}
        for name, phase in records.items()
    }


def _predictions(rows: list[Any]) -> list[dict[str, Any]]:
    """The rows that the evaluation accepts, as it reads them, with what selection wrote about each."""
    rows = [row if isinstance(row, dict) else {} for row in rows]
    accepted = read_rows({**row, "id": index} for index, row in enumerate(rows)).rows
    return [{**row, **{key: rows[row["id"]].get(key) for key in ("id", "scorer", "error")}} for row in accepted]


def _rounds(run: RunData, folder: Path) -> list[CorrectionRound]:
    paths = {int(path.stem[6:]): path for path in folder.glob("round-*.jsonl") if path.stem[6:].isdigit()}
    if not paths:
        run.missing["corrections"] = "clinkd/corrections has no round: nothing was corrected or the phase did not run."
    return [
        CorrectionRound(
            number,
            run.read(path, read_jsonl, "its rows are not shown", []),
            run.read(path.with_suffix(".summary.json"), read_json, "the round was not finished"),
        )
        for number, path in sorted(paths.items())
    ]
