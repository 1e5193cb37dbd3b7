# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd init``: a recipe for a model, data and GPUs. The data is converted, and settings that fit are chosen."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..data.convert import Options, convert
from ..data.coordinates import UNIT_OF_MODEL
from ..data.split import write_split
from ..utils.io import read_json, write_text
from .gpus import choose_gpu
from .plan import make_plan
from .recipe_spec import checked_keys


TEMPLATES = {
    "qwen2_vl": "qwen2_vl", "qwen2_5_vl": "qwen2_vl", "qwen3_vl": "qwen3_vl_nothink", "qwen3_5": "qwen3_5",
    "llava": "llava", "gemma3": "gemma3", "internvl": "intern_vl",
}  # fmt: skip
"""``model_type`` of a local folder -> LLaMA-Factory's template."""
TEST_SHARE = 0.1
MARGIN = 0.9  # of a GPU's memory that a plan may fill: it is an estimate
WINDOW = 16  # rows of an optimiser step
LADDER = [{"batch": 8}, {"batch": 4}, {"batch": 2}, {"batch": 1}, {"batch": 1, "ref_model_quantization_bit": 4}]
"""Settings, fastest first; the first that fits is taken."""


def write_recipe(
    recipe: Path,
    model: str,
    teacher: str,
    data: str,
    test: str,
    gpu: str,
    gpus: int,
    *,
    template: str | None = None,
    force: bool = False,
) -> Iterator[str]:
    """Writes ``recipe`` and yields lines for the user: what was written, what it needs, the next commands.

    ``teacher`` may be ``none``; ``data`` and ``test`` are files that ``clinkd data convert`` reads, or FOLDER:NAME of
    a data set; ``test`` may be ``split``. The other arguments are those of ``clinkd init``.

    Raises:
        ValueError: If a value is unknown; the message names what is expected.
        FileExistsError: If the recipe exists, without ``force``.
    """
    if recipe.exists() and not force:
        raise FileExistsError(f"{recipe} exists. Give another name, or replace it with --force.")
    card, model_type = choose_gpu(gpu), type_of(model)
    template = template or _template(model, model_type)
    folder, names, media, notes = _data_sets(data, test, recipe, model_type)
    has_teacher = teacher.lower() != "none"
    keys: dict[str, Any] = {
        "model_name_or_path": model,
        "image_max_pixels": 262144,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "use_clinkd": True,
        "clinkd_phases": ("distill, " if has_teacher else "") + "correct, predict, evaluate",
        **({"ref_model": teacher} if has_teacher else {"kd_method": "none"}),
        "rope_variant": "mrope",
        "image_square": False,
        "dataset_dir": str(folder),
        "dataset": names[0],
        "eval_dataset": names[1],
        **({"media_dir": str(media)} if media is not None else {}),
        "template": template,
        "cutoff_len": 2048,
        "output_dir": f"saves/{recipe.stem}",
        "logging_steps": 10,
        "save_steps": 500,
        "bf16": True,
        "learning_rate": 1.0e-4,
        "lr_scheduler_type": "cosine",
        "warmup_ratio": 0.1,
        "num_beams": 3,
        "max_new_tokens": 256,
    }
    checked_keys(keys)
    settings, remark = _settings(keys, gpus, card)
    write_text(recipe, _yaml(keys | settings))
    yield from (*notes, f"Recipe: {recipe}. {remark}", "Next:")
    yield f"  clinkd doctor --plan {recipe} --gpu {gpu} --gpus {gpus}"
    yield f"  llamafactory-cli train {recipe}"


def type_of(model: str) -> str:
    """``model_type`` of a local folder, or of a Qwen-VL by its name; empty for another name."""
    config = Path(model).expanduser() / "config.json"
    if config.is_file():
        return str(read_json(config).get("model_type", ""))
    if Path(model).expanduser().is_dir() or model.startswith((".", "/", "~")):
        raise ValueError(f"`--model {model}` has no config.json: give a model's folder or a name of the hub.")
    found = re.search(r"qwen(2\.5|3\.5|2|3)-?(vl)?", model, re.IGNORECASE)
    return f"qwen{found[1].replace('.', '_')}{'_vl' if found[2] else ''}" if found else ""


