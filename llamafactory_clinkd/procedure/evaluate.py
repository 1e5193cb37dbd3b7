# Copyright 2026 the llamafactory-clinkd team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Phase 5: the paper's four metrics of the predictions."""

import contextlib

from rich.console import Console

from ..evaluate import evaluate_predictions, metrics_table, progress_bar
from ..run_state import read_jsonl, write_json
from .run import Run


def run_phase(run: Run) -> list[str]:
    """Writes ``clinkd/metrics.json`` on rank 0; returns it, relative to ``output_dir``."""
    predictions = run.folder / "predictions.jsonl"
    if not predictions.is_file():
        raise FileNotFoundError(f"{predictions} does not exist: run phase predict first (add it to `clinkd_phases`).")
    out_path = run.folder / "metrics.json"
    if run.ranks.rank == 0:
        with run.ranks.working("evaluation"):
            shown = contextlib.nullcontext() if run.recipe.training.disable_tqdm else progress_bar()
            with shown as progress:
                metrics = evaluate_predictions(
                    read_jsonl(predictions), spice_jars=run.settings.spice_jars, progress=progress
                )
            write_json(out_path, metrics)
            Console().print(metrics_table(metrics))
    return [run.relative(out_path)]
