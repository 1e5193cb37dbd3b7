# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The teacher of the distill phase: where its weights live, and whether a cache stands before it."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..kd.cache_keys import pixel_settings, teacher_identity
from ..kd.cached_teacher import CachedTeacher
from ..kd.teacher import AdapterTeacher, Teacher, add_teacher_adapters, reasons_for_own_base
from ..kd.teacher_cache import HiddenCache, estimate_bytes, require_space
from ..kd.teacher_offload import OffloadedTeacher
from ..rope.saved_positions import bind_settings, same_positions, settings_of_run, teacher_settings
from ..utils.models import text_config
from .context import Run
from .stock_sft import teacher_model_arguments


logger = logging.getLogger(__name__)


def teacher_of_run(run: Run, arguments: Any, parts: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a ``DistillTrainer`` that concern its teacher.

    Args:
        run: The run.
        arguments: The phase's recipe.
        parts: What stock gives its trainer: ``model``, ``args``, ``processor``, ``train_dataset``, ``eval_dataset``.

    Raises:
        ValueError: If the recipe's keys cannot go together with this teacher.
        OSError: If the cache does not fit on the disk.
    """
    teacher_arguments = teacher_model_arguments(arguments)
    positions = teacher_settings(teacher_arguments, run.settings)
    student = settings_of_run(arguments.model, arguments.finetuning)
    shares_positions = same_positions(student, positions)
    if not shares_positions and (arguments.data.packing or arguments.data.neat_packing):
        raise ValueError(
            "`packing` needs a teacher with the student's rotary positions: set "
            f"`teacher_rope_variant: {run.settings.rope_variant}`, or `packing: false` and `neat_packing: false`."
        )
    shares_weights = _shares_weights(arguments, student, positions)

    def load() -> Teacher:
        if shares_weights:
            if run.settings.kd_teacher_offload:
                logger.warning("`kd_teacher_offload: true` moves nothing: the teacher's base is the student's own.")
            return _adapters_over(parts["model"], teacher_arguments)
        model = bind_settings(run.workflow.load_teacher(arguments), positions)
        kind = OffloadedTeacher if run.settings.kd_teacher_offload else Teacher
        return kind(model, same_positions=shares_positions)

    if run.settings.kd_cache == "off":
        return {"teacher": load(), "pixel_settings": None}
    return {
        "teacher": _cached(run, load, teacher_arguments, positions, parts, is_students=shares_weights),
        "pixel_settings": pixel_settings(
            parts.get("processor"), arguments.model, image_square=run.settings.image_square
        ),
    }


def _adapters_over(model: Any, teacher_arguments: Any) -> AdapterTeacher:
    names = add_teacher_adapters(model, teacher_arguments.adapter_name_or_path, **_hub_options(teacher_arguments))
    logger.info(
        "The teacher is %s over the student's own weights: one copy of them is in memory.",
        ", ".join(teacher_arguments.adapter_name_or_path),
    )
    return AdapterTeacher(model, names)


def _hub_options(model_arguments: Any) -> dict[str, Any]:
    """How PEFT fetches adapters of the hub."""
    return {
        "revision": model_arguments.model_revision,
        "token": model_arguments.hf_hub_token,
        "cache_dir": model_arguments.cache_dir,
    }


def _shares_weights(arguments: Any, student: dict[str, Any] | None, teacher: dict[str, Any] | None) -> bool:
    """Whether the teacher is adapters over the very weights that the student's adapter is trained over."""
    finetuning, model = arguments.finetuning, arguments.model
    if not finetuning.ref_model_adapters or finetuning.finetuning_type != "lora":
        return False
    if not _is_same_model(finetuning.ref_model or model.model_name_or_path, model.model_name_or_path):
        return False
    merged = len(model.adapter_name_or_path or []) > (0 if finetuning.create_new_adapter else 1)
    reasons = {
        "the student's own adapters are merged into its base": merged,
        "`pissa_init` changes the student's base": finetuning.pissa_init,
        "`additional_target` trains parts of the student's base": bool(finetuning.additional_target),
        "`resize_vocab` changes the student's base": model.resize_vocab,
        f"`ref_model_quantization_bit: {finetuning.ref_model_quantization_bit}` is not the student's "
        f"`quantization_bit: {model.quantization_bit}`": model.quantization_bit
        != finetuning.ref_model_quantization_bit,
        "their rotary positions differ (`teacher_rope_variant`)": not _same_rotation(student, teacher),
    }
    found = [reason for reason, holds in reasons.items() if holds]
    teacher_arguments = teacher_model_arguments(arguments)
    found += reasons_for_own_base(teacher_arguments.adapter_name_or_path, **_hub_options(teacher_arguments))
    if found:
        logger.warning("The teacher's base is loaded a second time, because %s.", " and ".join(found))
    return not found


def _is_same_model(a: str, b: str) -> bool:
    return a == b or (Path(a).is_dir() and Path(b).is_dir() and Path(a).resolve() == Path(b).resolve())


def _same_rotation(student: dict[str, Any] | None, teacher: dict[str, Any] | None) -> bool:
    """Whether one model serves both: same positions, same frequencies, none of them learned."""
    learns = any(each is not None and each["variant"] == "rope_mixed" for each in (student, teacher))
    sections = [None if each is None else each.get("sections") for each in (student, teacher)]
    return same_positions(student, teacher) and not learns and sections[0] == sections[1]


def _cached(
    run: Run,
    load: Callable[[], Teacher],
    teacher_arguments: Any,
    positions: dict[str, Any] | None,
    parts: dict[str, Any],
    *,
    is_students: bool,
) -> CachedTeacher:
    """A cache in ``clinkd/teacher_cache``; the teacher is loaded already where the cache does not have its head."""
    training = parts["args"]
    config = text_config(run.workflow.load_config(teacher_arguments))
    folder = run.folder / "teacher_cache"
    _tell_space(folder, config, parts)
    cache = HiddenCache(
        folder,
        teacher=teacher_identity(teacher_arguments, positions),
        hidden_size=config.hidden_size,
        rank=training.process_index,
    )
    keep = is_students or training.deepspeed is not None
    teacher = load() if keep or not cache.has_head() else None
    if teacher is not None and teacher.head is None:
        raise ValueError(
            f"`kd_cache: hidden` keeps hidden states, but the logits of {type(teacher.model).__name__} are not its "
            "hidden states times a head. Set `kd_cache: off`."
        )
    return CachedTeacher(cache, load, keep=keep, teacher=teacher)


def _tell_space(folder: Path, config: Any, parts: dict[str, Any]) -> None:
    """Says what the cache needs on disk before anything is trained.

    Raises:
        ValueError: If the data set is streamed: what is needed cannot be known.
        OSError: If it does not fit.
    """
    tokens, samples = 0, 0
    evaluation = parts.get("eval_dataset") or {}
    for dataset in (parts["train_dataset"], *(evaluation.values() if isinstance(evaluation, dict) else [evaluation])):
        if not hasattr(dataset, "__len__"):
            raise ValueError(
                "`kd_cache: hidden` with `streaming: true`: the size of the cache cannot be known before the start. "
                "Set `streaming: false` or `kd_cache: off`."
            )
        tokens += supervised_tokens(dataset)
        samples += len(dataset)
    half = parts["args"].bf16 or parts["args"].fp16
    dtype = torch.bfloat16 if half else torch.float32
    head = (config.vocab_size + 1) * config.hidden_size * dtype.itemsize
    needed = estimate_bytes(tokens, config.hidden_size, dtype, samples) + head
    there = sum(path.stat().st_size for path in folder.glob("*.safetensors")) if folder.is_dir() else 0
    logger.info(
        "The teacher cache in %s: %d supervised tokens of %d samples and the head need at most %.2f GiB; %.2f GiB are "
        "there.",
        folder,
        tokens,
        samples,
        needed / 2**30,
        there / 2**30,
    )
    require_space(folder, max(0, needed - there))


def supervised_tokens(dataset: Any) -> int:
    """Supervised tokens of a tokenised data set; the first token of a row is never predicted."""
    return sum(
        sum(label != -100 for label in labels[1:])
        for batch in dataset.select_columns(["labels"]).iter(batch_size=512)
        for labels in batch["labels"]
    )
