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

"""Phase 5: the paper's four metrics of the predictions, and the report."""

from ..evaluate import evaluate_predictions, metrics_table
from ..run_state import read_jsonl, write_json
from .run import Run


def run_phase(run: Run) -> list[str]:
    """Writes ``clinkd/metrics.json`` and ``clinkd/report.html`` on rank 0.

    Returns them, relative to ``output_dir``.
    """
    from rich.console import Console

    from ..report import build_report

    predictions = run.folder / "predictions.jsonl"
    if not predictions.is_file():
        raise FileNotFoundError(f"{predictions} does not exist: run phase predict first (add it to `clinkd_phases`).")
    outputs = [run.folder / "metrics.json", run.folder / "report.html"]
    if run.recipe.training.process_index == 0:
        metrics = evaluate_predictions(read_jsonl(predictions))
        write_json(outputs[0], metrics)
        Console().print(metrics_table(metrics))
        build_report([run.output_dir], outputs[1])
    return [run.relative(path) for path in outputs]
