# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd init``: a recipe for a model, data and GPUs. The data is converted, and settings that fit are chosen."""

import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from typer.core import TyperCommand

from ..arguments import ClinkdArguments
from ..data.convert import Options, convert
from ..data.split import write_split
from ..utils.boxes import UNIT_OF_MODEL
from ..utils.clip import BIOMED_CLIP, require_hub_clip
from ..utils.console import console, counted, quiet_libraries
from ..utils.gpus import CPU, GPUS, Gpu, choose_gpu
from ..utils.io import read_json, write_text
from .plan import make_plan
from .recipe_spec import checked_keys, count_rows


TEMPLATES = {
    "qwen2_vl": "qwen2_vl", "qwen2_5_vl": "qwen2_vl", "qwen3_vl": "qwen3_vl_nothink", "qwen3_5": "qwen3_5",
    "llava": "llava", "gemma3": "gemma3", "internvl": "intern_vl",
}  # fmt: skip
"""``model_type`` of a local folder -> LLaMA-Factory's template."""
FIXED = {
    "image_max_pixels": 262144, "stage": "sft", "do_train": True, "finetuning_type": "lora", "use_clinkd": True,
    "clinkd_phases": "distill, correct, predict, evaluate", "rope_variant": "mrope", "image_square": False,
    "cutoff_len": 2048, "logging_steps": 10, "save_steps": 500, "bf16": True, "learning_rate": 1.0e-4,
    "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "num_beams": 3, "max_new_tokens": 256,
}  # fmt: skip
NOTES = {
    "kd_epochs": "epochs of phase distill",
    "correction_rounds": "epochs of phase correct; answers are corrected between two",
    "warmup_steps": "below 1: the share of all steps",
}
TEST_SHARE = 0.1
MARGIN = 0.9  # of a GPU's memory that a plan may fill: it is an estimate
WINDOW = 16  # rows of an optimiser step
LOG_POINTS = 20
"""Points of an epoch's curve, at least, where it has so many steps."""
LADDER = [{"batch": n} | bits for bits in ({}, {"ref_model_quantization_bit": 4}) for n in (8, 4, 2, 1)]
"""Settings; of those that fit the one with the fewest hours is taken, and of equals the first."""


