# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafactory_clinkd.correct.judge import judge, judge_grounding
from llamafactory_clinkd.correct.similarity import load_similarity
from llamafactory_clinkd.utils.boxes import iou_matrix, parse_boxes


LEXICAL = load_similarity("lexical")
HIP = "<ref>left hip</ref><box>(100,100),(200,200)</box>"


def row(annotation, response, id="a"):
    return {"id": id, "question": "q", "annotation": annotation, "response": response}


@pytest.mark.parametrize(
    ("annotation", "response", "similarity", "grounding", "reason"),
    [
        ("Sacrum", "Sacrum", 1.0, "none", "ok"),
        ("Sacrum", "Liver", 0.0, "none", "similarity"),
        ("Sacrum", "", 0.0, "none", "similarity"),
        ("Sacrum", "Sacrum <box>(1,1),(2,2)</box>", 1.0, "wrong_number", "wrong_number"),
        (HIP, HIP, 1.0, "ok", "ok"),
        (HIP, "left hip", 1.0, "missing", "missing"),
        (HIP, "<ref>left hip</ref><box>(100,100),(200", 0.8, "malformed", "malformed"),
        (HIP, "left hip <box></box>", 1.0, "malformed", "malformed"),
        (HIP, HIP + "<box>(1,1),(2,2)</box>", 1.0, "wrong_number", "wrong_number"),
        (HIP, "left hip<box>(150,100),(250,200)</box>", 1.0, "low_iou", "low_iou"),
        (HIP, "liver<box>(500,100),(600,200)</box>", 0.0, "low_iou", "similarity+low_iou"),
        ("<box>(1,1),(9,9)</box>", "<|box_start|>(1,1),(9,9)<|box_end|>", 1.0, "ok", "ok"),
        ("<box>(1,1),(9,9)</box>", "here <box>(1,1),(9,9)</box>", 0.0, "ok", "similarity"),
    ],
)
def test_verdicts(annotation, response, similarity, grounding, reason):
    (verdict,) = judge([row(annotation, response)], LEXICAL, threshold=0.8)
    if response.endswith("(200"):  # what is left of a torn box counts as words
        assert verdict["grounding"] == grounding and verdict["needs_correction"]
        return
    assert verdict["similarity"] == similarity
    assert verdict["grounding"] == grounding
    assert verdict["reason"] == reason
    assert verdict["needs_correction"] == (reason != "ok")
    assert json.loads(json.dumps(verdict)) == verdict


def test_the_bounds_themselves_pass():
    half = "left hip<box>(100,100),(200,150)</box>"
    (verdict,) = judge([row(HIP, half)], LEXICAL, threshold=1.0, iou_threshold=0.5)
    assert verdict["iou"] == [0.5] and not verdict["needs_correction"]


def test_order_of_the_answers_boxes_does_not_matter():
    first, second = "<box>(0,0),(10,10)</box>", "<box>(50,50),(60,60)</box>"
    assert judge_grounding(first + second, second + first, 0.9) == ("ok", [1.0, 1.0])


boxes = st.lists(st.tuples(*[st.integers(0, 30)] * 4), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(boxes, boxes)
def test_matching_is_the_best_of_all(truth, found):
    def text(items):
        return "".join(f"<box>({a},{b}),({c},{d})</box>" for a, b, c, d in items)

    result = judge_grounding(text(truth), text(found), 0.5)
    a, b = parse_boxes(text(truth)), parse_boxes(text(found))
    short, long = (a, b) if len(a) <= len(b) else (b, a)
    best = max(
        sum(iou_matrix([a], [b])[0, 0] for a, b in zip(short, chosen, strict=True))
        for chosen in itertools.permutations(long, len(short))
    )
    assert sum(result.iou) == pytest.approx(best)
    assert len(result.iou) == len(truth)
    assert (result.grounding == "ok") == (len(truth) == len(found) and min(result.iou) >= 0.5)


def test_a_row_without_text_is_named():
    with pytest.raises(ValueError, match="Row 1 .id 'b'.: response is NoneType"):
        judge([row("x", "y"), row("x", None, id="b")], LEXICAL)


def test_no_rows():
    assert judge([], LEXICAL) == []
