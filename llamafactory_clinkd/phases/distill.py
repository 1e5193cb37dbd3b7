# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Phase 2: the student learns the teacher's distribution (section 3.2)."""

import itertools
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.trainer import TRAINER_STATE_NAME

from ..kd import DistillTrainer, OnPolicyDistillTrainer, VkdTrainer, distill_loss, logits_distill_loss
from ..kd.adapter_teacher import AdapterTeacher, add_teacher_adapters, reasons_for_own_base
from ..kd.cache_keys import pixel_settings, teacher_identity
from ..kd.teacher import CachedTeacher, OffloadedTeacher, Teacher
from ..kd.teacher_cache import HiddenCache, estimate_bytes, require_space
from ..rope.saved_positions import bind_settings, same_positions, settings_of_run, teacher_settings
from ..training.sft_trainer import SupervisedTrainer
from ..training.tracked_data import DescribedRows, TrackedData, with_answers
from ..utils.io import read_json
from ..utils.models import text_config
from ..utils.row_index import Texts
from .context import Run
from .distill_served import datasets_of, load_served_teacher, supervised_tokens
from .pseudo_label import read_pseudo_labels
from .recipe import RecipeArguments, adapter_options, teacher_model_arguments


logger = logging.getLogger(__name__)

PLOTTED = ("ce", "kl", "kl_off_policy", "kl_on_policy", "vkd", "teacher_agreement", "teacher_entropy", "aux_loss")


def run_phase(run: Run) -> list[str]:
    """Trains into the phase's folder; returns its state file, relative to ``output_dir``."""
    folder = run.folder_of("distill")
    arguments = run.training_arguments("distill", run.settings.kd_epochs)
    losses = {"hidden_loss": distill_loss, "logits_loss": logits_distill_loss}
    if run.settings.kd_method == "none":
        make_trainer = partial(SupervisedTrainer, **losses)
    else:
        trainer = VkdTrainer if run.settings.kd_method == "vkd" else DistillTrainer
        if run.settings.kd_on_policy > 0:
            lengths = {"max_new_tokens": arguments.generating.max_new_tokens, "cutoff_len": arguments.data.cutoff_len}
            trainer = partial(OnPolicyDistillTrainer, **lengths)

        def make_trainer(**kwargs: Any) -> DistillTrainer:
            load = load_teacher if run.settings.kd_teacher_base_url is None else load_served_teacher
            return trainer(settings=run.settings, **losses, **load(run, arguments, kwargs), **kwargs)

    run.run_sft(arguments, make_trainer, TrackedData(choose_train=partial(_choose_rows, run)))
    if arguments.finetuning.plot_loss and arguments.training.process_index == 0 and not run.was_aborted():
        _plot_loss_terms(folder)
    return [run.relative(folder / TRAINER_STATE_NAME)]


def _plot_loss_terms(folder: Path) -> None:
    """Stock's plot of every logged term of the loss, beside its own plot of the loss."""
    history = read_json(folder / TRAINER_STATE_NAME)["log_history"]
    logged = [name for name in PLOTTED if any(name in entry for entry in history)]
    if logged:
        from llamafactory.extras.ploting import plot_loss

        plot_loss(str(folder), keys=logged)


def _choose_rows(run: Run, rows: Any) -> Any:
    """The rows to distil on, with the answers that the cross-entropy learns."""
    if "pseudo_label" in run.phases:
        rows = run.choose_subset(rows)
    described = DescribedRows(rows)
    run.require_images(described)
    if run.settings.pseudo_label_target == "ground_truth":
        return rows

    labels = read_pseudo_labels(run.folder / "pseudo_labels.jsonl")
    keys = described.keys()
    usable = np.fromiter((bool(labels.get(key)) for key in keys), bool, len(keys))
    if not usable.all():
        logger.warning("Left out %d of %d rows without a pseudo-label.", np.count_nonzero(~usable), len(rows))
    answers = Texts(labels[key] for key in itertools.compress(keys, usable))
    return with_answers(rows.select(np.flatnonzero(usable)), answers)


