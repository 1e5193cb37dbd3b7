# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Checks before the first phase starts, so that a typing error or a row does not end a run after three hours."""

import logging
from pathlib import Path
from typing import Any

from transformers import set_seed

from ..arguments import TRAINING_PHASES, check_data_keys
from ..data.box_convention import warn_of_conventions
from ..evaluate import require_spice
from ..kd import check_teacher
from ..kd.rollouts import check_on_policy
from ..kd.teacher import CACHE_UNDER_FSDP, OFFLOAD_UNDER_FSDP
from ..kd.vkd import UNSUPPORTED_ENGINE
from ..rope.saved_positions import same_positions, settings_of_run, teacher_settings
from ..training.tracked_data import DescribedRows, TrackedData
from ..utils.value_checks import bad_value, require_finite
from .context import Run
from .distill_served import check_served_teacher
from .mergeable import check_mergeable
from .recipe import generating_arguments, phase_arguments, teacher_model_arguments, teacher_place
from .recipe_files import check_best_model, check_files
from .served import served_model, served_teacher


logger = logging.getLogger(__name__)


def check_recipe(arguments: Any) -> None:
    """Checks values that depend on more than one argument group, paths and saved positions.

    Raises:
        ValueError: With the key, what was found, and the fix.
        FileNotFoundError: If a local model folder does not exist.
    """
    from llamafactory.extras.misc import use_ray

    data, training, model, finetuning = arguments.data, arguments.training, arguments.model, arguments.finetuning
    generating, phases = getattr(arguments, "generating", None), finetuning.clinkd_phases
    distils = "distill" in phases and finetuning.kd_method != "none"
    trains = not set(TRAINING_PHASES).isdisjoint(phases)
    if (trains or "pseudo_label" in phases) and not data.dataset:
        raise ValueError(f"`dataset` is missing: the phases {phases} train. Name it as in `dataset_info.json`.")
    if "predict" in phases and not data.eval_dataset and data.val_size < 1e-6:
        raise ValueError("`eval_dataset` is missing: phase predict answers its questions. Name it, or set `val_size`.")
    if training.max_steps > 0:
        fix = "set `kd_epochs` and `correction_rounds` instead, and `max_samples` for a short trial"
        raise bad_value("max_steps", training.max_steps, "no limit, because it cuts phases short", fix)
    if training.label_smoothing_factor > 0:
        allowed = "0: ClinKD's loss has no label smoothing, its soft targets come from the teacher"
        raise bad_value("label_smoothing_factor", training.label_smoothing_factor, allowed, "remove the key")
    if training.fp16 and training.device.type == "cpu" and set(phases) != {"evaluate"}:
        raise ValueError(
            "`fp16: true` needs a GPU, and torch finds none. Remove the key to train on the CPU in fp32, which suits "
            "small models only. With a GPU, install a CUDA build of torch (`clinkd doctor`)."
        )
    _check_resume(training)
    if distils and finetuning.kd_teacher_offload and training.deepspeed:
        raise ValueError(
            "`kd_teacher_offload: true` moves the teacher's layers itself, and so does `deepspeed`. Remove the key; "
            "with ZeRO-3, `offload_param: {device: cpu}` in the DeepSpeed file does the same."
        )
    if distils and finetuning.kd_cache != "off" and training.fsdp:
        raise ValueError(CACHE_UNDER_FSDP)
    if distils and finetuning.kd_teacher_offload and training.fsdp:
        raise ValueError(OFFLOAD_UNDER_FSDP)
    if distils and finetuning.kd_method == "vkd" and (training.fsdp or (training.deepspeed and training.fp16)):
        raise ValueError(UNSUPPORTED_ENGINE)
    if distils and getattr(finetuning, "kd_on_policy", 0) > 0:
        check_on_policy(data, generating.max_new_tokens if generating else 1)
        _warn_of_unused(finetuning)
    for switch in ("use_kt", "use_unsloth"):
        if getattr(model, switch, False):
            raise ValueError(f"`{switch}: true` replaces the model that ClinKD extends. Set it to false.")
    if use_ray():
        raise ValueError("USE_RAY=1 is not supported with `use_clinkd: true`. Unset it and start with torchrun.")
    if "correct" in phases and finetuning.correction_outputs == "forward":
        _check_recording(data)
    if "evaluate" in phases and finetuning.spice_jars:
        require_spice(finetuning.spice_jars)
    for phase in phases:
        served_model(finetuning, phase)  # refuses what may not be sent
    if getattr(finetuning, "kd_teacher_base_url", None) is not None and served_teacher(finetuning) is not None:
        _check_one_row_a_sequence(data)
    check_data_keys(data)
    require_finite([data, training, model, finetuning, *([generating] if generating else [])])
    if trains:
        check_best_model(training, finetuning)
    check_files(arguments)
    check_mergeable(arguments)
    _check_positions(model, finetuning, data)
    names = [name for key in ("dataset", "eval_dataset") for name in getattr(data, key) or ()]
    warn_of_conventions(model.model_name_or_path, dict.fromkeys(names), data.dataset_dir, finetuning.image_square)


