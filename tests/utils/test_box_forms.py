# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest

from llamafactory_clinkd.utils.box_forms import unit_mismatch, unread_numbers, unread_summary


@pytest.mark.parametrize(
    "text",
    [
        "<|box_start|>(1,2),(3,4),(5,6)<|box_end|>",
        "<box>(nan,1),(2,3)</box>",
        "<quad>1,2,3,4</quad>",
        "<loc0123><loc0456><loc0789><loc0999> liver",
        "{<10><20><30><40>}",
        "(1,2),(3,4),(5,6)",
        "at [300,400,100,200] there",
        "100, 200, 300, 400",
        '{"box_2d": [100, 200, 300, 400]}',
        '{"point_2d": [10, 20]}',
        "x1: 10, y1: 20, x2: 30, y2: 40",
        "segments (1, 2, 3, 4)",
        "(nan, 1, 2, 3)",
    ],
)
def test_numbers_in_no_known_form_are_found(text):
    found = unread_numbers(f"The liver. {text}")
    assert found and found in text


@pytest.mark.parametrize(
    "text",
    [
        "<box>(1,2),(3,4)</box> and 12 mm",
        "<box>(1,2),(3,4)</box> (5,6),(7,8)",
        "[100, 200, 300, 400]",
        '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "1, 2"}]\n```',
        "3.5 cm, 1,000 ml, 120/80 (2 x 3), L1, L2, L3, L4",
        "T2 hyperintense at (1, 2); see [3], [4]",
        "",
    ],
)
def test_what_is_read_or_no_box_is_not_found(text):
    assert unread_numbers(text) == ""


def test_unread_answers_are_counted():
    answers = ["[100, 200, 300, 400]", "x1: 10, y1: 20", "no box", "<loc0123><loc0456>"]
    assert unread_summary(answers) == "2 of 4 answers hold numbers in a form that is not read: 'x1: 10, y1: 20'"
    assert unread_summary(answers[:1]) is None


@pytest.mark.parametrize(
    ("truth", "answer", "words"),
    [
        (
            "(100,200),(300,400)",
            "[0.1, 0.2, 0.3, 0.4]",
            "look like fractions, the ground truth like",
        ),
        ("(100,200),(300,400)", '{"bbox_2d": [100, 200, 1300, 400]}', "look like pixels"),
        ("(100,200),(300,400)", "[100, 200, 300, 401]", None),
        ("[0.1, 0.2, 0.3, 0.4]", "(0.1,0.2),(0.3,0.5)", None),
        ("(100,200),(300,400)", "no box", None),
    ],
)
def test_answers_in_another_unit_are_reported(truth, answer, words):
    found = unit_mismatch([truth] * 3, [answer] * 3)
    assert (words in found) if words else found is None
