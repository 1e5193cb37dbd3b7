# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Phase 3: rounds of supervised fine-tuning with Reflective Correction in between (section 3.3)."""

from collections.abc import Sequence
from typing import Any

from PIL import Image
from transformers.trainer import TRAINER_STATE_NAME

from ..correct import Corrector, check_similarity, load_similarity, make_corrector
from ..correct.argmax_recorder import ForwardRecorder
from ..correct.correction_trainer import ReflectiveCorrectionCallback, RoundsTrainer
from ..kd import distill_loss, logits_distill_loss
from ..select import Scorer, check_scorer, load_scorer
from ..training.tracked_data import TrackedData, describe_rows
from ..utils.boxes import strip_boxes
from .between_rounds import CorrectionRounds
from .context import Run
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


def check_correction(settings: Any) -> None:
    """Finds, before the first phase, what would stop the run after its first round; loads no model.

    Raises:
        ValueError: See :func:`recipe_corrector`, and if the similarity has a model that it does not take.
        ImportError: If a library, or the packaged sentence model, is not installed.
        ScorerError: If ``correction_scorer`` names none.
    """
    if settings.correction_rounds > 1:  # one round has nothing to correct for
        recipe_corrector(settings)
        check_similarity(settings.correction_similarity, settings.correction_similarity_model)
        if settings.correction_scorer:
            check_scorer(settings.correction_scorer)


def recipe_corrector(settings: Any) -> Corrector:
    """Builds the corrector that the ClinKD keys name.

    Raises:
        ValueError: If the server is not on this machine and may not be used, or its key is missing.
        ImportError: If its client is not installed.
    """
    return make_corrector(
        settings.corrector,
        model=settings.correction_model,
        base_url=settings.correction_base_url,
        candidates=settings.correction_candidates,
        concurrency=settings.correction_concurrency,
        max_requests=settings.correction_max_requests,
        allow_remote=settings.correction_allow_remote,
        prompt_path=settings.correction_prompt,
    )


class ImageTextScore:
    """The CLIP score of a row's image and a wording as a cosine in [-1, 1], the scale of the text similarity.

    Boxes and tags are taken out of the wording first. What has no image, or no words, scores 0.

    Args:
        scorer: From :func:`llamafactory_clinkd.select.load_scorer`; one that reads images.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.name = scorer.short_name
        self._scorer = scorer

    def scores(self, image: Any, texts: Sequence[str]) -> list[float]:
        """The score of each text for the image at the path ``image``; the image is encoded once."""
        words = [strip_boxes(text) for text in texts]
        if not image or not any(words):
            return [0.0] * len(texts)
        with Image.open(image) as opened:
            found = self._scorer.score([opened.convert("RGB")], [words])[0]
        return [score / 100 if worded else 0.0 for score, worded in zip(found, words, strict=True)]


def recipe_scorer(settings: Any) -> ImageTextScore | None:
    """Loads what ``correction_scorer`` names, or nothing.

    Raises:
        ScorerError: If it cannot be loaded; the message says how to get it.
    """
    return ImageTextScore(load_scorer(settings.correction_scorer)) if settings.correction_scorer else None
