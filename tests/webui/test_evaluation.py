# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

from llamafactory_clinkd.evaluate import evaluate_predictions
from llamafactory_clinkd.webui.eval_tab import metrics_markdown


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
