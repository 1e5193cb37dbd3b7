# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The data, weights, recipe keys and package versions behind a run's numbers."""

import json
import math
import platform
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..utils.boxes import TASKS, VQA, modality_label, sort_modalities
from ..utils.environment import package_versions
from ..utils.io import read_json
from . import figures
from .load import RunData


PACKAGES = (
    "llamafactory-clinkd", "llamafactory", "transformers", "torch", "datasets", "accelerate", "peft",
    "open_clip_torch", "sentence-transformers", "pycocoevalcap", "matplotlib", "numpy",
)  # fmt: skip
UNKNOWN = "not recorded"
UNITS = {
    "thousandths": "in thousandths of the image",
    "fractions": "in fractions of the image",
    "pixels": "in pixels of the image",
    "resized": "in pixels of the image as the model gets it, drawn accordingly",
}
_PROTOCOLS = {
    "present": "over the modalities that have rows",
    "released": "over all eight, absent ones as 0, as in the released code",
}
_FINGERPRINTS = {
    "model", "teacher", "adapters", "teacher_adapters", "data_files", "data_entries", "data_media", "evaluation_files",
    "previous",
}  # fmt: skip


def provenance(run: RunData) -> list[tuple[str, str]]:
    """(name, value) of the data and the weights behind a run's scores, :data:`UNKNOWN` where not recorded."""
    inputs = {name: phase["inputs"] for name, phase in run.phases.items()}
    models, teachers = ([keys[key] for keys in inputs.values() if keys.get(key)] for key in ("model", "teacher"))
    train = {name for phase, keys in inputs.items() if phase != "predict" for name in keys.get("data_files") or {}}
    test = inputs.get("predict", {}).get("data_files") or {}
    metrics = run.metrics or {}
    tools = [
        f"{label} {tool}"
        for task, key, label in (("RC", "parser", "parsed by"), ("MIA", "tokenizer", "tokenized by"))
        if (tool := (metrics.get("tasks", {}).get(task) or {}).get(key))
    ]
    return [
        ("Test data", f"{', '.join(sorted(test)) or UNKNOWN}; {len(run.predictions):,} answers read"),
        ("Boxes", UNITS[run.box_unit]),
        ("Training data", ", ".join(sorted(train)) or _named_only(run) or UNKNOWN),
        ("Current model", describe_model(run.folder) or "no model in the run's folder"),
        ("Base weights", describe_fingerprint(models[0]) if models else UNKNOWN),
        ("Teacher weights", describe_fingerprint(teachers[0]) if teachers else f"{UNKNOWN}, or no teacher"),
        ("Candidates scored by", _scorers(run) or UNKNOWN),
        ("Captions", "; ".join(tools) or UNKNOWN),
        ("Mean over modalities", _PROTOCOLS.get(metrics.get("protocol"), UNKNOWN)),
    ]


def describe_model(folder: Path) -> str | None:
    """The model saved in ``folder``, such as ``qwen2_vl, hidden size 128, 4 layers, 1.9 M parameters``; None without.

    It is described from its configuration and the headers of its weights.
    """
    adapter, config = folder / "adapter_config.json", folder / "config.json"
    size = _count_parameters(folder)
    counted = [] if size is None else [f"{_short_count(size)} parameters"]
    if adapter.is_file():
        settings = read_json(adapter)
        base = settings.get("base_model_name_or_path") or "an unnamed base"
        model = f"{settings.get('peft_type', 'adapter')} of rank {settings.get('r', '?')} on {base}"
        return ", ".join([model, *(f"{count} in the adapter" for count in counted)])
    if not config.is_file():
        return None
    settings = read_json(config)
    text = settings.get("text_config", settings)
    words = [str(settings.get("model_type", "unknown type"))]
    words += [f"hidden size {text['hidden_size']}"] if "hidden_size" in text else []
    words += [f"{text['num_hidden_layers']} layers"] if "num_hidden_layers" in text else []
    return ", ".join(words + counted)


