# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from miniature.render import View, oriented_slice, render, slice_spacing
from miniature.rows import FILL, MIN_AREA, SPLITS, make_row, split_of
from miniature.volumes import PLANES

from llamafactory_clinkd.utils.boxes import modality_of, parse_boxes, task_of


@pytest.fixture(scope="module")
def rows(real_scans):
    return {split: [make_row(real_scans, 0, split, number) for number in range(80)] for split in SPLITS}


def test_the_same_row_comes_out_the_same_and_another_seed_does_not(toy_scans):
    first, again, other = (make_row(toy_scans, seed, "train", 5, turns=3) for seed in (0, 0, 1))
    assert first.turns == again.turns and first.facts == again.facts
    assert first.picture.tobytes() == again.picture.tobytes()
    assert first.picture.tobytes() != other.picture.tobytes()


def test_each_box_is_the_bounding_box_of_the_mask_seen_through_the_rows_view(real_scans, rows):
    volumes, checked = {volume.key: volume for volume in real_scans.volumes}, 0
    for row in rows["train"] + rows["test"]:
        if "box" not in row.facts:
            continue
        volume, axis = volumes[row.facts["scan"]], PLANES.index(row.facts["plane"])
        labels = oriented_slice(volume.labels, axis, row.facts["slice"])
        spacing = slice_spacing(volume.spacing, axis)
        side = FILL * max(labels.shape[0] * spacing[0], labels.shape[1] * spacing[1])
        # Another way to the same box: the view is applied to the one structure's mask alone.
        mask = render((labels == row.facts["label"]).astype(int), View(*row.facts["view"]), side, spacing, order=0)
        ys, xs = np.nonzero(mask)
        expected = [xs.min() / 112, ys.min() / 112, (xs.max() + 1) / 112, (ys.max() + 1) / 112]
        assert row.facts["box"] == [min(round(1000 * float(value)), 999) for value in expected]
        text = " ".join(row.turns[0])
        assert [list(map(int, box)) for box in parse_boxes(text)] == [row.facts["box"]]
        assert len(ys) / 112**2 >= MIN_AREA
        checked += 1
    assert checked > 80


def test_boxes_are_inside_and_not_empty(rows):
    boxes = [
        box for split in rows.values() for row in split for turn in row.turns for box in parse_boxes(" ".join(turn))
    ]
    assert len(boxes) > 150
    assert all(0 <= box.x1 < box.x2 < 1000 and 0 <= box.y1 < box.y2 < 1000 for box in boxes)


def test_task_and_modality_are_those_that_the_project_reads_off(rows):
    for row in (row for split in rows.values() for row in split):
        assert task_of(*row.turns[0]) == row.facts["task"]
        assert modality_of(row.id + ".png") == row.facts["modality"]


def test_every_task_and_modality_of_the_wheels_occurs(rows):
    assert {row.facts["task"] for row in rows["test"]} == {"VG", "ROC", "RC", "MIA"}
    assert {row.facts["modality"] for row in rows["train"]} == {"mr", "x", "ultrasound", "fundus"}


@pytest.mark.parametrize("count", [15, 20, 48, 112, 233])
def test_splits_are_apart_by_a_gap(count):
    splits = [split_of(index, count) for index in range(count)]
    assert {"train", "test"} <= set(splits)
    neighbours = {frozenset(pair) for pair in zip(splits, splits[1:], strict=False)}
    assert frozenset(("train", "test")) not in neighbours


def test_training_and_test_rows_share_no_slice_and_pretraining_uses_training_slices(real_scans, rows):
    used = {
        split: {(row.facts["scan"], row.facts["plane"], row.facts["slice"]) for row in made if "slice" in row.facts}
        for split, made in rows.items()
    }
    assert used["train"] and used["test"] and used["pretrain"]
    assert not used["test"] & (used["train"] | used["pretrain"])
    for scan, plane, index in used["test"]:
        assert not {(scan, plane, index + step) for step in (-1, 1)} & (used["train"] | used["pretrain"])


def test_parts_of_a_picture_do_not_meet(real_scans):
    for picture in real_scans.pictures:
        train, test = (picture.part(split).shape[picture.cut_axis] for split in ("train", "test"))
        assert train + test < 0.96 * picture.image.shape[picture.cut_axis]


def test_captions_state_what_the_picture_shows(real_scans, rows):
    names = {volume.key: set(volume.names.values()) for volume in real_scans.volumes}
    captions = [row for row in rows["train"] if row.facts["task"] == "RC"]
    assert len(captions) > 5
    for row in captions:
        answer = row.turns[0][1]
        assert row.facts["structure"] in answer and row.facts["plane"] in answer
        if ", next to the " in answer:
            neighbour = answer.split(", next to the ")[1].rstrip(".")
            assert neighbour in names[row.facts["scan"]] - {row.facts["structure"]}


def test_several_turns_ask_about_one_picture_and_a_structure_once(toy_scans):
    made = [make_row(toy_scans, 0, "pretrain", number, turns=4) for number in range(12)]
    turns = [row.turns for row in made if row.facts["modality"] == "mr"]
    assert {len(asked) for asked in turns} == {1, 2}  # the toy has two structures, and a view shows one or both
    for asked in turns:
        boxes = [answer for _, answer in asked if answer.startswith("<|box_start|>")]
        assert len(boxes) == len(set(boxes))


def test_classes_number_the_structures_of_all_volumes(toy_scans):
    assert toy_scans.classes == {("brain_mr", 3): 1, ("brain_mr", 7): 2}
    classes = toy_scans.classes_of("brain_mr", np.array([[0, 3], [7, 7]]))
    assert classes.tolist() == [[0, 1], [2, 2]] and classes.dtype == np.int16
