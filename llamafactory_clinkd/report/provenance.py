# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""On what a run's numbers were had: data, weights, recipe keys, and the versions here."""

import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from .load import RunData, describe_fingerprint


PACKAGES = (
    "llamafactory-clinkd", "llamafactory", "transformers", "torch", "datasets", "accelerate", "peft",
    "open_clip_torch", "sentence-transformers", "pycocoevalcap", "matplotlib", "numpy",
)  # fmt: skip
_PROTOCOLS = {
    "present": "over the modalities that have rows",
    "released": "over all eight as in the released code, absent ones count 0",
}
_DESCRIBED = ("model", "teacher", "adapters", "data_files", "previous")


def provenance(run: RunData) -> list[tuple[str, str]]:
    """(what, found) about the data and the weights behind a run's scores; what is not recorded is said."""
    unknown = "not recorded"
    models = [phase["inputs"]["model"] for phase in run.phases.values() if phase["inputs"].get("model")]
    teachers = [phase["inputs"]["teacher"] for phase in run.phases.values() if phase["inputs"].get("teacher")]
    trained = {name: set(phase["inputs"].get("data_files") or {}) for name, phase in run.phases.items()}
    train = set().union(*(names for phase, names in trained.items() if phase != "predict"))
    test = trained.get("predict", set())
    scorers = dict.fromkeys(row["scorer"] for row in run.predictions if row["scorer"])
    facts = [
        ("Test data", f"{', '.join(sorted(test)) or unknown}; {len(run.predictions):,} answers read"),
        ("Training data", ", ".join(sorted(train)) or unknown),
        ("Model now", run.model or "no model in the run's folder"),
        ("Base weights", describe_fingerprint(models[0]) if models else unknown),
        ("Teacher weights", describe_fingerprint(teachers[0]) if teachers else f"{unknown}, or no teacher"),
        ("Candidates scored by", _scorers(list(scorers), run.scorer) or unknown),
    ]
    tasks = (run.metrics or {}).get("tasks", {})
    tools = [
        f"{what} {found}"
        for task, key, what in (("RC", "parser", "parsed by"), ("MIA", "tokenizer", "split by"))
        if (found := (tasks.get(task) or {}).get(key))
    ]
    protocol = (run.metrics or {}).get("protocol")
    return [
        *facts,
        ("Captions", "; ".join(tools) or unknown),
        ("Mean over modalities", _PROTOCOLS.get(protocol, unknown)),
    ]


def recipe_table(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Every recorded recipe key: ``{"key", "values": one a run, "differs"}``, sorted; differing keys first.

    Where the phases of a run had different values, all are given with their phase.
    """
    keys = {key for run in runs for phase in run.phases.values() for key in phase["inputs"]}
    table = []
    for key in sorted(keys - set(_DESCRIBED)):
        values = [_value_of(run, key) for run in runs]
        table.append({"key": key, "values": values, "differs": len(set(values)) > 1})
    return sorted(table, key=lambda line: (not line["differs"], line["key"]))


def environment() -> list[tuple[str, str]]:
    """(name, version) of Python, the platform and the packages that matter, as they are where the report is made."""
    found = [("Python", platform.python_version()), ("platform", f"{platform.system()} {platform.machine()}")]
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            found.append((package, "not installed"))
    return found


def _scorers(names: Sequence[str], identity: dict[str, Any] | None) -> str:
    """The scorers' short names, with what is recorded of the last one; the weights' hash by its first quarter."""
    found = identity or {}
    parts = [", ".join(names), found.get("kind"), found.get("library")]
    if isinstance(found.get("weights_sha256"), str):
        parts.append(f"weights {found['weights_sha256'][:16]}")
    return "; ".join(str(part) for part in parts if part)


def _value_of(run: RunData, key: str) -> str:
    by_phase = {name: phase["inputs"][key] for name, phase in run.phases.items() if key in phase["inputs"]}
    texts = {name: _short(value) for name, value in by_phase.items()}
    if len(set(texts.values())) <= 1:
        return next(iter(texts.values()), "not recorded")
    return "; ".join(f"{name}: {text}" for name, text in texts.items())


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "..."
