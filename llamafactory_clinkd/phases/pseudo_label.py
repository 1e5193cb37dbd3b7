# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Phase 1: the teacher answers a seeded random subset of the training questions by beam search (section 4.1, 4.3)."""

import importlib.util
import logging
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..evaluate import blind_scores, evaluate_predictions
from ..evaluate.java import kept_meteor
from ..rope.saved_positions import bind_settings, teacher_settings
from ..training.tracked_data import TrackedData, seeded_subset
from ..utils.boxes import has_box
from ..utils.io import JsonlRows, iter_jsonl, write_json, write_jsonl
from .context import Run
from .recipe import beam_settings, generating_arguments, teacher_model_arguments


logger = logging.getLogger(__name__)

PSEUDO_LABEL_BEAMS = 3
SCORED_ROWS = 2000
UNREADABLE = 0.2
WRONG_TEACHER = "Distilling it teaches this. Check `ref_model`, `template` and the teacher's image processor."


def run_phase(run: Run) -> list[str]:
    """Writes ``clinkd/pseudo_labels.jsonl`` and the teacher's scores; returns both, relative to ``output_dir``."""
    arguments = generating_arguments(run.recipe, run.folder / "pseudo_label", over_training_rows=True)
    teacher = teacher_model_arguments(arguments)
    finetuning = type(arguments.finetuning)()  # as in stock's `create_ref_model`: adapters are loaded, nothing else
    settings = teacher_settings(teacher, run.settings)
    data = TrackedData(choose_eval=lambda rows: run.choose_subset(_training_split(run, rows)))
    out_path = run.folder / "pseudo_labels.jsonl"
    run.generate(
        "pseudo_label",
        arguments._replace(model=teacher, finetuning=finetuning),
        data,
        after_load=lambda model: bind_settings(model, settings),
        num_candidates=1,
        generation=beam_settings(run.recipe.generating, PSEUDO_LABEL_BEAMS),
        title="teacher's pseudo-labels",
        finish=partial(write_pseudo_labels, out_path),
    )
    scores_path = run.folder / "teacher_scores.json"
    if run.ranks.rank == 0:
        with run.ranks.long_running("the teacher's scores"):
            scores = teacher_scores(JsonlRows(out_path), seed=run.recipe.training.seed)
            write_json(scores_path, scores)
            for line in describe_scores(scores):
                logger.info(line)
            for warning in scores["warnings"]:
                logger.warning(warning)
    run.ranks.wait("the teacher's scores")
    return [run.relative(out_path), run.relative(scores_path)]


@kept_meteor()
def teacher_scores(labels: Sequence[dict[str, Any]], *, seed: int) -> dict[str, Any]:
    """The pseudo-labels' scores against the ground truth, beside those of an answer that uses no image.

    Args:
        labels: The rows of ``pseudo_labels.jsonl``; a random subset of at most :data:`SCORED_ROWS` is scored.
        seed: Of the subset.

    Returns:
        ``{"tasks", "blind", "rows", "warnings"}``: entries as in ``metrics.json`` by task, how many rows were scored,
        and a sentence for each sign of a wrong teacher, template or image processor.
    """
    chosen = [labels[index] for index in seeded_subset(len(labels), SCORED_ROWS, seed, "teacher_scores")]
    if importlib.util.find_spec("pycocoevalcap") is None:  # captions cannot be scored without it
        chosen = [row for row in chosen if row["task"] != "MIA"]
    rows = [{**row, "response": row["pseudo_label"] or ""} for row in chosen]
    tasks = evaluate_predictions(rows, resamples=200, parser="rules")["tasks"] if rows else {}
    answered_blindly = blind_scores(rows, rows, resamples=0, parser="rules") if rows else {}
    blind = {entry["task"]: entry for entry in answered_blindly.values()}
    warnings = []
    for task, entry in blind.items():
        score, without_image = tasks.get(task, {}).get("macro"), entry["macro"]
        if score is not None and without_image is not None and score <= without_image:
            warnings.append(
                f"The teacher scores {100 * score:.1f} on {task}, an answer that uses no image "
                f"{100 * without_image:.1f}. {WRONG_TEACHER}"
            )
    without = [not has_box(row["response"]) for row in rows if row["task"] == "VG"]
    if without and sum(without) > UNREADABLE * len(without):
        warnings.append(f"{sum(without)} of {len(without)} pseudo-labels of VG have no readable box. {WRONG_TEACHER}")
    failed = sum(row["pseudo_label"] is None for row in labels)
    if failed:
        warnings.append(f"{failed} of {len(labels)} rows have no pseudo-label; the reason is in their `error`.")
    return {"tasks": tasks, "blind": blind, "rows": len(rows), "warnings": warnings}


def describe_scores(scores: dict[str, Any]) -> list[str]:
    """A line for each task."""
    return [
        f"Teacher on {entry['n']} {task} rows: {entry['metric']} {100 * entry['macro']:.1f} (without the image: "
        f"{100 * scores['blind'][task]['macro']:.1f})."
        for task, entry in scores["tasks"].items()
        if entry["macro"] is not None and scores["blind"].get(task, {}).get("macro") is not None
    ]


def _training_split(run: Run, rows: Any) -> Any:
    """The rows that stock trains on: all but those that ``val_size`` holds out."""
    data = run.recipe.data
    if data.val_size < 1e-6 or data.eval_dataset:
        return rows
    from llamafactory.data.data_utils import split_dataset

    train, _ = split_dataset(rows, None, data, seed=run.recipe.training.seed)
    return train["train"]


def write_pseudo_labels(
    path: Path, described: Iterable[dict[str, Any]], answers: Iterable[dict[str, Any]]
) -> dict[str, float]:
    """Writes each row with its answer from :func:`llamafactory_clinkd.generation.generate_rows`; counts the labels."""
    labelled = 0

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal labelled
        for row, answer in zip(described, answers, strict=True):
            best = answer["candidates"][0] if answer["candidates"] else {"text": None, "logprob": None}
            labelled += best["text"] is not None
            yield {**row, "pseudo_label": best["text"], "logprob": best["logprob"], "error": answer.get("error")}

    write_jsonl(path, rows())
    return {"labelled": labelled}


def read_pseudo_labels(path: Path) -> dict[str, str | None]:
    """``key -> pseudo-label``, None where the teacher had no answer. FileNotFoundError if the phase did not run."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: run phase pseudo_label first (add it to `clinkd_phases`).")
    return {row["key"]: row["pseudo_label"] for row in iter_jsonl(path)}
