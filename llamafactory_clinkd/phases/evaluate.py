# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Phase 5: the paper's four metrics of the predictions, beside the blind answers of the training rows."""

from typing import Any

from ..evaluate import (
    blind_scores,
    evaluate_predictions,
    metrics_table,
    tasks_without_blind,
    training_rows,
    with_kept_columns,
)
from ..evaluate.java import kept_meteor
from ..evaluate.scored_files import rows_named
from ..utils.console import bars_of_parts, console
from ..utils.io import read_jsonl, write_json
from .context import Run


def run_phase(run: Run) -> list[str]:
    """Writes ``clinkd/metrics.json`` on rank 0; returns it, relative to ``output_dir``."""
    predictions = run.folder / "predictions.jsonl"
    if not predictions.is_file():
        raise FileNotFoundError(f"{predictions} does not exist: run phase predict first (add it to `clinkd_phases`).")
    out_path = run.folder / "metrics.json"
    if run.ranks.rank == 0:
        with run.ranks.long_running("evaluation"):
            with bars_of_parts(None if run.recipe.training.disable_tqdm else console) as show:
                options = {"spice_jars": run.settings.spice_jars, "progress": show}
                metrics = _metrics(read_jsonl(predictions), run.recipe.data, options)
            write_json(out_path, metrics)
            console.print(metrics_table(metrics))
    return [run.relative(out_path)]


@kept_meteor()
def _metrics(rows: list[dict[str, Any]], data: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The metrics, with the columns of the test set and the blind answers of the training set as far as they are here.

    A note has the reason where they are not: groups and baselines are then missing, and the scores are the same.
    """
    notes = []
    try:
        rows = with_kept_columns(rows, local_rows(data, "eval_dataset"))
    except (ValueError, FileNotFoundError) as error:
        notes.append(f"Without answer types, organs and further ground truths of the test set: {error}.")
    metrics = evaluate_predictions(rows, **options)
    try:
        train_rows = local_rows(data, "dataset")
        metrics["baselines"] = blind_scores(train_rows, rows, **options)
        metrics["baselines_from"] = rows_named(train_rows, ", ".join(data.dataset))
        notes += tasks_without_blind(metrics, train_rows)
    except (ValueError, FileNotFoundError) as error:
        notes.append(f"No blind answers: {error}.")
    return metrics | {"notes": [*metrics["notes"], *notes]}


def local_rows(data: Any, key: str) -> list[Any]:
    """The rows of the recipe's ``dataset``, or of its ``eval_dataset`` where it has one.

    Raises:
        ValueError: If they are not in local files.
        FileNotFoundError: If a file is gone.
    """
    if not (names := getattr(data, key) or data.dataset) or not isinstance(data.dataset_dir, str):
        raise ValueError(f"the recipe has no `{key}` in a local `dataset_dir`")
    return training_rows(names, data.dataset_dir)
