# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafactory_clinkd.utils.boxes import (
    Box,
    box_strings,
    convert_tags,
    format_box,
    has_box,
    iou_matrix,
    modality_of,
    parse_boxes,
    strip_boxes,
    tags_balanced,
    task_of,
)


def iou(a, b):
    return float(iou_matrix([a], [b])[0, 0])


QWEN2 = "<|object_ref_start|>left hip<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|>"
QWEN = "<ref>left hip</ref><box>(1,2),(3,4)</box>"

# text, the boxes that it holds, their strings
PARSED = {
    "qwen2-vl": (QWEN2, [(1, 2, 3, 4)], ["(1,2),(3,4)"]),
    "qwen-vl": (QWEN, [(1, 2, 3, 4)], ["(1,2),(3,4)"]),
    "no tags": ("at (1,2),(3,4).", [(1, 2, 3, 4)], ["(1,2),(3,4)"]),
    "two tagged": ("<box>(1,2),(3,4)</box> <box>(5,6),(7,8)</box>", [(1, 2, 3, 4), (5, 6, 7, 8)], None),
    "two in one tag": ("<box>(1,2),(3,4),(5,6),(7,8)</box>", [(1, 2, 3, 4), (5, 6, 7, 8)], None),
    "tagged beside bare: only the tagged": ("<box>(1,2),(3,4)</box> (5,6),(7,8)", [(1, 2, 3, 4)], None),
    "floats": ("<box>(0.5439, 0.0557), (0.7109, .25)</box>", [(0.5439, 0.0557, 0.7109, 0.25)], None),
    "blanks kept in the string": ("< ( 1, 2 ) , ( 3, 4 )", [(1, 2, 3, 4)], ["( 1, 2 ) , ( 3, 4 )"]),
    "no comma between": ("(1,2)(3,4)", [(1, 2, 3, 4)], ["(1,2)(3,4)"]),
    "over several lines": ("<box>\n(1,2),\n(3,4)\n</box>", [(1, 2, 3, 4)], ["(1,2),\n(3,4)"]),
    "four in one bracket, tagged": ("<box>(1,2,3,4)</box>", [(1, 2, 3, 4)], ["(1,2,3,4)"]),
    "four in one bracket, bare": ("(1,2,3,4)", [(1, 2, 3, 4)], None),
    "four in one bracket, in a text": ("It is at [100, 200, 300, 400].", [(100, 200, 300, 400)], None),
    "four fractions": ("[0.12, 0.30, 0.55, 0.71]", [(0.12, 0.30, 0.55, 0.71)], None),
    "a list of numbers": ("segments (1, 2, 3, 4)", [], []),
    "bbox_2d": ('[{"bbox_2d": [1, 2, 3, 4], "label": "liver"}]', [(1, 2, 3, 4)], None),
    "bbox_2d, two in a fence": (
        '```json\n[\n{"bbox_2d": [1, 2, 3, 4], "label": "a"},\n{"bbox_2d": [5, 6, 7, 8]}\n]\n```',
        [(1, 2, 3, 4), (5, 6, 7, 8)],
        None,
    ),
    "bbox_2d, cut off": ('[{"bbox_2d": [1, 2, 3, 4], "lab', [(1, 2, 3, 4)], None),
    "box_2d, in another order": ('[{"box_2d": [1, 2, 30, 40], "label": "liver"}]', [], []),
    "blanks between tags": ("<box>1 2 3 4</box>", [(1, 2, 3, 4)], None),
    "double brackets between tags": ("<ref>a</ref><box>[[1, 2, 3, 4]]</box>", [(1, 2, 3, 4)], None),
    "bbox tags": ("<bbox>1,2,3,4</bbox>", [(1, 2, 3, 4)], None),
    "the authors' tags": ("<box_start>(1,2),(3,4)<box_end>", [(1, 2, 3, 4)], None),
    "three pairs, tagged": ("<|box_start|>(1,2),(3,4),(5,6)<|box_end|>", [], []),
    "three pairs, bare": ("(1,2),(3,4),(5,6)", [], []),
    "citations": ("as in [1,2],[3,4] and [5, 6],[7, 8],[9, 10]", [], []),
    "not a number": ("<box>(nan,2),(3,4)</box>", [], []),
    "reversed corners": ("<box>(3,4),(1,2)</box>", [(1, 2, 3, 4)], ["(3,4),(1,2)"]),
    "one axis reversed": ("<box>(3,2),(1,4)</box>", [(1, 2, 3, 4)], ["(3,2),(1,4)"]),
    "over 1000": ("<box>(900,900),(1200,1100)</box>", [(900, 900, 1200, 1100)], None),
    "negative": ("<box>(-5,0),(10,10)</box>", [(-5, 0, 10, 10)], None),
    "degenerate": ("<box>(5,5),(5,9)</box>", [(5, 5, 5, 9)], None),
    "doubled tags": ("<box><box>(1,2),(3,4)</box></box>", [(1, 2, 3, 4)], ["(1,2),(3,4)"]),
    "closing tag missing": ("<box>(1,2),(3,4)", [(1, 2, 3, 4)], None),
    "opening tag missing": ("(1,2),(3,4)</box>", [(1, 2, 3, 4)], None),
    "closing tag of the first missing": ("<box>(1,2),(3,4)<box>(5,6),(7,8)</box>", [(1, 2, 3, 4), (5, 6, 7, 8)], None),
    "last one torn": ("<box>(1,2),(3,4)</box><box>(5,6),(7,8)", [(1, 2, 3, 4)], None),
    "cut coordinates": ("<|box_start|>(1,2),(3", [], []),
    "styles mixed": ("<box>(1,2),(3,4)<|box_end|>", [(1, 2, 3, 4)], None),
    "tags of another case": ("<BOX>(1,2),(3,4)</Box>", [(1, 2, 3, 4)], None),
    "tagged words, bare box": ("<box>liver</box> (1,2),(3,4)", [(1, 2, 3, 4)], None),
    "empty tag": ("<box></box>", [], []),
    "full-width brackets": ("<box>（1，2），（3，4）</box>", [(1, 2, 3, 4)], ["（1，2），（3，4）"]),
    "full-width, bare": ("位于（1，2），（3，4）。", [(1, 2, 3, 4)], ["（1，2），（3，4）"]),
    "full-width digits and tags": (
        "＜box＞（１，２），（３，４）＜／box＞",
        [(1, 2, 3, 4)],
        ["（１，２），（３，４）"],
    ),
    "a point": ("(1,2)", [], []),
    "a number too long": (f"(1,2),(3,{'9' * 400})", [], []),
    "words": ("The liver (left lobe), (seen twice).", [], []),
    "empty": ("", [], []),
}


