# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""First, random, chosen and best candidates against counts made by hand."""

import itertools

import numpy as np
import pytest
from rich.console import Console

from llamafactory_clinkd.evaluate import evaluate_predictions, metrics_table
from llamafactory_clinkd.utils.boxes import iou_matrix, parse_boxes


GOOD, NEAR, BAD = (
    "<box>(100,100),(300,300)</box>",
    "<box>(100,100),(300,290)</box>",
    "<box>(600,600),(900,900)</box>",
)


def make_row(number, texts, chosen, task="VG", truth=GOOD):
    question = "Where is it?" if task == "VG" else f"What is {GOOD}?"
    return {
        "image": f"ct_{number}.png", "task": task, "question": question, "annotation": truth,
        "response": texts[chosen], "candidates": [{"text": text, "score": 0.1, "rank": 1} for text in texts],
    }  # fmt: skip


ROWS = [
    make_row(0, [GOOD, BAD, BAD], 0), make_row(1, [BAD, GOOD, NEAR], 1),
    make_row(2, [BAD, BAD, GOOD], 1), make_row(3, [BAD, BAD, BAD], 2),
    make_row(4, ["liver", "spleen"], 1, "ROC", "Liver"),
    make_row(5, ["spleen", "liver"], 1, "ROC", "Liver"),
]  # fmt: skip
ROWS += [row | {"image": f"second_{row['image']}"} for row in ROWS]


def test_the_four_choices_and_how_different_the_candidates_are():
    metrics = evaluate_predictions([*ROWS, make_row(6, [GOOD], 0)])
    found = metrics["selection"]["VG"]
    values = {name: found[name]["value"] for name in ("first", "random", "chosen", "best")}
    assert values == pytest.approx(
        {"first": 1 / 4, "random": (1 / 3 + 2 / 3 + 1 / 3 + 0) / 4, "chosen": 2 / 4, "best": 3 / 4}
    )
    assert found["n"] == 8 and found["candidates"] == 3 and found["distinct_texts"] == (2 + 3 + 2 + 1) / 4
    pairs = [
        np.mean([iou_matrix(parse_boxes(a), parse_boxes(b))[0, 0] for a, b in itertools.combinations(texts, 2)])
        for texts in ([each["text"] for each in row["candidates"]] for row in ROWS[:4])
    ]
    assert found["pairwise_iou"] == pytest.approx(np.mean(pairs))
    assert found["gain"]["value"] == pytest.approx(1 / 4) and found["gain"]["ci"][0] <= 0 < found["gain"]["ci"][1]
    labels = metrics["selection"]["ROC"]
    assert (labels["first"]["value"], labels["chosen"]["value"], labels["best"]["value"]) == (0.5, 0.5, 1)
    assert labels["pairwise_iou"] is None


def test_the_chosen_one_has_the_score_and_interval_of_the_evaluation():
    metrics = evaluate_predictions(ROWS)
    for task in ("VG", "ROC"):
        assert metrics["selection"][task]["chosen"] == {
            "value": metrics["tasks"][task]["macro"],
            "ci": metrics["tasks"][task]["ci"],
        }


def test_rows_without_several_candidates_have_no_selection():
    assert "selection" not in evaluate_predictions([make_row(0, [GOOD], 0), make_row(1, [BAD], 0)])
    assert "selection" not in evaluate_predictions(ROWS, protocol="released")


def test_the_table_has_a_line_for_each_task():
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(metrics_table(evaluate_predictions(ROWS)))
    text = console.export_text()
    assert "best of n" in text and "75.00" in text and "of 3.0" in text
