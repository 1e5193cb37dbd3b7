# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Phase 4: candidates for every test question, ranked by a CLIP score (SASG, section 3.4, Algorithm 1)."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..evaluate import with_kept_columns
from ..select import load_scorer, select_rows
from ..training.tracked_data import TrackedData
from ..utils.pixels import read_pixels
from ..utils.row_index import ComputedRows
from .context import Run
from .evaluate import local_rows
from .recipe import beam_settings, generating_arguments


SAMPLING = {"do_sample": True, "num_beams": 1}  # with the recipe's temperature, top-p and top-k


def run_phase(run: Run) -> list[str]:
    """Writes ``clinkd/predictions.jsonl``; returns it, relative to ``output_dir``."""
    settings = run.settings
    arguments = generating_arguments(run.recipe, run.output_dir, over_training_rows=False)
    training, candidates = arguments.training, settings.sasg_candidates
    beams = settings.sasg_mode == "beam"
    out_path = run.folder / "predictions.jsonl"
    scorer = load_scorer(settings.sasg_scorer, device=str(training.device)) if training.process_index == 0 else None

    def rank_candidates(rows: Sequence[dict[str, Any]], answers: Sequence[dict[str, Any]]) -> dict[str, float]:
        ranked = select_rows(
            ComputedRows(_with_candidates, _with_kept_columns(rows, run.recipe.data), answers),
            scorer,
            load_image,
            region=settings.sasg_region,
            out_path=out_path,
            progress=not training.disable_tqdm,
        )
        changed = (row["candidates"][0]["text"] != row["response"] for row in ranked if row["candidates"])
        return {"not_first_beam": sum(changed)}

    run.generate(
        "predict",
        arguments,
        TrackedData(),
        check_rows=run.require_images,
        num_candidates=candidates,
        generation=beam_settings(arguments.generating, candidates) if beams else SAMPLING,
        title="candidates",
        finish=rank_candidates,
    )
    return [run.relative(out_path)]


def _with_kept_columns(rows: Sequence[dict[str, Any]], data: Any) -> Sequence[dict[str, Any]]:
    """The rows with the test set's own columns, such as the answer type; phase evaluate notes where there are none."""
    try:
        return with_kept_columns(rows, local_rows(data, "eval_dataset"))
    except (ValueError, FileNotFoundError):  # not in local files of `messages`
        return rows


def _with_candidates(row: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    return row | {key: answer[key] for key in ("candidates", "error") if key in answer}


def load_image(row: dict[str, Any]) -> Image.Image:
    """The image file of a row, as the model gets it."""
    return read_pixels(row["image"])
