# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Phase 1: the teacher answers a seeded random subset of the training questions by beam search (section 4.1, 4.3)."""

from typing import Any

from ..generation.generation_trainer import GeneratingTrainer
from ..kd.pseudo_labels import write_pseudo_labels
from ..rope.saved_positions import bind_settings, teacher_settings
from ..training.tracked_data import TrackedData, describe_rows
from .context import Run, choose_subset, training_part
from .recipe import beam_settings, generating_arguments
from .stock_sft import teacher_model_arguments


PSEUDO_LABEL_BEAMS = 3


def run_phase(run: Run) -> list[str]:
    """Writes ``clinkd/pseudo_labels.jsonl``; returns the files written, relative to ``output_dir``."""
    arguments = generating_arguments(run.recipe, run.folder / "pseudo_label", over_training_rows=True)
    teacher = teacher_model_arguments(arguments)
    finetuning = type(arguments.finetuning)()  # as stock's `create_ref_model` loads it: adapters allowed, nothing else
    arguments = arguments._replace(model=teacher, finetuning=finetuning)
    settings = teacher_settings(teacher, run.settings)
    data = TrackedData(choose_eval=lambda rows: choose_subset(run, training_part(run, rows)))
    out_path = run.folder / "pseudo_labels.jsonl"
    described: list[dict[str, Any]] = []

    def keys() -> list[str]:
        described.extend(describe_rows(data.aligned(is_eval=True)))
        return [row["key"] for row in described]

    def make_trainer(**kwargs: Any) -> GeneratingTrainer:
        return GeneratingTrainer(
            out_path=run.folder / "pseudo_label" / "answers.jsonl",
            row_keys=keys,
            num_candidates=1,
            generation=beam_settings(run.recipe.generating, PSEUDO_LABEL_BEAMS),
            title="teacher's pseudo-labels",
            when_done=lambda rows: write_pseudo_labels(out_path, described, rows),
            ranks=run.ranks,
            should_stop=run.should_stop,
            **kwargs,
        )

    run.forget_unless_resumed("pseudo_label")
    run.workflow.run(
        arguments,
        run.callbacks,
        make_trainer=make_trainer,
        data=data,
        after_load=lambda model: bind_settings(model, settings),
        image_square=run.settings.image_square,
    )
    return [run.relative(out_path)]