def load_teacher(run: Run, arguments: RecipeArguments, trainer_kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a ``DistillTrainer`` that concern its teacher; ``trainer_kwargs`` are stock's.

    Raises:
        ValueError: If the recipe's keys do not fit this teacher.
        OSError: If the cache does not fit on the disk.
    """
    settings, teacher_model = run.settings, teacher_model_arguments(arguments)
    positions = teacher_settings(teacher_model, settings)
    student_positions = settings_of_run(arguments.model, arguments.finetuning)
    shares_positions = same_positions(student_positions, positions)
    shares_base = _shares_base(arguments, student_positions, positions)

    def load() -> Teacher:
        if shares_base:
            if settings.kd_teacher_offload:
                logger.warning("`kd_teacher_offload: true` moves nothing: the teacher's base is the student's own.")
            student, adapters = trainer_kwargs["model"], teacher_model.adapter_name_or_path or []
            names = add_teacher_adapters(student, adapters, **adapter_options(teacher_model))
            teacher = f"{', '.join(adapters)} over the student's own weights" if adapters else "the student's own base"
            logger.info("The teacher is %s: one copy of the weights is in memory.", teacher)
            return AdapterTeacher(student, names)
        model = bind_settings(run.workflow.load_teacher(arguments), positions)
        return (OffloadedTeacher if settings.kd_teacher_offload else Teacher)(model, same_positions=shares_positions)

    if settings.kd_cache == "off":
        return {"teacher": load(), "pixel_settings": None}
    teacher = _cached_teacher(run, load, teacher_model, positions, shares_base, trainer_kwargs)
    processor = trainer_kwargs.get("processor")
    pixels = pixel_settings(processor, arguments.model, image_square=settings.image_square)
    return {"teacher": teacher, "pixel_settings": pixels}


def _shares_base(
    arguments: RecipeArguments, student_positions: dict[str, Any] | None, positions: dict[str, Any] | None
) -> bool:
    """Whether the teacher is the very weights that the student's adapter is trained over, with adapters or without."""
    finetuning, model = arguments.finetuning, arguments.model
    if finetuning.finetuning_type != "lora":
        return False
    student_base, teacher_base = model.model_name_or_path, finetuning.ref_model or model.model_name_or_path
    same_folder = Path(teacher_base).is_dir() and Path(teacher_base).resolve() == Path(student_base).resolve()
    if teacher_base != student_base and not same_folder:
        return False
    merged = len(model.adapter_name_or_path or []) > (0 if finetuning.create_new_adapter else 1)
    bits = finetuning.ref_model_quantization_bit
    conditions = {
        "the student's own adapters are merged into its base": merged,
        "`pissa_init` changes the student's base": finetuning.pissa_init,
        "`additional_target` trains parts of the student's base": bool(finetuning.additional_target),
        "`resize_vocab` changes the student's base": model.resize_vocab,
        f"`ref_model_quantization_bit: {bits}` is not the student's `quantization_bit: {model.quantization_bit}`": (
            model.quantization_bit != bits
        ),
        "their rotary positions differ (`teacher_rope_variant`)": not _same_rotation(student_positions, positions),
    }
    reasons = [reason for reason, holds in conditions.items() if holds]
    teacher_model = teacher_model_arguments(arguments)
    reasons += reasons_for_own_base(teacher_model.adapter_name_or_path or [], **adapter_options(teacher_model))
    if reasons:
        logger.warning("The teacher's base is loaded a second time, because %s.", " and ".join(reasons))
    return not reasons


def _same_rotation(a: dict[str, Any] | None, b: dict[str, Any] | None) -> bool:
    """Whether one model serves both: same positions, same frequencies, none of them learned."""
    learned = any(each is not None and each["variant"] == "rope_mixed" for each in (a, b))
    sections = [None if each is None else each.get("sections") for each in (a, b)]
    return same_positions(a, b) and not learned and sections[0] == sections[1]


def _cached_teacher(
    run: Run, load: Callable[[], Teacher], teacher_model: Any, positions: Any, shares_base: bool, trainer_kwargs: Any
) -> CachedTeacher:
    """A cache in ``clinkd/teacher_cache``; the teacher is loaded now only if the cache lacks its head."""
    from llamafactory.model import load_config

    training = trainer_kwargs["args"]
    config = text_config(load_config(teacher_model))
    folder = run.folder / "teacher_cache"
    _check_cache_space(folder, config, trainer_kwargs)
    cache = HiddenCache(
        folder,
        teacher=run.ranks.from_first(lambda: teacher_identity(teacher_model, positions), "the teacher's hash"),
        hidden_size=config.hidden_size,
        rank=training.process_index,
    )
    keep_trunk = shares_base or training.deepspeed is not None
    teacher = load() if keep_trunk or not cache.has_head() else None
    if teacher is not None and teacher.head is None:
        raise ValueError(
            f"`kd_cache: hidden` keeps hidden states, but the logits of {type(teacher.model).__name__} are not its "
            "hidden states times a head. Set `kd_cache: off`."
        )
    return CachedTeacher(cache, load, keep_trunk=keep_trunk, teacher=teacher)


def _check_cache_space(folder: Path, config: Any, trainer_kwargs: dict[str, Any]) -> None:
    """Logs the disk space that the cache needs, and raises ``OSError`` if it does not fit."""
    datasets = datasets_of(trainer_kwargs)
    tokens, samples = sum(map(supervised_tokens, datasets)), sum(map(len, datasets))
    half_precision = trainer_kwargs["args"].bf16 or trainer_kwargs["args"].fp16
    dtype = torch.bfloat16 if half_precision else torch.float32
    head = (config.vocab_size + 1) * config.hidden_size * dtype.itemsize
    needed = estimate_bytes(tokens, config.hidden_size, dtype, samples) + head
    content = f"The teacher cache, {tokens} supervised tokens of {samples} samples and the head"
    require_space(folder, needed, content, "set kd_cache: off")