def _template(model: str, model_type: str) -> str:
    """LLaMA-Factory's template of a published model, else that of its type."""
    from llamafactory.extras.constants import DEFAULT_TEMPLATE, SUPPORTED_MODELS

    for name, sources in SUPPORTED_MODELS.items():
        if name in DEFAULT_TEMPLATE and model.rstrip("/") in sources.values():
            return DEFAULT_TEMPLATE[name]
    if model_type not in TEMPLATES:
        raise ValueError(f"The template of {model} is unknown: name LLaMA-Factory's with --template.")
    return TEMPLATES[model_type]


def _data_sets(
    data: str, test: str, recipe: Path, model_type: str
) -> tuple[Path, tuple[str, str], Path | None, list[str]]:
    """Folder of ``dataset_info.json``, names of training and test set, ``media_dir``, and lines for the user."""
    convention = model_type if model_type in UNIT_OF_MODEL else "qwen2_vl"
    options, media, notes = Options(model_type=convention), set(), []
    registered = _registered(data)
    folder, train = registered or (Path("data") / recipe.stem, f"{recipe.stem}_train")

    def add(source: str, name: str) -> None:
        result = convert(source, folder, name=name, options=options)
        if not result.converted:
            raise ValueError(f"{source}: none of {result.rows_in} rows was converted. See {result.rejects_path}.")
        media.add(result.image_folder)
        rejected = f", {result.rejected:,} set aside in {result.rejects_path}" if result.rejected else ""
        notes.append(f"{source}: {result.converted:,} rows in {result.path}{rejected}.")

    whole = train if registered else recipe.stem if test == "split" else train
    if not registered:
        add(data, whole)
    if test == "split":
        file = folder / read_json(folder / "dataset_info.json")[whole]["file_name"]
        train, test_name = f"{whole}_train", f"{whole}_test"
        rows = write_split(file, train, test_name, share=TEST_SHARE)
        notes.append(f"{train}: {rows[0]:,} rows; {test_name}: {rows[1]:,} rows, of other volumes or images.")
    elif given := _registered(test):
        if given[0].resolve() != folder.resolve():
            raise ValueError(f"`--test {test}` is not in {folder}, and a recipe has one `dataset_dir`. Put it there.")
        test_name = given[1]
    else:
        test_name = f"{recipe.stem}_test"
        add(test, test_name)
    if len(media) > 1:
        found = " and ".join(sorted(map(str, media)))
        raise ValueError(
            f"Training and test images are in {found}, and a recipe has one `media_dir`. Put them together."
        )
    return folder, (train, test_name), media.pop() if media else None, notes


def _registered(data: str) -> tuple[Path, str] | None:
    """FOLDER:NAME as folder and name; None for a file. ValueError if it is neither."""
    if Path(data).exists():
        return None
    folder, _, name = data.rpartition(":")
    info = Path(folder, "dataset_info.json")
    if not folder or not info.is_file():
        raise ValueError(f"{data} is neither a file nor FOLDER:NAME of a data set in FOLDER/dataset_info.json.")
    if name not in (known := read_json(info)):
        raise ValueError(f"{info} has no data set {name!r}: it has {', '.join(known)}.")
    return Path(folder), name


def _settings(keys: dict[str, Any], gpus: int, card: Any) -> tuple[dict[str, Any], str]:
    """Batch sizes and a quantised teacher, as far as the memory needs them, and a remark."""
    for step in LADDER:
        batch = step["batch"]
        settings = {key: value for key, value in step.items() if key != "batch" and "ref_model" in keys}
        settings |= {"per_device_train_batch_size": batch, "per_device_eval_batch_size": batch}
        settings["gradient_accumulation_steps"] = max(1, WINDOW // (batch * gpus))
        try:
            plan = make_plan(keys | settings, gpus=gpus, gib=MARGIN * card.gib, gpu=card)
        except ValueError as error:
            settings |= {"per_device_train_batch_size": 1, "per_device_eval_batch_size": 1}
            settings["gradient_accumulation_steps"] = max(1, WINDOW // gpus)
            return settings, f"Its memory is not planned: {error}"
        if plan["fits"]:
            peak = max(parts["peak"] for parts in plan["memory"].values()) / 2**30
            return settings, f"It needs about {peak:.1f} of {card.gib:g} GiB on each GPU."
    return settings, f"It does NOT fit on {gpus} GPU(s): {'; '.join(plan['advice'][:2])}."


def _yaml(keys: dict[str, Any]) -> str:
    import yaml

    comment = "### Written by `clinkd init`; all keys: docs/configuration.md and LLaMA-Factory's own\n"
    return comment + yaml.safe_dump(keys, sort_keys=False, allow_unicode=True)
