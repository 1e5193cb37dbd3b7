# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Checks of the names and files in a recipe that a later phase would open; they read no rows and load no model."""

from pathlib import Path
from typing import Any

from ..utils.io import read_json
from ..utils.value_checks import bad_value, did_you_mean, split_list


DATA_INFO = "dataset_info.json"
ELSEWHERE = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name")
WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth")


def check_files(arguments: Any) -> None:
    """Checks data sets, template, folders, models, DeepSpeed file, similarity model and earlier predictions.

    Raises:
        ValueError: If a name is not among those that exist; the message lists them.
        FileNotFoundError: If a file or folder does not exist.
    """
    data, training, model, finetuning = arguments.data, arguments.training, arguments.model, arguments.finetuning
    phases = finetuning.clinkd_phases
    check_datasets(data)
    check_template(data.template)
    if isinstance(data.media_dir, str) and data.media_dir != data.dataset_dir and not Path(data.media_dir).is_dir():
        raise FileNotFoundError(f"`media_dir: {data.media_dir}` is not a folder. Correct it, or remove the key.")
    for key, value in (
        ("model_name_or_path", [model.model_name_or_path]),
        ("adapter_name_or_path", split_list(model.adapter_name_or_path or [])),
        ("ref_model", [finetuning.ref_model] if finetuning.ref_model else []),
        ("ref_model_adapters", split_list(finetuning.ref_model_adapters or [])),
    ):
        for name in value:
            check_model_path(key, name)
    config = training.deepspeed
    if isinstance(config, str) and not config.lstrip().startswith("{") and not Path(config).is_file():
        raise FileNotFoundError(f"`deepspeed: {config}` is not a file. Start in the folder that it is relative to.")
    similarity = finetuning.correction_similarity_model
    if (
        "correct" in phases
        and similarity
        and _looks_like_path(similarity)
        and not Path(similarity).expanduser().exists()
    ):
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
        info = read_json(where)
    for key in ("dataset", "eval_dataset"):
        for name in split_list(getattr(data, key) or []):
            if name not in info:
                names = ", ".join(sorted(info)) or "no data set"
                fix = f"correct the name.{did_you_mean(name, info)}".removesuffix(".")
                raise bad_value(key, name, f"a data set of {where}, which has {names}", fix)
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
        fix = f"choose the model's.{did_you_mean(name, TEMPLATES)}".removesuffix(".")
        raise bad_value("template", name, f"one of {', '.join(sorted(TEMPLATES))}", fix)


def check_best_model(training: Any, finetuning: Any) -> None:
    """Refuses a ``metric_for_best_model`` that no evaluation computes, and early stopping without evaluations."""
    evaluates = training.eval_strategy != "no"
    exist = ["loss", *(["accuracy"] if finetuning.compute_accuracy else [])]
    name = training.metric_for_best_model
    if evaluates and name is not None and name.removeprefix("eval_") not in exist:
        more = "" if finetuning.compute_accuracy else "; `compute_accuracy: true` adds accuracy"
        raise bad_value(
            "metric_for_best_model", name, f"a metric of the evaluations: {', '.join(exist)}{more}", exist[0]
        )
    if finetuning.early_stopping_steps is not None and not (evaluates and name is not None):
        raise bad_value(
            "early_stopping_steps", finetuning.early_stopping_steps, "evaluations whose best model is kept",
            "set `load_best_model_at_end: true` and an `eval_strategy`",
        )  # fmt: skip


def check_model_path(key: str, name_or_path: str) -> None:
    """Raises ``FileNotFoundError`` if a value that looks like a path is not the whole folder of a model or adapter."""
    folder = Path(name_or_path).expanduser()
    if _looks_like_path(name_or_path) and not folder.is_dir():
        raise FileNotFoundError(f"`{key}: {name_or_path}` does not exist. Correct the path of the model's folder.")
    if not folder.is_dir():
        return
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise FileNotFoundError(
            f"`{key}: {name_or_path}` has no config.json or adapter_config.json. Name a saved model's folder."
        )
    if not any(path.is_file() for pattern in WEIGHTS for path in folder.glob(pattern)):
        raise FileNotFoundError(f"`{key}: {name_or_path}` has no weights ({', '.join(WEIGHTS)}). Copy them there.")
    for index in folder.glob("*.index.json"):
        missing = sorted({name for name in read_json(index)["weight_map"].values() if not (folder / name).is_file()})
        if missing:
            raise FileNotFoundError(f"`{key}: {name_or_path}` lacks {', '.join(missing)} of {index.name}. Copy them.")


def _looks_like_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1  # hub names have one