@pytest.mark.parametrize("name", PARSED)
def test_parse(name):
    text, boxes, strings = PARSED[name]
    assert parse_boxes(text) == [Box(*box) for box in boxes]
    assert has_box(text) == bool(boxes)
    assert len(box_strings(text)) == len(boxes)
    assert all(string in text for string in box_strings(text))
    if strings is not None:
        assert box_strings(text) == strings


# first box, second box, IoU as worked out by hand
OVERLAPS = {
    "same": ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
    "apart": ((0, 0, 10, 10), (20, 20, 30, 30), 0.0),
    "touching along an edge": ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),
    "touching at a corner": ((0, 0, 10, 10), (10, 10, 20, 20), 0.0),
    "nested": ((0, 0, 10, 10), (0, 0, 5, 10), 0.5),
    "nested in the middle": ((0, 0, 10, 10), (4, 4, 6, 6), 0.04),
    "half over": ((0, 0, 10, 10), (5, 0, 15, 10), 50 / 150),
    "degenerate with itself": ((5, 5, 5, 9), (5, 5, 5, 9), 0.0),
    "a point with itself": ((5, 5, 5, 5), (5, 5, 5, 5), 0.0),
    "degenerate inside another": ((5, 5, 5, 9), (0, 0, 10, 10), 0.0),
    "reversed corners": ((10, 10, 0, 0), (0, 0, 10, 10), 1.0),
    "one axis reversed": ((10, 0, 0, 10), (0, 0, 10, 5), 0.5),
    "floats": ((0.0, 0.0, 0.5, 0.5), (0.25, 0.0, 0.75, 0.5), 1 / 3),
    "over 1000, not clipped": ((500, 0, 1500, 100), (500, 0, 1000, 100), 0.5),
    "negative": ((-10, 0, 10, 10), (0, 0, 10, 10), 0.5),
}


@pytest.mark.parametrize("name", OVERLAPS)
def test_iou(name):
    first, second, expected = OVERLAPS[name]
    assert iou(first, second) == pytest.approx(expected, abs=1e-12)
    assert iou(second, first) == iou(first, second)


coordinate = st.integers(0, 40)
boxes = st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), max_size=5)


@given(boxes, boxes)
def test_iou_matrix_counts_unit_cells(first, second):
    """On integer corners, IoU is a count of unit cells: an independent reading of the definition."""

    def cells(box):
        (x1, x2), (y1, y2) = sorted((box[0], box[2])), sorted((box[1], box[3]))
        return {(x, y) for x in range(x1, x2) for y in range(y1, y2)}

    expected = np.zeros((len(first), len(second)))
    for i, a in enumerate(map(cells, first)):
        for j, b in enumerate(map(cells, second)):
            expected[i, j] = len(a & b) / len(a | b) if a | b else 0
    np.testing.assert_allclose(iou_matrix(first, second), expected, atol=1e-12)


def test_iou_matrix_of_nothing_keeps_its_shape():
    assert iou_matrix([], [(0, 0, 1, 1)]).shape == (0, 1)
    assert iou_matrix([(0, 0, 1, 1)], []).shape == (1, 0)


