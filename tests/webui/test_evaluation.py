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

from llamafactory_clinkd.evaluate import evaluate_predictions
from llamafactory_clinkd.webui.evaluation import metrics_markdown


def test_table_has_a_row_for_each_modality_present():
    rows = [
        {"question": "What anatomical structure is present at the <box>(1,1),(9,9)</box>?", "annotation": "Hip",
         "response": answer, "task": "ROC", "modality": modality}
        for answer, modality in [("Hip", "ct"), ("Sacrum", "ct"), ("the hip", "mr")]
    ]  # fmt: skip
    table = metrics_markdown(evaluate_predictions(rows), "en").splitlines()
    assert table[0].startswith("| modality | ROC (`")
    assert table[2:6] == ["| ct | 50.00 |", "| mr | 100.00 |", "| **mean** | **75.00** |", "| rows | 3 |"]
    assert "Average of the tasks: 75.00 %" in table


def test_scores_that_are_absent_are_a_dash():
    metrics = {"tasks": {"RC": {"metric": "spice", "macro": None, "n": 2, "modalities": {"ct": {"value": None}}}}}
    table = metrics_markdown(metrics | {"average": None}, "ko")
    assert "| ct | – |" in table and "| **평균** | **–** |" in table
