# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Phase 4: candidates for every test question, ranked by a CLIP score (SASG, section 3.4, Algorithm 1)."""

from typing import Any

from PIL import Image

from ..select import load_scorer, select_rows
from ..training.tracked_data import TrackedData, describe_rows
from .context import Run
from .recipe import beam_settings, generating_arguments
from .validation import check_images


SAMPLING = {"do_sample": True, "num_beams": 1}  # with the recipe's temperature, top-p and top-k


def run_phase(run: Run) -> list[str]:
    """Writes ``clinkd/predictions.jsonl``; returns it, relative to ``output_dir``."""
    settings = run.settings
    arguments = generating_arguments(run.recipe, run.output_dir, over_training_rows=False)
    training, candidates = arguments.training, settings.sasg_candidates
    beams = settings.sasg_mode == "beam"
    out_path = run.folder / "predictions.jsonl"
    described: list[dict[str, Any]] = []
    data = TrackedData()
    scorer = load_scorer(settings.sasg_scorer, device=str(training.device)) if training.process_index == 0 else None

    def row_keys() -> list[str]:
        described.extend(describe_rows(data.aligned(is_eval=True)))
        check_images(described, required=settings.rope_variant != "mrope")
        return [row["key"] for row in described]

    def rank_candidates(answers: list[dict[str, Any]]) -> dict[str, float]:
        rows = select_rows(
            [row | _generated(answer) for row, answer in zip(described, answers, strict=True)],
            scorer,
            load_image,
            region=settings.sasg_region,
            out_path=out_path,
            progress=not training.disable_tqdm,
        )
        return {
            "not_first_beam": sum(
                bool(row["candidates"]) and row["candidates"][0]["text"] != row["response"] for row in rows
            )
        }

    run.generate(
        "predict",
        arguments,
        data,
        row_keys=row_keys,
        num_candidates=candidates,
        generation=beam_settings(arguments.generating, candidates) if beams else SAMPLING,
        title="candidates",
        when_done=rank_candidates,
    )
    return [run.relative(out_path)]


def load_image(row: dict[str, Any]) -> Image.Image:
    """The image file of a row, as RGB."""
    with Image.open(row["image"]) as image:
        return image.convert("RGB")


def _generated(answer: dict[str, Any]) -> dict[str, Any]:
    """What generation adds to a row: candidates, or why there are none."""
    return {key: answer[key] for key in ("candidates", "error") if key in answer}
