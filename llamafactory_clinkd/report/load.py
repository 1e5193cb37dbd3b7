# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A run folder as data: what is there is read, what is not there is said."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..evaluate import read_rows
from ..utils.io import read_json, read_jsonl
from .training_logs import TrainingLog, read_training_logs


def describe_model(folder: Path) -> str | None:
    """A phrase about the model saved in ``folder``, from its configuration and the headers of its weights.

    Returns:
        For example ``qwen2_vl, hidden size 128, 4 layers, 1.9 M parameters``; None if there is no model.
    """
    adapter, config = folder / "adapter_config.json", folder / "config.json"
    size = _parameters(folder)
    counted = "" if size is None else f", {_short_count(size)} parameters"
    if adapter.is_file():
        settings = read_json(adapter)
        base = settings.get("base_model_name_or_path") or "an unnamed base"
        kind, rank = settings.get("peft_type", "adapter"), settings.get("r", "?")
        return f"{kind} of rank {rank} on {base}" + (f"{counted} in the adapter" if counted else "")
    if not config.is_file():
        return None
    settings = read_json(config)
    text = settings.get("text_config", settings)
    facts = [str(settings.get("model_type", "unknown type"))]
    if "hidden_size" in text:
        facts.append(f"hidden size {text['hidden_size']}")
    if "num_hidden_layers" in text:
        facts.append(f"{text['num_hidden_layers']} layers")
    return ", ".join(facts) + counted


def describe_fingerprint(found: Any) -> str:
    """A model as ``state.json`` recorded it: a hub name, or a local folder by its weight files.

    Args:
        found: A string, or ``{"weights": [[name, bytes, sample], ...], "configs": [sha256, ...]}``; the samples of the
            content are absent in states of older versions.
    """
    if isinstance(found, str):
        return found
    if not isinstance(found, dict) or not found.get("weights"):
        return "a local folder without weight files"
    total = sum(size for _, size, *_ in found["weights"])
    config = f", configuration {found['configs'][0][:8]}" if found.get("configs") else ""
    return f"a local folder with {total / 1e6:,.1f} MB of weights{config}"


def _parameters(folder: Path) -> int | None:
    """Number of stored parameters, from the safetensors headers; None without such files."""
    from safetensors import SafetensorError, safe_open

    total, files = 0, sorted(folder.glob("*.safetensors"))
    for path in files:
        try:
            with safe_open(path, framework="np") as f:
                total += sum(math.prod(f.get_slice(key).get_shape()) for key in f.keys())  # noqa: SIM118
        except SafetensorError:
            return None  # a torn file cannot be counted; the configuration still describes the model
    return total if files else None


def _short_count(count: int) -> str:
    for unit, name in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return str(count)


@dataclass
class CorrectionRound:
    """One round of Reflective Correction: the rows of ``round-N.jsonl`` and the counts of ``round-N.summary.json``."""

    number: int
    rows: list[dict[str, Any]]
    summary: dict[str, Any] | None


@dataclass
class RunData:
    """Everything the report knows of a run.

    Attributes:
        folder: The run's ``output_dir``.
        name: Short, unique among the runs of a report.
        phases: ``state.json``'s phases.
        metrics: ``metrics.json``, or None.
        predictions: Rows of the shared vocabulary, with ``scorer`` and ``error`` where selection wrote them.
        pseudo_labels: Rows of ``pseudo_labels.jsonl``.
        rounds: The correction rounds in order.
        logs: A log for each training phase that left one.
        scorer: The record of what ranked the candidates, or None.
        attention: Attention maps, PNG files.
        model: A sentence about the model in the folder, or None.
        missing: For each part that is absent or unreadable, a sentence that says so.
    """

    folder: Path
    name: str
    phases: dict[str, dict[str, Any]] = field(default_factory=dict)
    metrics: dict[str, Any] | None = None
    predictions: list[dict[str, Any]] = field(default_factory=list)
    pseudo_labels: list[dict[str, Any]] = field(default_factory=list)
    rounds: list[CorrectionRound] = field(default_factory=list)
    logs: list[TrainingLog] = field(default_factory=list)
    attention: list[Path] = field(default_factory=list)
    scorer: dict[str, Any] | None = None
    model: str | None = None
    missing: dict[str, str] = field(default_factory=dict)

    def setting(self, key: str) -> Any:
        """The value of a recipe key in the last phase that recorded one; None where none did."""
        values = [phase["inputs"][key] for phase in self.phases.values() if phase["inputs"].get(key) is not None]
        return values[-1] if values else None


def load_runs(run_dirs: list[Path]) -> list[RunData]:
    """Reads run folders.

    Raises:
        ValueError: If no folder is given.
        FileNotFoundError: If one of them is not the ``output_dir`` of a run.
    """
    if not run_dirs:
        raise ValueError("No run was given: name at least one `output_dir` of a ClinKD recipe.")
    folders = [Path(folder).resolve() for folder in run_dirs]
    return [_load(folder, name) for folder, name in zip(folders, _short_names(folders), strict=True)]


