# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Phase 5: the paper's four metrics of the predictions."""

import contextlib

from ..evaluate import evaluate_predictions, metrics_table, progress_bar
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
                metrics = evaluate_predictions(rows, spice_jars=run.settings.spice_jars, progress=progress)
            write_json(out_path, metrics)
            console.print(metrics_table(metrics))
    return [run.relative(out_path)]
