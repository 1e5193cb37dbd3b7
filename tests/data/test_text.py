# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import pytest

from llamafactory_clinkd.data.coordinates import Scale
from llamafactory_clinkd.data.problems import Reject
from llamafactory_clinkd.data.text import clean_text
from llamafactory_clinkd.utils.boxes import Box, parse_boxes


@pytest.mark.parametrize(
    ("source", "cleaned"),
    [
        ("no box at all (really).", "no box at all (really)."),
        ("<box>(12,30),(40,50)</box>", "<box>(12,30),(40,50)</box>"),
        ("a<box_start>(1,2),(3,4)<box_end>b", "a<box>(1,2),(3,4)</box>b"),
        ("<|box_start|>(1,2),(3,4)<|box_end|>", "<box>(1,2),(3,4)</box>"),
        ("<|object_ref_start|>liver<|object_ref_end|>", "<ref>liver</ref>"),
        ("<box>[1, 2, 3, 4]</box>", "<box>(1,2),(3,4)</box>"),
        ("<box>(1,2,3,4)</box>", "<box>(1,2),(3,4)</box>"),
        ("<box>(10.4,20.6),(30.5,40)</box>", "<box>(10,21),(30,40)</box>"),
        ("<box>10 20 30 40</box>", "<box>(10,20),(30,40)</box>"),
        ("<bbox>[[10, 20, 30, 40]]</bbox>", "<box>(10,20),(30,40)</box>"),
        ("[10, 20, 30, 40]", "<box>(10,20),(30,40)</box>"),
        ('[{"bbox_2d": [1, 2, 3, 4], "label": "left \\"hip\\""}]', '<ref>left "hip"</ref><box>(1,2),(3,4)</box>'),
        (
            'Two:\n```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "a"},\n {"label": "b", "bbox_2d": [5, 6, 7, 8]}]\n```',
            "Two:\n<ref>a</ref><box>(1,2),(3,4)</box><ref>b</ref><box>(5,6),(7,8)</box>",
        ),
        ("<box>(0,0),(1000,1000)</box>", "<box>(0,0),(999,999)</box>"),
        ("<box>(1,2),(3,4) (5,6),(7,8)</box>", "<box>(1,2),(3,4),(5,6),(7,8)</box>"),
        ("＜box＞（１，２），（３，４）＜/box＞", "<box>(1,2),(3,4)</box>"),
        ("from (12,20),(30,40) on", "from (12,20),(30,40) on"),
        ("of 3.5 mm (see above)", "of 3.5 mm (see above)"),
    ],
)
def test_texts(source, cleaned):
    assert clean_text(source) == cleaned
    assert clean_text(cleaned) == cleaned


FRACTIONS = Scale("fractions")


@pytest.mark.parametrize(
    ("source", "scale", "cleaned"),
    [
        ("<box>(0,0),(1,1)</box>", Scale(), "<box>(0,0),(1,1)</box>"),
        ("<box>(0,0),(1,1)</box>", FRACTIONS, "<box>(0,0),(999,999)</box>"),
        ("<box>(0.0,0.2),(1,3)</box>", Scale(), "<box>(0,0),(1,3)</box>"),
        ("<box>(0.1,0.2),(0.35,1.0)</box>", FRACTIONS, "<box>(100,200),(350,999)</box>"),
        ("from (0.1,0.2),(0.3,0.4) on", FRACTIONS, "from (100,200),(300,400) on"),
        ("[0.12, 0.30, 0.55, 0.71]", FRACTIONS, "<box>(120,300),(550,710)</box>"),
        ("<box>(38,5),(430,338)</box>", Scale("pixels", (622, 529)), "<box>(61,9),(691,639)</box>"),
        ("<box>(38,5),(622,529)</box>", Scale("pixels", (622, 529)), "<box>(61,9),(999,999)</box>"),
        ("<box>(100,200),(300,400)</box>", Scale(target=(560, 280)), "<box>(56,56),(168,112)</box>"),
        ("<box>(56,56),(168,112)</box>", Scale("resized", (560, 280)), "<box>(100,200),(300,400)</box>"),
        ("<box>(38,5),(430,338)</box>", Scale("pixels", (622, 529), (616, 532)), "<box>(38,5),(426,340)</box>"),
    ],
)
def test_units(source, scale, cleaned):
    assert clean_text(source, scale) == cleaned


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("a <ref>b", "tags_unbalanced"),
        ("a </box>", "tags_unbalanced"),
        ("<box>(1,2),(3,4)</ref>", "tags_unbalanced"),
        ("<box></box>", "bad_box"),
        ("<box>left</box>", "bad_box"),
        ("<box>(1,2)</box>", "bad_box"),
        ("<box>(1,2),(3,4) left</box>", "bad_box"),
        ("<box>(1,2),(3,1001)</box>", "box_outside"),
        ("<box>(-1,2),(3,4)</box>", "box_outside"),
        ("<box>(512,700),(1400,900)</box>", "box_outside"),
        ("<box>(5,2),(3,4)</box>", "box_order"),
        ("<box>(1,4),(3,2)</box>", "box_order"),
        ("<box>(1,2),(1,4)</box>", "box_empty"),
        ("<box>(0.5,0.2),(0.6,0.4)</box>", "box_scale"),
        ("<box>(1,2),(3,4),(5,6)</box>", "bad_box"),
        ("<box>(nan,2),(3,4)</box>", "bad_box"),
        ("<bbox>", "tags_unbalanced"),
        ("at (1,2),(3,1004)", "box_outside"),
        ("[300, 400, 100, 200]", "box_order"),
        ('{"bbox_2d": [100, 200, 1300, 400]}', "box_outside"),
        ('{"bbox_2d": [100, 200, 300, 400], "label": "a", "score": 1}', "bad_box"),
        ("stop <|im_end|> here", "control_token"),
        ("<VIDEO>", "control_token"),
        ("bad \ud800", "bad_text"),
    ],
)
def test_faults(source, reason):
    with pytest.raises(Reject) as caught:
        clean_text(source)
    assert caught.value.reason == reason


def test_fractions_agree_with_multiplying_by_hand():
    cleaned = clean_text("<box>(0.123,0.2345),(0.5,0.75)</box>", FRACTIONS)
    assert parse_boxes(cleaned) == [Box(123, 234, 500, 750)]