def _warn_of_unused(finetuning: Any) -> None:
    """Names the keys that act on batches with a ground truth, where ``kd_on_policy: 1`` leaves none."""
    written = {
        "kd_alpha": "kd_alpha" in finetuning.clinkd_written,
        "pseudo_label_target": finetuning.pseudo_label_target == "pseudo_label" and not finetuning.kd_teacher_prompt,
    }
    for key in (key for key, holds in written.items() if holds and finetuning.kd_on_policy == 1):
        logger.warning(
            "`%s: %s` has no effect on the loss: with `kd_on_policy: 1` every batch is sampled. Lower `kd_on_policy`, "
            "or remove the key.",
            key, getattr(finetuning, key),
        )  # fmt: skip


def _check_resume(training: Any) -> None:
    """Refuses a checkpoint of another folder; stock itself sets this key to a checkpoint in ``output_dir``."""
    checkpoint = training.resume_from_checkpoint
    if not isinstance(checkpoint, str) or checkpoint.lower() in ("true", "false"):
        return
    if not Path(checkpoint).resolve().is_relative_to(Path(training.output_dir).resolve()):
        raise ValueError(
            f"`resume_from_checkpoint: {checkpoint}` is not read: each phase continues from its own last checkpoint "
            f"in `output_dir: {training.output_dir}`. Remove the key, or start from that model: name it in "
            "`model_name_or_path` (an adapter in `adapter_name_or_path`)."
        )


def _check_recording(data: Any) -> None:
    """Refuses settings under which a row's supervised tokens are not its answer."""
    effects = {"packing": "joins rows", "neat_packing": "joins rows", "train_on_prompt": "adds the prompt to these"}
    for key, effect in effects.items():
        if getattr(data, key):
            raise ValueError(
                f"`correction_outputs: forward` records each row's supervised tokens, and `{key}: true` {effect}. "
                f"Set `{key}: false`, or `correction_outputs: generate`."
            )


def _check_one_row_a_sequence(data: Any) -> None:
    """Refuses settings under which a served teacher would read several rows as one."""
    for key in ("packing", "neat_packing"):
        if getattr(data, key):
            raise ValueError(
                f"`{key}: true` joins rows, and the server of `kd_teacher_base_url` scores rows. Set `{key}: false`."
            )


def _check_positions(model: Any, finetuning: Any, data: Any) -> None:
    """Compares the recipe with the settings saved beside student and teacher."""
    student, place = settings_of_run(model, finetuning), teacher_place(model, finetuning)
    if place is None:
        return
    teacher = teacher_settings(place, finetuning)
    distils = "distill" in finetuning.clinkd_phases and finetuning.kd_method != "none"
    if distils and (data.packing or data.neat_packing) and not same_positions(student, teacher):
        raise ValueError(
            "`packing` needs a teacher with the student's rotary positions: set "
            f"`teacher_rope_variant: {finetuning.rope_variant}`, or `packing: false` and `neat_packing: false`."
        )


def check_data(run: Run, phases: list[str]) -> None:
    """Reads the tokenizers and rows of the ``phases`` that are left; `datasets` caches what is tokenised.

    Raises:
        ValueError: If student and teacher do not read the same input, or a data set or row does not fit the recipe.
        OSError: If a file does not exist.
    """
    recipe, settings, later = run.recipe, run.settings, phases[1:]
    square = settings.image_square
    if "distill" in phases and settings.kd_teacher_base_url is not None:
        tokenizer = run.workflow.module.load_tokenizer(phase_arguments(recipe, run.output_dir).model)["tokenizer"]
        check_served_teacher(run, tokenizer)
    elif "distill" in phases and settings.kd_method != "none":
        _check_tokenizers(run)

    def choose(rows: Any) -> Any:
        if "correct" not in phases and "pseudo_label" in run.phases:
            rows = run.choose_subset(rows)
        run.require_images(DescribedRows(rows))
        return rows

    logger.info("Checking the rows of later phases.")
    if not set(TRAINING_PHASES).isdisjoint(later):
        switches = {"do_train": True, "do_predict": False, "predict_with_generate": False}
        _load(run, phase_arguments(recipe, run.output_dir, **switches), TrackedData(choose_train=choose), square)
    if "predict" in later:
        arguments = generating_arguments(recipe, run.output_dir, over_training_rows=False)
        _load(run, arguments, TrackedData(), square)


def _load(run: Run, arguments: Any, data: TrackedData, square: bool) -> None:
    set_seed(arguments.training.seed)  # as before a phase: `num_samples` draws the same rows
    run.workflow.load_data(arguments, data, image_square=square)


def _check_tokenizers(run: Run) -> None:
    """Compares both models' tokens and pixels, and reports added tokens that the teacher was not trained with."""
    load_tokenizer, student = run.workflow.module.load_tokenizer, phase_arguments(run.recipe, run.output_dir)
    check_teacher(load_tokenizer(student.model), load_tokenizer(teacher_model_arguments(run.recipe)))
    added = [*(student.model.add_tokens or []), *(student.model.add_special_tokens or [])]
    if not added:
        return
    teacher = teacher_model_arguments(run.recipe)
    teacher.add_tokens = teacher.add_special_tokens = teacher.new_special_tokens_config = None
    vocabulary = load_tokenizer(teacher)["tokenizer"].get_vocab()
    unknown = [token for token in added if token not in vocabulary]
    if unknown:
        logger.warning(
            "The teacher lacks %d of the %d tokens that the recipe adds (%s): its embeddings of them are initialised "
            "and not trained, so its answers and distributions hold no information about them. Choose a teacher that "
            "was trained with them where they matter.",
            len(unknown), len(added), ", ".join(unknown[:5]),
        )  # fmt: skip
