# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Examples: what is drawn, the metric's verdict on an answer, and which rows are chosen."""

from collections import Counter

import pytest
from PIL import Image

from llamafactory_clinkd.report.examples import make_examples, outlines
from llamafactory_clinkd.report.excerpts import added_words, image_label, sample_rows, segments
from llamafactory_clinkd.report.load import RunData
from llamafactory_clinkd.report.provenance import UNITS, provenance
from llamafactory_clinkd.report.scores import Score, baselines
from llamafactory_clinkd.utils.boxes import Box


ROW = {"id": "1", "image": "", "question": "Where is the liver?", "task": "VG", "modality": "ct", "candidates": [],
       "scorer": None, "error": None, "annotation": "(10,10),(30,30)", "response": "(10,10),(30,30)"}  # fmt: skip


def answers(tmp_path, *rows):
    run = RunData(tmp_path, "run", predictions=[{**ROW, **row} for row in rows])
    return [example.answers[0] for example in make_examples([run], rows[0].get("task", "VG"), 9, 0)]


@pytest.mark.parametrize(
    ("annotation", "response", "verdict", "right"),
    [
        ("(0,0),(100,100)", "(0,0),(100,60)", "IoU 0.60", True),
        ("(0,0),(100,100)", "(0,0),(100,50)", "IoU 0.50", False),
        ("(0,0),(100,100)", "here", "no box", False),
        ("(0,0),(9,9) (20,20),(30,30)", "(0,0),(9,9)", "1 of 2 found, IoU 1.00, 0.00", False),
    ],
)
def test_grounding_verdict(tmp_path, annotation, response, verdict, right):
    answer = answers(tmp_path, {"annotation": annotation, "response": response})[0]
    assert (answer.verdict, answer.right) == (verdict, right)


def test_label_and_caption_verdicts(tmp_path):
    label = {
        "task": "ROC",
        "question": "What is at (1,2),(3,4)?",
        "annotation": "Left Hip",
        "response": "left hip bone",
    }
    assert answers(tmp_path, label)[0].right is True
    assert answers(tmp_path, {**label, "response": "hip"})[0].right is False
    assert answers(tmp_path, {**label, "task": "MIA"})[0].right is None


def test_candidates_are_in_the_order_of_their_rank(tmp_path):
    candidates = [
        {"text": "b", "score": 1.0, "rank": 2},
        {"text": "a", "score": None, "rank": 3},
        {"text": "c", "rank": 1},
    ]
    found = answers(tmp_path, {"candidates": candidates})[0].candidates
    assert [(c.rank, c.segments[0].text, c.score) for c in found] == [(1, "c", None), (2, "b", 1.0), (3, "a", None)]


def test_degenerate_and_overshooting_boxes_are_drawn_as_they_stand():
    (flat,) = outlines("predicted", "box", [Box(10, 20, 10, 1200)])
    assert flat.path == "M10 20H10V1200H10Z"
    assert flat.title == "box (10,20),(10,1200)"


def box_of(run, tmp_path, annotation, size=(700, 350)):
    Image.new("L", size).save(tmp_path / "scan.png")
    run.predictions = [{**ROW, "image": str(tmp_path / "scan.png"), "annotation": annotation}]
    (example,) = make_examples([run], "VG", 9, 0)
    return next(outline for outline in example.outlines if outline.kind == "true")


