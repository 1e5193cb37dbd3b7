# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Phase 3: rounds of supervised fine-tuning with Reflective Correction in between (section 3.3)."""

from typing import Any

from transformers.trainer import TRAINER_STATE_NAME

from ..correct import load_similarity
from ..correct.argmax_recorder import ForwardRecorder
from ..correct.callback import ReflectiveCorrectionCallback
from ..correct.correction_trainer import RoundsTrainer
from ..kd import distill_loss, logits_distill_loss
from ..training.tracked_data import TrackedData, describe_rows
from .between_rounds import CorrectionRounds
from .context import Run
from .corrector import recipe_corrector, recipe_scorer
from .recipe import training_arguments
from .validation import check_images


def run_phase(run: Run) -> list[str]:
    """Trains into the phase's folder and writes ``clinkd/corrections``; returns both, relative to ``output_dir``."""
    folder = run.folder_of("correct")
    settings = run.settings
    arguments = training_arguments(
        run.recipe,
        folder,
        epochs=settings.correction_rounds,
        resume=run.resumes,
        is_last=run.is_last_training("correct"),
    )
    records = settings.correction_outputs == "forward"
    data = TrackedData(choose_train=_checked(settings), numbered=records)
    rounds = CorrectionRounds(
        run.folder / "corrections",
        data,
        settings,
        arguments,
        similarity=lambda: load_similarity(settings.correction_similarity, model=settings.correction_similarity_model),
        corrector=lambda: recipe_corrector(settings),
        scorer=recipe_scorer(settings) if arguments.training.process_index == 0 else None,
        run=run,
    )
    rounds.begin(fresh=arguments.training.resume_from_checkpoint is None)

    def make_trainer(**kwargs: Any) -> RoundsTrainer:
        if records:
            rounds.recorder = ForwardRecorder(rounds.folder, kwargs["tokenizer"], arguments.training)
        rounds.trainer = RoundsTrainer(
            corrected_rows=rounds.corrected_rows,
            recorder=rounds.recorder,
            hidden_loss=distill_loss,
            logits_loss=logits_distill_loss,
            **kwargs,
        )
        return rounds.trainer

    run.workflow.run(
        arguments,
        run.callbacks_with(ReflectiveCorrectionCallback(rounds.correct, rounds.flush)),
        make_trainer=make_trainer,
        data=data,
        after_load=run.student_positions(arguments),
        image_square=settings.image_square,
    )
    return [
        run.relative(folder / TRAINER_STATE_NAME),
        *([run.relative(rounds.folder)] if rounds.folder.is_dir() else []),
    ]


def _checked(settings: Any) -> Any:
    def choose(rows: Any) -> Any:
        check_images(describe_rows(rows), required=settings.rope_variant != "mrope")
        return rows

    return choose
