# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Checks of the names and files in a recipe that a later phase would open; they read no rows and load no model."""

import os
from pathlib import Path
from typing import Any

from ..utils.io import read_json
from ..utils.models import missing_shards
from ..utils.value_checks import bad_value, did_you_mean, split_list
from .recipe import teacher_place


DATA_INFO = "dataset_info.json"
ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
WHOLE_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # or several with an index; the first is read


def check_files(arguments: Any) -> None:
    """Checks data sets, template, folders, models, DeepSpeed file, similarity model and earlier predictions.

    Raises:
        ValueError: If a name is not among those that exist; the message lists them.
        FileNotFoundError: If a file or folder does not exist.
    """
    data, training, model, finetuning = arguments.data, arguments.training, arguments.model, arguments.finetuning
    phases, teacher = finetuning.clinkd_phases, teacher_place(model, finetuning)
    check_datasets(data)
    check_template(data.template)
    if isinstance(data.media_dir, str) and data.media_dir != data.dataset_dir and not Path(data.media_dir).is_dir():
        raise FileNotFoundError(f"`media_dir: {data.media_dir}` is not a folder. Correct it, or remove the key.")
    check_model_path("model_name_or_path", model.model_name_or_path)
    if teacher is not None and finetuning.ref_model:
        check_model_path("ref_model", finetuning.ref_model)
    for key, owner in (("adapter_name_or_path", model), ("ref_model_adapters", teacher)):
        for name in split_list(getattr(owner, "adapter_name_or_path", None) or []):
            check_model_path(key, name, model.adapter_folder)
    config = training.deepspeed
    if isinstance(config, str) and not config.lstrip().startswith("{") and not Path(config).is_file():
        raise FileNotFoundError(f"`deepspeed: {config}` is not a file. Start in the folder that it is relative to.")
    similarity = finetuning.correction_similarity_model if "correct" in phases else None
    if similarity and _looks_like_path(similarity) and not Path(similarity).expanduser().exists():
        raise FileNotFoundError(f"`correction_similarity_model: {similarity}` does not exist. Correct the path.")
    predictions = Path(training.output_dir, "clinkd", "predictions.jsonl")
    kept = predictions.is_file() and not getattr(training, "overwrite_output_dir", False)
    if "evaluate" in phases and "predict" not in phases and not kept:
        raise FileNotFoundError(
            f"`clinkd_phases: {','.join(phases)}` evaluates {predictions}, which does not exist or is overwritten. "
            "Add predict before evaluate."
        )


def check_datasets(data: Any) -> None:
    """Checks that every data set is in ``dataset_info.json``, and that its local file exists and has a known type."""
    from llamafactory.extras.constants import FILEEXT2TYPE

    info, where = data.dataset_dir, "`dataset_dir`"
    if isinstance(info, str):
        if info == "ONLINE" or info.startswith("REMOTE:"):
            return
        where = Path(info, DATA_INFO)
        if not where.is_file():
            raise FileNotFoundError(f"`dataset_dir: {info}` has no {DATA_INFO}. Name the folder that has it.")
        info = read_json(where, unique=True)
    for key in ("dataset", "eval_dataset"):
        for name in split_list(getattr(data, key) or []):
            if name not in info:
                names = ", ".join(sorted(info)) or "no data set"
                expected, hint = f"a data set of {where}, which has {names}", did_you_mean(name, info)
                raise bad_value(key, name, expected, "correct the name", hint)
            if isinstance(data.dataset_dir, str) and not any(each in info[name] for each in ELSEWHERE):
                _check_data_file(name, info[name], Path(data.dataset_dir), where, list(FILEEXT2TYPE))


def _check_data_file(name: str, entry: dict[str, Any], folder: Path, where: Any, suffixes: list[str]) -> None:
    if "file_name" not in entry:
        raise ValueError(f"Data set `{name}` has no `file_name` in {where}, found {sorted(entry)}. Add it.")
    path = folder / entry["file_name"]
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    if not path.exists() or not files:
        raise FileNotFoundError(f"{path} of data set `{name}` {'is empty' if path.exists() else 'does not exist'}.")
    for file in files:
        if file.suffix[1:] not in suffixes:
            raise ValueError(f"{file} of data set `{name}` is not of a type that is read: {', '.join(suffixes)}.")
        if file.is_file() and file.stat().st_size == 0:
            raise ValueError(f"{file} of data set `{name}` is empty. Write it again.")


def check_template(name: str | None) -> None:
    """Raises ValueError unless ``template`` is one of LLaMA-Factory's; None is read from the tokenizer by stock."""
    from llamafactory.data.template import TEMPLATES

    if name is not None and name not in TEMPLATES:
        expected, hint = f"one of {', '.join(sorted(TEMPLATES))}", did_you_mean(name, TEMPLATES)
        raise bad_value("template", name, expected, "choose the model's", hint)


def check_best_model(training: Any, finetuning: Any) -> None:
    """Refuses a ``metric_for_best_model`` that no evaluation computes, and early stopping without evaluations."""
    evaluates = training.eval_strategy != "no"
    exist = ["loss", *(["accuracy"] if finetuning.compute_accuracy else [])]
    name = training.metric_for_best_model
    if evaluates and name is not None and name.removeprefix("eval_") not in exist:
        more = "" if finetuning.compute_accuracy else "; `compute_accuracy: true` adds accuracy"
        allowed = f"a metric of the evaluations: {', '.join(exist)}{more}"
        raise bad_value("metric_for_best_model", name, allowed, f"write {exist[0]}")
    if finetuning.early_stopping_steps is not None and not (evaluates and name is not None):
        fix = "set `load_best_model_at_end: true` and an `eval_strategy`"
        stopping = finetuning.early_stopping_steps
        raise bad_value("early_stopping_steps", stopping, "evaluations whose best model is kept", fix)


def check_model_path(key: str, name_or_path: str, subfolder: str | None = None) -> None:
    """Raises ``FileNotFoundError`` if a value that looks like a path is not the whole folder of a model or adapter."""
    folder, named = Path(name_or_path, subfolder or ""), f"`{key}: {name_or_path}`"
    if name_or_path.startswith("~"):
        raise FileNotFoundError(f"{named}: LLaMA-Factory expands no `~`. Write {os.path.expanduser(name_or_path)}.")
    if subfolder:
        named += f" with `adapter_folder: {subfolder}`"
    if not folder.is_dir():
        if _looks_like_path(name_or_path):
            raise FileNotFoundError(f"{named} does not exist. Correct the path of the model's folder.")
        return
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise FileNotFoundError(f"{named} has no config.json or adapter_config.json. Name a saved model's folder.")
    if not any(path.is_file() for pattern in WEIGHTS for path in folder.glob(pattern)):
        raise FileNotFoundError(f"{named} has no weights ({', '.join(WEIGHTS)}). Copy them there.")
    candidates = (folder / each for name in WHOLE_WEIGHTS for each in (name, f"{name}.index.json"))
    read = next((path for path in candidates if path.is_file()), None)
    missing = [] if read is None or read.suffix != ".json" else missing_shards(read)
    if missing:
        raise FileNotFoundError(f"{named} lacks {', '.join(missing)} of {read.name}. Copy them.")


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1  # hub names have one
