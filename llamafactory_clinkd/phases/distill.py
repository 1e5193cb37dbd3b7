# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Phase 2: the student learns the teacher's distribution (section 3.2)."""

import logging
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from ..kd import DistillTrainer, VkdTrainer, check_teacher, distill_loss, logits_distill_loss, read_pseudo_labels
from ..training.sft_trainer import SupervisedTrainer
from ..training.tracked_data import TrackedData, describe_rows, with_answers
from ..utils.io import read_json
from .context import Run, choose_subset
from .recipe import training_arguments
from .stock_sft import teacher_model_arguments
from .teacher_setup import teacher_of_run
from .validation import check_images


logger = logging.getLogger(__name__)

PLOTTED = ("ce", "kl", "vkd", "teacher_agreement", "teacher_entropy", "aux_loss")


def run_phase(run: Run) -> list[str]:
    """Trains into the phase's folder; returns it, relative to ``output_dir``."""
    folder = run.folder_of("distill")
    arguments = training_arguments(
        run.recipe, folder, epochs=run.settings.kd_epochs, resume=run.resumes, is_last=run.is_last_training("distill")
    )
    distils = run.settings.kd_method != "none"
    if distils:
        tokenizers = run.workflow.load_tokenizers(arguments.model, teacher_model_arguments(arguments))
        check_teacher(*tokenizers)

    run.workflow.run(
        arguments,
        run.callbacks,
        make_trainer=(lambda **kwargs: _distill_trainer(run, arguments, kwargs)) if distils else _plain_trainer,
        data=TrackedData(choose_train=lambda rows: _rows(run, rows)),
        after_load=run.student_positions(arguments),
        image_square=run.settings.image_square,
    )
    if arguments.finetuning.plot_loss and arguments.training.process_index == 0 and not run.was_aborted():
        _plot_parts(folder)
    return [run.relative(folder / TRAINER_STATE_NAME)]


def _plot_parts(folder: Path) -> None:
    """Stock's plot of every part of the loss that was logged, beside stock's own of the loss."""
    history = read_json(folder / TRAINER_STATE_NAME)["log_history"]
    logged = [name for name in PLOTTED if any(name in entry for entry in history)]
    if logged:
        from llamafactory.extras.ploting import plot_loss

        plot_loss(str(folder), keys=logged)


def _rows(run: Run, rows: Any) -> Any:
    """The rows to distil on, with the answers that the cross-entropy learns."""
    if "pseudo_label" in run.phases:
        rows = choose_subset(run, rows)
    described = describe_rows(rows)
    check_images(described, required=run.settings.rope_variant != "mrope")
    if run.settings.pseudo_label_target == "ground_truth":
        return rows

    labels = read_pseudo_labels(run.folder / "pseudo_labels.jsonl")
    usable = [index for index, row in enumerate(described) if labels.get(row["key"])]
    if len(usable) < len(rows):
        logger.warning("Left out %d of %d rows without a pseudo-label.", len(rows) - len(usable), len(rows))
    return with_answers(rows.select(usable), [labels[described[index]["key"]] for index in usable])


def _distill_trainer(run: Run, arguments: Any, parts: dict[str, Any]) -> DistillTrainer:
    kind = VkdTrainer if run.settings.kd_method == "vkd" else DistillTrainer
    return kind(
        settings=run.settings,
        hidden_loss=distill_loss,
        logits_loss=logits_distill_loss,
        **teacher_of_run(run, arguments, parts),
        **parts,
    )


def _plain_trainer(**kwargs: Any) -> SupervisedTrainer:
    return SupervisedTrainer(hidden_loss=distill_loss, logits_loss=logits_distill_loss, **kwargs)
