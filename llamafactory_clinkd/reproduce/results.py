# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Results of finished runs: one small JSON file each, with the scores, the recipe and its hash; no models."""

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..utils.boxes import TASKS
from ..utils.environment import package_versions
from ..utils.io import read_json, write_json
from .row_recipes import Plan


FORMAT = 1
PACKAGES = ("llamafactory-clinkd", "llamafactory", "transformers", "torch", "numpy", "open_clip_torch")


def results_folder(directory: Path, scale: str) -> Path:
    """The folder of a scale's results."""
    return directory / scale / "results"


def find_result(plan: Plan, folders: Iterable[Path]) -> dict[str, Any] | None:
    """The result of exactly this run (same recipe hash and format) in the first folder that has it, or None."""
    for folder in folders:
        path = folder / f"{plan.name}.json"
        if path.is_file():
            result = read_json(path)
            if result.get("format") == FORMAT and result["hash"] == plan.hash:
                return result
    return None


def write_result(
    plan: Plan, folder: Path, metrics: dict[str, Any], *, phases: dict[str, float], inputs: dict[str, str]
) -> dict[str, Any]:
    """Records a finished run, atomically."""
    result = {
        "format": FORMAT,
        "row": plan.row.name,
        "seed": plan.seed if plan.row.seeded else None,
        "scale": plan.scale,
        "hash": plan.hash,
        "metrics": {key: value for key, value in metrics.items() if key != "problems"},
        "seconds": round(sum(phases.values()), 1),
        "phases": {name: round(seconds, 1) for name, seconds in phases.items()},
        "inputs": inputs,
        "versions": package_versions(PACKAGES),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "recipe": plan.keys,
    }
    write_json(folder / f"{plan.name}.json", result)
    return result


def score(result: dict[str, Any], task: str) -> float | None:
    """A task's score in percent, or that of ``Average``, which needs all four tasks; None without a score."""
    return _percent(_entry(result, task)[0])


def score_interval(result: dict[str, Any], task: str) -> tuple[float, float] | None:
    """The confidence interval of :func:`score`, in percent."""
    found = _entry(result, task)[1]
    return None if found is None else (100 * found[0], 100 * found[1])


def modality_score(result: dict[str, Any], task: str, modality: str) -> float | None:
    """A task's score in one modality; of ``Average``, the mean over the tasks that have this modality."""
    tasks = result["metrics"]["tasks"]
    names = list(tasks) if task == "Average" else [task] if task in tasks else []
    found = [tasks[name]["modalities"].get(modality, {}).get("value") for name in names]
    values = [value for value in found if value is not None]
    return _percent(sum(values) / len(values)) if values else None


def _entry(result: dict[str, Any], task: str) -> tuple[float | None, Any]:
    metrics = result["metrics"]
    if task == "Average":
        whole = set(metrics["average_of"]) == set(TASKS)
        return (metrics["average"], metrics["ci"]) if whole else (None, None)
    entry = metrics["tasks"].get(task, {})
    return entry.get("macro"), entry.get("ci")


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value
