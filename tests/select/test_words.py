# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest

from llamafactory_clinkd.select.words import pairs_of, referent
from llamafactory_clinkd.utils.boxes import Box


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("Where is the left kidney located in the image?", "left kidney"),
        (
            "Please find the <|object_ref_start|>right gluteus maximus<|object_ref_end|> in the image.",
            "right gluteus maximus",
        ),
        ("<image>Where is the <ref>optic  disc</ref>?", "optic disc"),
        ("Can you locate the liver in this CT?", "liver in this CT"),
        ("Give me the bounding box of the tumour.", "tumour"),
        ("Could you please point out the optic disc", "optic disc"),
        ("Please provide the coordinates of the lesion in the image.", "lesion"),
        ("Identify the region of the spleen with a bounding box.", "spleen"),
        ("Where are the lungs?", "lungs"),
        ("I want to see the location of the pancreas", "pancreas"),
        ("Tumour?", "Tumour"),
        ("Where is it?", "it"),
        ("Find!", "Find!"),
        ("", ""),
    ],
)
def test_what_a_question_asks_for(question, words):
    assert referent(question.replace("<image>", "")) == words


def test_the_comparisons_of_a_candidate():
    box, other = Box(1, 2, 3, 4), Box(5, 6, 7, 8)
    at, where = "What is at (5,6),(7,8)?", "Where is the liver?"
    assert pairs_of("A liver.", where, use_boxes=True) == [("A liver.", None)]
    assert pairs_of("A liver.", at, use_boxes=True) == [("A liver.", other)]
    assert pairs_of("A liver.", at, use_boxes=False) == [("A liver.", None)]
    assert pairs_of("(1,2),(3,4)", where, use_boxes=True) == [("liver", box)]
    assert pairs_of("(1,2),(3,4)", where, use_boxes=False) == [("", None)]
    assert pairs_of("spleen (1,2),(3,4)", where, use_boxes=True) == [("spleen", box)]
    two = "<ref>a</ref><box>(1,2),(3,4)</box><ref>b</ref><box>(5,6),(7,8)</box>"
    assert pairs_of(two, where, use_boxes=True) == [("a", box), ("b", other)]
    one = "<ref>a</ref><box>(1,2),(3,4)</box><box>(5,6),(7,8)</box>"
    assert pairs_of(one, where, use_boxes=True) == [("a", box), ("a", other)]
