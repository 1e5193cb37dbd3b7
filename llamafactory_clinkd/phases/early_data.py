# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Reads the rows and tokenizers of later phases before the first one starts.

A phase finds a fault in its own data when it starts; hours of another phase should not have been spent by then.
"""

import logging
from typing import Any

from transformers import set_seed

from ..arguments import TRAINING_PHASES
from ..kd import check_teacher
from ..training.tracked_data import TrackedData, describe_rows
from .context import Run
from .media_files import require_images
from .recipe import generating_arguments, phase_arguments, teacher_model_arguments


logger = logging.getLogger(__name__)


def check_data(run: Run, phases: list[str]) -> None:
    """Checks teacher and data of the ``phases`` that are left; tokenised rows are reused from the cache of `datasets`.

    Raises:
        ValueError: If student and teacher do not read the same input, or a data set or row does not fit the recipe.
        OSError: If a file does not exist.
    """
    recipe, settings, later = run.recipe, run.settings, phases[1:]
    square = settings.image_square
    if "distill" in phases and settings.kd_method != "none":
        _check_tokenizers(run)

    def choose(rows: Any) -> Any:
        if "correct" not in phases and "pseudo_label" in run.phases:
            rows = run.choose_subset(rows)
        require_images(describe_rows(rows), required=settings.rope_variant != "mrope")
        return rows

    if not set(TRAINING_PHASES).isdisjoint(later):
        switches = {"do_train": True, "do_predict": False, "predict_with_generate": False}
        _load(run, phase_arguments(recipe, run.output_dir, **switches), TrackedData(choose_train=choose), square)
    if "predict" in later:
        arguments = generating_arguments(recipe, run.output_dir, over_training_rows=False)
        _load(run, arguments, TrackedData(), square)


def _load(run: Run, arguments: Any, data: TrackedData, square: bool) -> None:
    set_seed(arguments.training.seed)  # as before a phase: `num_samples` draws the same rows
    logger.info("Checking the rows of later phases.")
    run.workflow.load_data(arguments, data, image_square=square)


def _check_tokenizers(run: Run) -> None:
    """Compares both models' tokens and pixels, and reports added tokens that the teacher was not trained with."""
    load_tokenizer, student = run.workflow.module.load_tokenizer, phase_arguments(run.recipe, run.output_dir)
    teacher = teacher_model_arguments(run.recipe)
    check_teacher(load_tokenizer(student.model), load_tokenizer(teacher))
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
