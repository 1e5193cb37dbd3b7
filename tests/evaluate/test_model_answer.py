# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest

from llamafactory_clinkd.evaluate import evaluate_predictions, read_rows
from llamafactory_clinkd.evaluate.model_answer import read_answer


BOX = "<box>(100,100),(300,300)</box>"


def row(response, **more):
    return {"image": "ct_1.png", "question": "Where?", "annotation": BOX, "response": response, "task": "VG", **more}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>no mass? </think>yes", "yes"),
        ("<think>\na\n</think>\n\nThe liver.", "The liver."),
        ("I see a mass.</think>yes", "yes"),  # the opening tag was in the prompt
        ("<think>one</think>a<think>two</think>b", "ab"),
        ("<thinking>x</thinking><answer>yes</answer>", "yes"),
        ("[THINK]x[/THINK]yes", "yes"),
        ("◁think▷x◁/think▷yes", "yes"),
        ("<think>x</think><answer> B </answer> trailing", "B"),
        ("<answer>no</answer>", "no"),
        ("<think>it goes on and on", ""),
        ("yes<think>or no", "yes"),
        ("I think so", "I think so"),
        ("1 < 2 and <b>bold</b>", "1 < 2 and <b>bold</b>"),
    ],
)
def test_reasoning_is_stripped(text, answer):
    assert read_answer({}, text).text == answer


@pytest.mark.parametrize(
    ("text", "is_cut"),
    [
        ("<box>(100,100),(300,300)</box>", False),
        ("<box>(100,100),(300,300)", True),
        ("<|box_start|>(100,100),(3", True),
        ("(100,100),(300", True),
        ("(100,100),", True),
        ("(100,100),(300,300)", False),
        ("<ref>liver</ref><box>(1,2),(3,4)</box><ref>sple", True),
        ("<think>so", True),
        ("The lesion (3.5 cm) is round.", False),
        ("The liver", False),
    ],
)
def test_cut_off_answers(text, is_cut):
    assert ("truncated" in read_answer({}, text).kinds) is is_cut


@pytest.mark.parametrize("field", [{"finish_reason": "length"}, {"truncated": True}])
def test_a_row_that_says_it_was_cut_off(field):
    assert "truncated" in read_answer(field, "The liver").kinds
    assert "truncated" not in read_answer({"finish_reason": "stop", "truncated": False}, "The liver").kinds


def test_answers_without_an_end_token_among_those_with_one_are_truncated():
    texts = ["a<|im_end|>", "b<|im_end|>", "c<|im_end|>", "d"]
    rows = [{"annotation": "a", "question": "What?", "response": text, "task": "ROC"} for text in texts]
    assert read_rows(rows).answers["truncated"] == 1
    assert read_rows(rows[:1] + rows[3:] * 2).answers["truncated"] == 0  # one text of three has it by chance


def test_what_could_not_be_read_is_counted_and_listed():
    rows = [
        row(BOX),
        row("I cannot see it."),
        row("<think>where?</think>" + BOX),
        row("<think>where?"),
        row("<box>(100,100),(300,3"),
        row({"box": [1, 2]}),
        row(None),
        row(""),
    ]
    metrics = evaluate_predictions(rows, resamples=0)
    assert metrics["answers"] == {"not_text": 2, "empty": 2, "without_box": 6, "truncated": 2, "with_reasoning": 2}
    assert [problem["row"] for problem in metrics["problems"]] == [2, 4, 5, 6, 7, 8]
    reasons = [problem["reason"] for problem in metrics["problems"]]
    assert "no readable box: 'I cannot see it.'" in reasons[0] and "outside its reasoning" in reasons[1]
    assert metrics["tasks"]["VG"]["macro"] == 2 / 8


@pytest.mark.parametrize(
    "form", ["[100,100,300,300]", "(100,100,300,300)", "<box>100 100 300 300</box>", "box at 100-300"]
)
def test_a_box_in_another_form_is_read_or_counted(form):
    metrics = evaluate_predictions([row(form)], resamples=0)
    assert metrics["tasks"]["VG"]["macro"] == 1 or metrics["answers"]["without_box"] == 1 == len(metrics["problems"])