class PromptingCommand(TyperCommand):
    """A command that names the flags it lacks where nobody can answer its prompts."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: D102
        given = {word.partition("=")[0] for word in args}
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            raise ValueError(error.format_message()) from error
        except typer.Abort:
            if sys.stdin.isatty():  # Ctrl-C
                raise
            prompted = [each.opts[0] for each in self.params if getattr(each, "prompt", None)]
            missing = ", ".join(flag for flag in prompted if flag not in given)
            raise ValueError(f"There is no terminal to answer the prompts: give {missing}.") from None


def _checked(check: Callable[[str], Any]) -> Callable[[str], str]:
    """A callback of an option: a prompt is repeated if ``check`` raises a ValueError."""

    def callback(value: str) -> str:
        try:
            check(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        return value

    return callback


def init(
    recipe: Annotated[Path, typer.Argument(help="The YAML file to write.")] = Path("recipe.yaml"),
    model: Annotated[
        str,
        typer.Option(
            prompt="Model to train: a folder or a name of the hub",
            callback=_checked(lambda value: type_of(value)),
            help="The student.",
        ),
    ] = "Qwen/Qwen2-VL-2B-Instruct",
    teacher: Annotated[
        str, typer.Option(prompt="Teacher: a folder, a name, or none", help="none: fine-tuning without a teacher.")
    ] = "Qwen/Qwen2-VL-7B-Instruct",
    data: Annotated[
        str,
        typer.Option(
            prompt="Training data: a file, or FOLDER:NAME of a data set",
            callback=_checked(lambda value: _registered(value)),
            help="A file, or FOLDER:NAME.",
        ),
    ] = ...,
    test: Annotated[
        str,
        typer.Option(
            prompt="Test data, or split: a tenth of the training data",
            callback=_checked(lambda value: value == "split" or _registered(value)),
            help="As --data, or split: a tenth of it.",
        ),
    ] = "split",
    gpu: Annotated[
        str,
        typer.Option(
            prompt=f"GPU: {', '.join([*GPUS, CPU])}", callback=_checked(choose_gpu), help="Type of GPU, or cpu."
        ),
    ] = "4090",
    gpus: Annotated[int, typer.Option(prompt="Number of GPUs", min=1, help="All of this type.")] = 1,
    image_folder: Annotated[Path | None, typer.Option(file_okay=False, help="As of `clinkd data convert`.")] = None,
    template: Annotated[str | None, typer.Option(help="LLaMA-Factory's template. Default: the model's.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file.")] = False,
) -> None:
    """Writes a recipe for your model, data and GPUs, and prints the next commands.

    Each of the first six options that is not given is prompted for, with its default as the suggestion. FOLDER:NAME is
    the data set NAME of FOLDER/dataset_info.json.
    """
    if recipe.exists() and not force:
        raise FileExistsError(f"{recipe} exists. Give another name, or replace it with --force.")
    with quiet_libraries(logging.WARNING):
        on_cpu, model_type = gpu.lower() == CPU, type_of(model)
        if on_cpu and gpus > 1:
            raise ValueError(f"`--gpus {gpus}` with `--gpu cpu`: one process trains on the CPU. Give `--gpus 1`.")
        card = choose_gpu(gpu)
        template = template or _template(model, model_type)
        folder, names, media, notes = _data_sets(data, test, recipe.stem, model_type, image_folder)
        keys = {
            "model_name_or_path": model, "ref_model": teacher, **FIXED, "dataset_dir": str(folder),
            "dataset": names[0], "eval_dataset": names[1], "media_dir": str(media or ""), "template": template,
            "output_dir": f"saves/{recipe.stem}",
        }  # fmt: skip
        defaults = ClinkdArguments()
        keys |= {"kd_epochs": defaults.kd_epochs, "correction_rounds": defaults.correction_rounds}
        if on_cpu:
            del keys["bf16"]
        if teacher.lower() == "none":
            del keys["kd_epochs"]
            keys |= {"ref_model": "", "kd_method": "none", "clinkd_phases": "correct, predict, evaluate"}
        keys = {key: value for key, value in keys.items() if value != ""}
        comments = dict(NOTES)
        if problem := _scorer_problem():
            keys["sasg_scorer"], comments["sasg_scorer"] = "logprob", f"not the paper's BiomedCLIP: {problem}"
            notes.append(f"sasg_scorer: logprob, {comments['sasg_scorer']}")
        checked_keys(keys)
        settings, remark = _settings(keys, gpus, card, on_cpu)
        settings["logging_steps"] = _logging_steps(keys | settings, gpus)
    comment = "### Written by `clinkd init`; all keys: docs/configuration.md and LLaMA-Factory's own\n"
    text = yaml.safe_dump(keys | settings, sort_keys=False, allow_unicode=True)
    for key, note in comments.items():
        text = re.sub(rf"^{key}: .*", lambda line, note=note: f"{line[0]}  # {note}", text, flags=re.MULTILINE)
    write_text(recipe, comment + text)
    place = f"--gpu {gpu}" if on_cpu else f"--gpu {gpu} --gpus {gpus}"
    commands = (f"clinkd doctor --plan {recipe} {place}", f"clinkd doctor --recipe {recipe}")
    notes += [f"Recipe: {recipe}. {remark}", "Next:", *(f"  {command}" for command in commands)]
    for line in (*notes, f"  llamafactory-cli train {recipe}"):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _scorer_problem() -> str:
    """Why the default scorer, BiomedCLIP, is out of reach; empty if it is in the cache or can be downloaded."""
    try:
        require_hub_clip(BIOMED_CLIP)
    except FileNotFoundError as error:
        return str(error)
    return ""


def _logging_steps(keys: dict[str, Any], gpus: int) -> int:
    """``logging_steps``, lower in a run so short that its curves would have few points."""
    rows, most = count_rows(keys, "dataset"), FIXED["logging_steps"]
    step = keys["per_device_train_batch_size"] * keys["gradient_accumulation_steps"] * gpus
    return min(most, max(1, rows // step // LOG_POINTS)) if rows else most


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
    data: str, test: str, stem: str, model_type: str, images: Path | None
) -> tuple[Path, tuple[str, str], Path | None, list[str]]:
    """Folder of ``dataset_info.json``, names of training and test set, ``media_dir``, and lines for the user."""
    convention = model_type if model_type in UNIT_OF_MODEL else "qwen2_vl"
    options = Options(model_type=convention, image_max_pixels=FIXED["image_max_pixels"], image_folder=images)
    media, notes, registered = {images} - {None}, [], _registered(data)
    folder, train = registered or (Path("data") / stem, f"{stem}_train")

    def add(source: str, name: str) -> None:
        result = convert(source, folder, name=name, options=options)
        if not result.converted:
            raise ValueError(f"{source}: none of {result.rows_in} rows was converted. See {result.rejects_path}.")
        media.add(result.image_folder)
        rejected = f", {result.rejected:,} set aside in {result.rejects_path}" if result.rejected else ""
        notes.append(f"{source}: {result.converted:,} rows in {result.path}{rejected}.")

    whole = train if registered or test != "split" else stem
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
        test_name = f"{stem}_test"
        add(test, test_name)
    if len(media) > 1:
        found = " and ".join(sorted(map(str, media)))
        raise ValueError(f"The images are in {found}, and a recipe has one `media_dir`: name it with --image-folder.")
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


def _settings(keys: dict[str, Any], gpus: int, card: Gpu, on_cpu: bool) -> tuple[dict[str, Any], str]:
    """Batch sizes and a quantised teacher, as far as the memory needs them, and a remark."""
    place = "this machine" if on_cpu else "each GPU"
    quantises, fitting = not on_cpu and "ref_model" in keys, []  # quantisation needs a GPU
    for step in [step for step in LADDER if quantises or len(step) == 1]:
        batch = step["batch"]
        settings = {key: value for key, value in step.items() if key != "batch"}
        settings |= {"per_device_train_batch_size": batch, "per_device_eval_batch_size": batch}
        settings["gradient_accumulation_steps"] = max(1, WINDOW // (batch * gpus))
        try:
            plan = make_plan(keys | settings, gpus=gpus, gib=MARGIN * card.gib, gpu=card, on_cpu=on_cpu)
        except ValueError as error:
            one = dict.fromkeys(("per_device_train_batch_size", "per_device_eval_batch_size"), 1)
            one["gradient_accumulation_steps"] = max(1, WINDOW // gpus)
            return one, f"Its memory is not planned, so the batch size is 1: {error}"
        if plan["fits"]:
            fitting.append((sum(plan["seconds"].values()), settings, plan["memory"]))
    if not fitting:
        place = place if on_cpu else counted(gpus, "GPU")
        return settings, f"It does NOT fit on {place}: {'; '.join(plan['advice'][:2])}."
    _, settings, memory = min(fitting, key=lambda each: each[0])
    peak = max(parts["peak"] for parts in memory.values()) / 2**30
    return settings, f"It needs about {peak:.1f} of {round(card.gib, 1):g} GiB on {place}."
