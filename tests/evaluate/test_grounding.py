# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafactory_clinkd.evaluate.grounding import (
    grounding_counts,
    grounding_statistics,
    label_found,
    label_statistics,
    recall,
)
from llamafactory_clinkd.utils.boxes import format_box


TEN = "<box>(0,0),(10,10)</box>"


@pytest.mark.parametrize(
    ("annotation", "response", "counts"),
    [
        (TEN, "(0,0),(10,10)", (1, 1)),
        (TEN, "<|box_start|>(0,0),(10,6)<|box_end|>", (1, 1)),
        (TEN, "(0,0),(10,5)", (0, 1)),  # IoU exactly 0.5
        (TEN, "(10,0),(20,10)", (0, 1)),
        (TEN, "", (0, 1)),
        (TEN, "the liver", (0, 1)),
        (TEN + TEN, "(0,0),(10,10)", (2, 2)),  # one box finds two targets
        (TEN, "(0,0),(10,10) (0,0),(10,10)", (1, 1)),  # two boxes find a target once
        (TEN + "<box>(50,50),(60,60)</box>", "(50,50),(60,60)", (1, 2)),
        (TEN, "<box>(90,90),(99,99)</box> (0,0),(10,10)", (0, 1)),  # tagged boxes win over bare ones
        (TEN, "（0，0），（10，10）", (1, 1)),
        (TEN, "(10,10),(0,0)", (1, 1)),
        ("<box>(500,0),(999,100)</box>", "(500,0),(1500,100)", (0, 1)),  # overshoots: 499 of 1000
        ("<box>(5,5),(5,9)</box>", "(5,5),(5,9)", (0, 1)),  # no area
    ],
)
def test_grounding_by_hand(annotation, response, counts):
    assert grounding_counts(annotation, response) == counts


corner = st.integers(0, 30)
boxes = st.lists(st.tuples(corner, corner, corner, corner), min_size=1, max_size=4)


@given(boxes, boxes)
def test_grounding_equals_the_definition(targets, predicted):
    def area(box):
        return abs(box[2] - box[0]) * abs(box[3] - box[1])

    def matches(a, b):
        width = min(max(a[0], a[2]), max(b[0], b[2])) - max(min(a[0], a[2]), min(b[0], b[2]))
        height = min(max(a[1], a[3]), max(b[1], b[3])) - max(min(a[1], a[3]), min(b[1], b[3]))
        shared = max(width, 0) * max(height, 0)
        return 2 * shared > area(a) + area(b) - shared

    expected = sum(any(matches(target, box) for box in predicted) for target in targets)
    annotation = " ".join(format_box(box, "qwen_vl") for box in targets)
    response = " ".join(format_box(box) for box in predicted)
    assert grounding_counts(annotation, response) == (expected, len(targets))


@pytest.mark.parametrize(
    ("annotation", "response", "found"),
    [
        ("Left Hip", "the hip on the LEFT", True),
        ("Left Hip", "the hip", False),
        ("hip", "ship", True),  # substrings count, as in the released code
        ("Sacrum", "<ref>sacrum</ref><box>(1,2),(3,4)</box>", True),
        ("<ref>Sacrum</ref>", "sacrum", True),
        ("Sacrum", "", False),
        ("left  lung", "left lung", True),
    ],
)
def test_label_by_hand(annotation, response, found):
    assert label_found(annotation, response) is found


def test_statistics_and_recall():
    rows = [{"annotation": TEN, "response": "(0,0),(10,10)"}, {"annotation": TEN + TEN, "response": ""}]
    assert recall(grounding_statistics(rows).sum(axis=0)) == pytest.approx(1 / 3)
    rows = [{"annotation": "a", "response": "a"}, {"annotation": "a", "response": "b"}]
    assert recall(label_statistics(rows).sum(axis=0)) == 0.5
