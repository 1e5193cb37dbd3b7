# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Phase 4: candidates for every test question, ranked by a CLIP score (SASG, section 3.4, Algorithm 1)."""

from typing import Any

from PIL import Image

from ..generation.generation_trainer import GeneratingTrainer
from ..select import load_scorer, select_rows
from ..training.tracked_data import TrackedData, describe_rows
from .context import Run
from .recipe import beam_settings, generating_arguments, sample_settings
from .validation import check_images


def run_phase(run: Run) -> list[str]:
    """Writes ``clinkd/predictions.jsonl``; returns it, relative to ``output_dir``."""
    settings = run.settings
    arguments = generating_arguments(run.recipe, run.output_dir, over_training_rows=False)
    # A training split is loaded only where `val_size` cuts the evaluation rows from it.
    if arguments.data.eval_dataset:
        arguments.data.dataset = None
    beams = settings.sasg_mode == "beam"
    out_path = run.folder / "predictions.jsonl"
    described: list[dict[str, Any]] = []
    data = TrackedData()
    training = arguments.training
    scorer = load_scorer(settings.sasg_scorer, device=str(training.device)) if training.process_index == 0 else None

    def keys() -> list[str]:
        described.extend(describe_rows(data.aligned(is_eval=True)))
        check_images(described, required=settings.rope_variant != "mrope")
        return [row["key"] for row in described]

    def when_done(rows: list[dict[str, Any]]) -> dict[str, float]:
        selected = select_rows(
            [row | _generated(answer) for row, answer in zip(described, rows, strict=True)],
            scorer,
            load_image,
            region=settings.sasg_region,
            out_path=out_path,
            progress=not training.disable_tqdm,
        )
        return {"not_first_beam": sum(_best_was_not_first(row) for row in selected)}

    def make_trainer(**kwargs: Any) -> GeneratingTrainer:
        return GeneratingTrainer(
            out_path=run.folder / "predict" / "answers.jsonl",
            row_keys=keys,
            num_candidates=settings.sasg_candidates,
            generation=beam_settings(arguments.generating, settings.sasg_candidates) if beams else sample_settings(),
            title="candidates",
            when_done=when_done,
            ranks=run.ranks,
            should_stop=run.should_stop,
            **kwargs,
        )

    run.forget_unless_resumed("predict")
    run.workflow.run(
        arguments,
        run.callbacks,
        make_trainer=make_trainer,
        data=data,
        after_load=run.student_positions(arguments),
        image_square=settings.image_square,
    )
    return [run.relative(out_path)]


def load_image(row: dict[str, Any]) -> Image.Image:
    """The picture of a row, as it is on disk."""
    with Image.open(row["image"]) as image:
        return image.convert("RGB")


def _generated(answer: dict[str, Any]) -> dict[str, Any]:
    """What a row's generation adds to it: candidates, or why there are none."""
    return {key: answer[key] for key in ("candidates", "error") if key in answer}


def _best_was_not_first(row: dict[str, Any]) -> bool:
    return bool(row["candidates"]) and row["candidates"][0]["text"] != row["response"]