def describe_fingerprint(model: Any) -> str:
    """A model as ``state.json`` records it: a hub name, or a local folder by its weight files.

    The latter is ``{"weights": [[name, bytes, sample], ...], "configs": [sha256, ...]}``; old states have no sample.
    """
    if isinstance(model, str):
        return model
    if not isinstance(model, dict) or not model.get("weights"):
        return "a local folder without weight files"
    total = sum(size for _, size, *_ in model["weights"])
    config = f", configuration {model['configs'][0][:8]}" if model.get("configs") else ""
    return f"a local folder with {total / 1e6:,.1f} MB of weights{config}"


def recipe_table(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Every recorded recipe key: ``{"key", "values": one per run, "differs"}``, sorted, differing keys first.

    If the phases of a run recorded different values, each is listed with its phase.
    """
    keys = {key for run in runs for phase in run.phases.values() for key in phase["inputs"]} - _FINGERPRINTS
    values = {key: [_recorded_value(run, key) for run in runs] for key in keys}
    table = [{"key": key, "values": values[key], "differs": len(set(values[key])) > 1} for key in keys]
    return sorted(table, key=lambda line: (not line["differs"], line["key"]))


def environment() -> dict[str, str]:
    """Python, the platform and the main packages on the machine that writes the report."""
    versions = package_versions(PACKAGES)
    return {"Python": versions.pop("python"), "platform": f"{platform.system()} {platform.machine()}", **versions}


def proportions(run: RunData) -> list[dict[str, Any]]:
    """Shares of modalities and tasks in the test answers and in the rows that the teacher labelled (Figure A1)."""
    views = []
    labelled = ("labelled", "Training rows that the teacher labelled", run.pseudo_labels)
    for svg_id, title, rows in (("test", "Test questions", run.predictions), labelled):
        counts = Counter((str(row.get("modality")), str(row.get("task"))) for row in rows if isinstance(row, dict))
        if not counts:
            continue
        modalities = sort_modalities(modality for modality, _ in counts)
        known, found = (*TASKS, VQA), {task for _, task in counts}
        tasks = [task for task in known if task in found] + sorted(found.difference(known))
        table = [(name, [counts[name, task] for task in tasks]) for name in modalities]
        by_modality = {modality_label(name): sum(row) for name, row in table}
        by_task = {task: sum(counts[name, task] for name in modalities) for task in tasks}
        view = {"title": title, "total": counts.total(), "tasks": tasks, "rows": table}
        view["modality_figure"] = figures.proportion_bars(by_modality, f"{svg_id}-modalities", f"{title} by modality")
        view["task_figure"] = figures.proportion_bars(by_task, f"{svg_id}-tasks", f"{title} by task")
        views.append(view)
    return views


def _named_only(run: RunData) -> str:
    """The recipe's ``dataset`` of a run without a training phase."""
    names = run.setting("dataset") or []
    text = names if isinstance(names, str) else ", ".join(map(str, names))
    return f"{text} in the recipe; this folder has no training phase" if text else ""


def _scorers(run: RunData) -> str:
    """The short names of the scorers, and the identity of the last one; its weights by the start of their hash."""
    identity = run.scorer or {}
    names = dict.fromkeys(row["scorer"] for row in run.predictions if row["scorer"])
    words = [", ".join(names), identity.get("kind"), identity.get("library")]
    if isinstance(identity.get("weights_sha256"), str):
        words.append(f"weights {identity['weights_sha256'][:16]}")
    return "; ".join(str(word) for word in words if word)


def _count_parameters(folder: Path) -> int | None:
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


def _recorded_value(run: RunData, key: str) -> str:
    texts = {name: _short(phase["inputs"][key]) for name, phase in run.phases.items() if key in phase["inputs"]}
    if len(set(texts.values())) <= 1:
        return next(iter(texts.values()), UNKNOWN)
    return "; ".join(f"{name}: {text}" for name, text in texts.items())


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else text[:157] + "..."
