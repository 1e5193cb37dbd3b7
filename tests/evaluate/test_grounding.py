# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import itertools
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafactory_clinkd.evaluate.grounding import (
    grounding_counts,
    grounding_scores,
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
    assert grounding_scores(grounding_statistics(rows).sum(axis=0))["value"] == pytest.approx(1 / 3)
    rows = [{"annotation": "a", "response": "a"}, {"annotation": "a", "response": "b"}]
    assert recall(label_statistics(rows).sum(axis=0)) == 0.5


def iou(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    shared = width * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def largest_assignment(targets, boxes):
    """The pairs of the one-to-one assignment of the largest total IoU, by trying every one."""
    short, long = sorted((targets, boxes), key=len)
    options = ([*zip(short, chosen, strict=True)] for chosen in itertools.permutations(long, len(short)))
    return max(options, key=lambda pairs: sum(iou(*pair) for pair in pairs))


def drawn(rng):
    x, y = rng.randrange(400), rng.randrange(400)
    return x, y, x + rng.randrange(50, 400), y + rng.randrange(50, 400)


def test_grounding_scores_equal_an_independent_script():
    rng = random.Random(2)
    data = [
        ([drawn(rng) for _ in range(rng.randint(1, 3))], [drawn(rng) for _ in range(rng.randint(0, 5))])
        for _ in range(150)
    ]
    for targets, boxes in data[::2]:  # half of the answers are near
        boxes[: len(targets)] = [tuple(value + rng.randint(-20, 20) for value in box) for box in targets]
    true = pairs = printed = 0
    best, centres, recalled, found_any = [], [], [], 0
    for targets, boxes in data:
        true, printed = true + len(targets), printed + len(boxes)
        pairs += sum(iou(*pair) > 0.5 for pair in largest_assignment(targets, boxes))
        first = boxes[: len(targets)]
        best += [max((iou(target, box) for box in first), default=0) for target in targets]
        found_any += sum(any(iou(target, box) > 0.5 for box in boxes) for target in targets)
        for x1, y1, x2, y2 in targets:
            centres.append(any(x1 <= (a + c) / 2 <= x2 and y1 <= (b + d) / 2 <= y2 for a, b, c, d in first))
    precision, recalled = pairs / printed, pairs / true
    rows = [
        {"annotation": "".join(format_box(box, "qwen_vl") for box in targets),
         "response": "".join(f"<box>({a},{b}),({c},{d})</box>" for a, b, c, d in boxes)}
        for targets, boxes in data
    ]  # fmt: skip
    scores = grounding_scores(grounding_statistics(rows).sum(axis=0))
    expected = {
        "value": found_any / true,
        "precision": precision,
        "f1": 2 * precision * recalled / (precision + recalled),
        "mean_iou": np.mean(best),
        "centre_accuracy": np.mean(centres),
        "boxes_per_answer": printed / len(data),
        **{f"recall@{t / 10}": np.mean([value > t / 10 for value in best]) for t in range(1, 10)},
    }
    assert {name: float(scores[name]) for name in expected} == pytest.approx(expected, abs=1e-9)


def test_fifty_boxes_are_not_rewarded():
    rng = random.Random(0)
    targets = [drawn(rng) for _ in range(60)]
    one = [[drawn(rng)] for _ in targets]
    fifty = [[*boxes, *(drawn(rng) for _ in range(49))] for boxes in one]
    of_one, of_fifty = (
        grounding_scores(
            grounding_statistics(
                [
                    {"annotation": format_box(target), "response": "".join(map(format_box, boxes))}
                    for target, boxes in zip(targets, answers, strict=True)
                ]
            ).sum(axis=0)
        )
        for answers in (one, fifty)
    )
    for name in ("mean_iou", "centre_accuracy", *(f"recall@{t / 10}" for t in range(1, 10))):
        assert of_fifty[name] == of_one[name], name
    assert of_fifty["precision"] < 0.1 and of_fifty["f1"] < 0.1
    assert (of_one["boxes_per_answer"], of_fifty["boxes_per_answer"]) == (1, 50)
    assert of_fifty["value"] > of_one["value"]  # the paper's Recall@0.5 alone, beside which the others are shown


def test_all_references_count():
    boxes = ["<box>(0,0),(10,10)</box>", "<box>(50,50),(60,60)</box>"]
    row = {"annotation": boxes[0], "annotations": boxes, "response": boxes[1]}
    assert grounding_statistics([row])[0, :2].tolist() == [1, 2]
    row = {"annotation": "hip", "annotations": ["hip", "pelvis"], "response": "the pelvis"}
    assert label_statistics([row]).tolist() == [[1, 1]]


def test_label_recall_equals_an_independent_script():
    rng, words = random.Random(5), "Left right hip Sacrum lung upper liver".split()
    labels = [" ".join(rng.sample(words, rng.randint(1, 3))) for _ in range(400)]
    answers = [label.upper() if rng.random() < 0.4 else "the " + " ".join(rng.sample(words, 3)) for label in labels]
    right = sum(
        set(label.lower().split()) <= set(answer.lower().split())
        for label, answer in zip(labels, answers, strict=True)
    )
    rows = [{"annotation": label, "response": answer} for label, answer in zip(labels, answers, strict=True)]
    assert recall(label_statistics(rows).sum(axis=0)) == pytest.approx(right / 400, abs=1e-9)
    assert 160 < right < 400