def _short_names(folders: list[Path]) -> list[str]:
    """The shortest tail of each path that tells all of them apart; the same folder twice gets a number."""
    for length in range(1, 4):
        names = ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    return [f"{folder.name} ({number})" for number, folder in enumerate(folders, start=1)]


def _load(folder: Path, name: str) -> RunData:
    home = folder / "clinkd"
    if not home.is_dir():
        raise FileNotFoundError(
            f"{folder} has no folder `clinkd`: it is not the `output_dir` of a ClinKD run. "
            "Give the folder that the recipe names as `output_dir`."
        )
    run = RunData(folder, name)
    state = _read(run, home / "state.json", read_json, "phases, times, recipe, data and weights are unknown", {})
    run.phases = _phases(run, state)
    run.metrics = _metrics(run, _read(run, home / "metrics.json", read_json, "there are no scores", None))
    rows = _read(run, home / "predictions.jsonl", read_jsonl, "there are no example answers", [])
    run.predictions = _normalised(rows)
    run.scorer = _scorer(run, home / "predictions.scorer.json")
    run.pseudo_labels = _read(run, home / "pseudo_labels.jsonl", read_jsonl, "the teacher's answers are not shown", [])
    run.rounds = _rounds(run, home / "corrections")
    run.logs = read_training_logs(folder, run.phases, run.missing)
    run.attention = sorted((home / "attention").glob("*.png"))
    if not run.attention:
        run.missing["attention"] = (
            "clinkd/attention has no PNG file: no attention maps (`clinkd attention` draws them)."
        )
    run.model = describe_model(folder)
    return run


def _read(run: RunData, path: Path, reader: Callable[[Path], Any], consequence: str, default: Any) -> Any:
    """What ``reader`` finds in a file; if it is absent or broken, ``default`` and a sentence in ``run.missing``."""
    place = path.relative_to(run.folder).as_posix()
    key = path.name.partition(".")[0]
    if not path.is_file():
        run.missing[key] = f"{place} does not exist: {consequence}."
        return default
    try:
        found = reader(path)
    except (ValueError, OSError) as error:
        run.missing[key] = f"{place} cannot be read ({error}): {consequence}."
        return default
    return found


def _phases(run: RunData, state: Any) -> dict[str, dict[str, Any]]:
    """The phases of ``state.json`` that are records with inputs."""
    phases = state.get("phases") if isinstance(state, dict) else None
    if not isinstance(phases, dict):
        run.missing.setdefault(
            "state", "clinkd/state.json has no `phases`: times, recipe, data and weights are unknown."
        )
        return {}
    return {
        name: {**phase, "inputs": phase.get("inputs") or {}}
        for name, phase in phases.items()
        if isinstance(phase, dict)
    }


def _metrics(run: RunData, metrics: Any) -> dict[str, Any] | None:
    if metrics is not None and not (isinstance(metrics, dict) and isinstance(metrics.get("tasks"), dict)):
        run.missing["metrics"] = "clinkd/metrics.json has no `tasks`: there are no scores."
        return None
    return metrics


def _scorer(run: RunData, path: Path) -> dict[str, Any] | None:
    """The identity that selection left beside the predictions; those of other programs have none."""
    if not path.is_file():
        return None
    record = _read(run, path, read_json, "the scorer is known by its short name only", None)
    identity = record.get("identity") if isinstance(record, dict) else None
    return identity if isinstance(identity, dict) else None


def _normalised(rows: list[Any]) -> list[dict[str, Any]]:
    """The rows that the evaluation accepts, as it reads them, with what selection wrote about each."""
    rows = [row if isinstance(row, dict) else {} for row in rows]
    read = read_rows([{**row, "id": number} for number, row in enumerate(rows)]).rows
    extra = ("id", "scorer", "error")
    return [{**row, **{key: rows[row["id"]].get(key) for key in extra}} for row in read]


def _rounds(run: RunData, folder: Path) -> list[CorrectionRound]:
    """The rounds whose record is there; a round without its summary was cut off and is marked by its absence."""
    paths = {
        int(path.stem.partition("-")[2]): path for path in folder.glob("round-*.jsonl") if path.stem[6:].isdigit()
    }
    if not paths:
        run.missing["corrections"] = (
            "clinkd/corrections has no round: nothing was corrected, or the phase did not run."
        )
    rounds = []
    for number, path in sorted(paths.items()):
        rows = _read(run, path, read_jsonl, "its rows are not shown", [])
        summary = _read(run, path.with_suffix(".summary.json"), read_json, "the round was not finished", None)
        rounds.append(CorrectionRound(number, rows, summary))
    return rounds
