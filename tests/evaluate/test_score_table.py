# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Tables of the terminal in 80 columns: nothing of a head or a value is cut off."""

import re

import pytest
from rich.console import Console

from llamafactory_clinkd.evaluate import comparison_table, evaluate_predictions, metrics_table
from llamafactory_clinkd.evaluate.compare import compare_predictions


GOOD, BAD = "<box>(100,100),(300,300)</box>", "<box>(600,600),(900,900)</box>"
LONG = "abnormality_of_the_vessel_wall"


def make_row(number, task, texts, truth, **more):
    candidates = [{"text": text, "score": 0.1, "rank": 1} for text in texts]
    asked = {"VG": "Where is it?", "MIA": "What is seen?", "VQA": "Which organ?"}.get(task, f"What is {GOOD}?")
    return {
        "image": f"ct_{number:04d}.png", "task": task, "question": asked, "annotation": truth,
        "response": texts[number % 2], "candidates": candidates, **more,
    }  # fmt: skip


ROWS = [
    row
    for number in range(12)
    for row in (
        make_row(number, "VG", [GOOD, BAD], GOOD),
        make_row(number, "ROC", ["liver", "spleen"], "Liver"),
        make_row(number, "RC", ["a dark liver", "a small spleen"], "a dark liver"),
        make_row(number, "VQA", ["left lung", "heart"], "lung", content_type=LONG, organ="chest"),
        make_row(number, "VQA", ["yes", "no"], "yes", content_type="PRES", organ="head"),
    )
]


def printed(table):
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    return text


@pytest.fixture(scope="module")
def metrics():
    return evaluate_predictions(ROWS, parser="rules", resamples=100)


def test_scores_below_the_blind_answers_and_what_selection_of_vqa_is_have_a_line(metrics):
    blind = {"blind_VQA": {"macro": 0.9, "task": "VQA"}, "blind_ROC": {"macro": 0.1, "task": "ROC"}}
    text = " ".join(printed(metrics_table(metrics | {"baselines": blind})).split())
    assert "Below the blind answers, which use no image: VQA 50.00 < 90.00." in text
    assert "VQA: closed accuracy and open recall together" in text
    assert "Below" not in printed(metrics_table(metrics))


def test_scores_selection_and_groups_of_vqa_are_whole(metrics):
    text = printed(metrics_table(metrics))
    words = re.split(r"[\s│┃]+", text)
    heads = "SPICE-approx accuracy recall exact right selection first random chosen best distinct texts mean IoU"
    assert [word for word in heads.split() if word not in words] == []
    cells = "".join(line[1:].partition("│")[0].strip() for line in text.splitlines())  # of the first column
    assert f"contenttype{LONG}" in cells.replace(" ", "")
    for task in ("VG", "ROC", "RC", "VQA"):
        assert f"{100 * metrics['selection'][task]['best']['value']:.2f}" in words


def test_a_comparison_names_both_files_below(metrics):
    others = [row | {"response": row["candidates"][0]["text"]} for row in ROWS]
    comparison = compare_predictions(ROWS, others, parser="rules", resamples=100)[0]
    names = ("saves/qwen2_vl-2b/a_long_name_of_a_run/clinkd/predictions.jsonl", "base/clinkd/predictions.jsonl")
    text = printed(comparison_table(comparison, names))
    assert f"A: {names[0]}" in text and f"B: {names[1]}" in text and "A - B" in text
    assert "(SPICE-approx" in text and "(recall@0.5)" in text
    assert "p of all" in " ".join(text.split()) and "interval" in text