def test_boxes_are_drawn_by_the_unit_of_the_data(tmp_path):
    entry = {"data_entries": {"test": {"clinkd_boxes": "resized"}}, "image_max_pixels": 350 * 175}
    run = RunData(tmp_path, "run", phases={"predict": {"inputs": entry}})
    found = box_of(run, tmp_path, "(0,0),(168,84)")  # of 336 x 168 pixels, multiples of 28
    assert found.path == "M0 0H500V500H0Z" and found.title == "true box (0,0),(168,84)"
    assert ("Boxes", UNITS["resized"]) in provenance(run)
    assert box_of(RunData(tmp_path, "run"), tmp_path, "(0,0),(168,84)").path == "M0 0H168V84H0Z"
    assert box_of(RunData(tmp_path, "run"), tmp_path, "(0.1,0.2),(0.5,0.75)").path == "M100 200H500V750H100Z"
    unrecorded = RunData(tmp_path, "run")
    assert box_of(unrecorded, tmp_path, "(0,0),(1064,532)", (2240, 1120)).path.startswith("M0 0H974.3")  # of 1092
    assert unrecorded.box_unit == "resized"


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("clinkd_png/a.dcm--series-0f--patient-9e--w40_400--z_0012.png", "a.dcm, slice 12 along z"),
        ("knee.nii.gz--x_middle.png", "knee.nii.gz, middle slice along x"),
        ("images/ct_001.png", "ct_001.png"),
        ("", ""),
    ],
)
def test_slices_are_named(name, label):
    assert image_label(name) == label


def test_runs_are_compared_on_questions_that_all_answered(tmp_path):
    rows = [{**ROW, "id": str(number)} for number in range(5)]
    runs = [
        RunData(tmp_path, "a", predictions=rows),
        RunData(tmp_path, "b", predictions=rows[3:]),
        RunData(tmp_path, "c"),
    ]
    examples = make_examples(runs, "VG", 9, 0)
    assert len(examples) == 2
    assert [(answer.run, answer.name) for answer in examples[0].answers] == [(0, "a"), (1, "b")]


def test_sample_gives_each_group_its_turn_and_does_not_depend_on_order():
    rows = [{"id": number, "modality": "ct" if number % 10 else "mr"} for number in range(100)]
    found = sample_rows(rows, 6, group=lambda row: row["modality"], seed=1)
    assert Counter(row["modality"] for row in found) == {"ct": 3, "mr": 3}
    assert sample_rows(rows[::-1], 6, group=lambda row: row["modality"], seed=1) == found
    assert sample_rows(rows, 6, group=lambda row: row["modality"], seed=2) != found
    assert sample_rows([], 6, group=str, seed=1) == []
    assert len(sample_rows(rows, 500, group=lambda row: row["modality"], seed=1)) == 100


def test_tags_become_segments_in_either_style():
    expected = [("text", "The "), ("ref", "liver"), ("text", " at "), ("box", "(1,2),(3,4)"), ("text", ".")]
    assert segments("The <ref>liver</ref> at <box>(1,2),(3,4)</box>.") == expected
    own = "The <|object_ref_start|>liver<|object_ref_end|> at <|box_start|>(1,2),(3,4)<|box_end|>."
    assert segments(own) == expected


def test_what_is_not_text_and_long_text_are_described():
    assert segments(None) == [("cut", "no text")]
    assert segments("  ") == [("cut", "empty")]
    assert segments(["a"]) == [("cut", "not text: list")]
    assert segments("x" * 3000)[-1] == ("cut", "1,800 more characters")


def test_added_words_are_marked():
    found = added_words("The liver is normal.", "Here the liver is quite normal.")
    assert "".join(part.text for part in found) == "Here the liver is quite normal."
    assert [part.text for part in found if part.kind == "added"] == ["Here the", "quite"]


def test_difference_needs_both_sides():
    assert Score(60.0, paper=67.5).difference == -7.5
    assert Score(None, paper=67.5).difference is None and Score(60.0).difference is None


def test_baselines_of_every_form_are_read(tmp_path):
    part = {"macro": 0.1, "n": 4, "modalities": {"ct": {"value": 0.2, "ci": None, "n": 4}}}
    metrics = {"tasks": {}, "baselines": {"mean_box": part, "wrapped": {"VG": part}, "bare": 0.3, "none": None}}
    found = baselines(RunData(tmp_path, "run", metrics=metrics))
    assert [(name, task, score.value) for name, task, score, _ in found] == [
        ("mean box", "VG", 10.0), ("wrapped", "VG", 10.0), ("bare", "VG", 30.0)
    ]  # fmt: skip
    assert found[0][3]["ct"].value == 20.0
