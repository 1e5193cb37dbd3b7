# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Phase 5: the paper's four metrics of the predictions, beside the blind answers of the training rows."""

import contextlib
from typing import Any

from ..evaluate import evaluate_predictions, metrics_table, progress_bar, training_rows, with_baselines
from ..utils.console import console
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
            show = contextlib.nullcontext() if run.recipe.training.disable_tqdm else progress_bar()
            with show as progress:
                rows = read_jsonl(predictions)
                options = {"spice_jars": run.settings.spice_jars, "progress": progress}
                metrics = _with_blind_answers(evaluate_predictions(rows, **options), rows, run.recipe.data, options)
            write_json(out_path, metrics)
            console.print(metrics_table(metrics))
    return [run.relative(out_path)]


def _with_blind_answers(
    metrics: dict[str, Any], rows: list[dict[str, Any]], data: Any, options: dict[str, Any]
) -> dict[str, Any]:
    """The metrics with the blind answers as ``baselines``, or with a note why there are none."""
    try:
        if not data.dataset or not isinstance(data.dataset_dir, str):
            raise ValueError("the recipe has no `dataset` in a local `dataset_dir`")
        train = training_rows(data.dataset, data.dataset_dir)
        return with_baselines(metrics, train, rows, **options)
    except (ValueError, FileNotFoundError) as error:
        return metrics | {"notes": [*metrics["notes"], f"No blind answers: {error}."]}