@given(st.tuples(*[st.integers(0, 999)] * 4), st.sampled_from(["qwen2_vl", "qwen_vl"]))
def test_format_and_parse_are_inverse(values, tags):
    x1, y1, x2, y2 = values
    box = Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    text = format_box(values, tags)
    assert parse_boxes(text) == [box]
    assert tags_balanced(text)


def test_format_box_writes_integers_below_1000():
    assert format_box(Box(0.4, 1.6, 1000, 999.7)) == "<|box_start|>(0,2),(999,999)<|box_end|>"
    assert format_box((3, 4, 1, 2), "qwen_vl") == "<box>(1,2),(3,4)</box>"


@pytest.mark.parametrize("box", [(0, 0, 1001, 5), (-1, 0, 5, 5), (0, math.nan, 5, 5), (0, 0, math.inf, 5)])
def test_format_box_refuses_what_is_outside(box):
    with pytest.raises(ValueError, match="within"):
        format_box(box)


def test_unknown_style_is_an_error_that_lists_the_styles():
    with pytest.raises(ValueError, match="qwen2_vl, qwen_vl"):
        convert_tags(QWEN, "yolo")
    with pytest.raises(ValueError, match="qwen2_vl, qwen_vl"):
        format_box((0, 0, 1, 1), "yolo")


def test_convert_tags():
    assert convert_tags(QWEN, "qwen2_vl") == QWEN2
    assert convert_tags(QWEN2, "qwen_vl") == QWEN
    assert convert_tags(QWEN2, "qwen2_vl") == QWEN2
    assert convert_tags("no tags (1,2),(3,4)", "qwen_vl") == "no tags (1,2),(3,4)"
    assert convert_tags("＜box＞（1，2），（3，4）＜/box＞", "qwen_vl") == "<box>（1，2），（3，4）</box>"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (QWEN2, "left hip"),
        (QWEN, "left hip"),
        ("The <ref>liver</ref><box>(1,2),(3,4)</box> , at the  left.", "The liver, at the left."),
        ("A <box>(1,2),(3,4)</box>, <box>(5,6),(7,8)</box>, and more", "A, and more"),
        ("liver (1,2),(3,4)", "liver"),
        ("<box>(1,2),(3,4)</box> and (5,6),(7,8) too", "and too"),
        ("<box>(1,2),(3", "(1,2),(3"),
        ("<box>liver</box>", "liver"),
        ('```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "liver"}, {"bbox_2d": [5, 6, 7, 8]}]\n```', "liver"),
        ("no box", "no box"),
        ("", ""),
    ],
)
def test_strip_boxes(text, words):
    assert strip_boxes(text) == words


@pytest.mark.parametrize(
    ("text", "balanced"),
    [
        (QWEN2, True),
        (QWEN, True),
        ("no tags", True),
        ("<box>(1,2),(3,4)", False),
        ("(1,2),(3,4)</box>", False),
        ("<box><box>(1,2),(3,4)</box></box>", False),
        ("<box>(1,2),(3,4)<|box_end|>", False),
        ("<ref>liver<box>(1,2),(3,4)</box></ref>", False),
        ("<ref>liver</box>", False),
    ],
)
def test_tags_balanced(text, balanced):
    assert tags_balanced(text) is balanced


BOXED = "<box>(1,2),(3,4)</box>"


@pytest.mark.parametrize(
    ("question", "answer", "task"),
    [
        ("Where is the left hip located in the image?", QWEN, "VG"),
        ("Where is the left hip?", "At (1,2),(3,4)", "VG"),
        (f"What anatomical structure is present at the {BOXED}?", "Sacrum", "ROC"),
        (f"What is at {BOXED}?", "<ref>upper lobe of left lung</ref>", "ROC"),
        (f"Can you describe the content within the {BOXED}?", "Sacrum", "ROC"),
        (f"Can you describe the content within the {BOXED}?", "A small tumour of the liver", "RC"),
        (f"What is at {BOXED}?", "There is a tumour here", "RC"),
        (f"Tell me about {BOXED}.", "The liver with a large, round, bright tumour at its left.", "RC"),
        (f"What is at {BOXED}?", f"The left hip is at {BOXED}", "RC"),
        ("What can you interpret from the overall image?", "A CT of the abdomen.", "MIA"),
    ],
)
def test_task_of(question, answer, task):
    assert task_of(question, answer) == task


@pytest.mark.parametrize(
    ("image", "modality"),
    [
        ("ct_12.png", "ct"),
        ("folder_x/MR_1_2.png", "mr"),
        ("C:\\scans\\pet_1.png", "pet"),
        ("x_1.png", "x"),
        ("fundus.png", "fundus"),
        ("", ""),
    ],
)
def test_modality_of(image, modality):
    assert modality_of(image) == modality
