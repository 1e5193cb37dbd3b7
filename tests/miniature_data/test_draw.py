# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from miniature.demo.corpora import SHARES
from miniature.demo.draw import GRID, MIN_AREA, SPLITS, ask_about, draw, split_of

from llamafactory_clinkd.utils.boxes import modality_of, parse_boxes, task_of


TASKS = ("VG", "ROC", "RC", "MIA")


@pytest.fixture(scope="module")
def shown(toy_source):
    return {split: [draw(toy_source, SHARES, 0, split, number) for number in range(60)] for split in SPLITS}


@pytest.fixture(scope="module")
def asked(shown):
    """(picture, turn) for each task and each training picture."""
    rng = np.random.default_rng(0)
    return [(picture, item) for picture in shown["train"] for item in ask_about(picture, rng, TASKS)]


def test_the_same_picture_comes_out_the_same_and_another_seed_does_not(toy_source):
    first, again, other = (draw(toy_source, SHARES, seed, "train", 5) for seed in (0, 0, 1))
    assert first.facts == again.facts and first.findings == again.findings
    assert first.picture.tobytes() == again.picture.tobytes()
    assert first.picture.tobytes() != other.picture.tobytes()


def test_each_box_is_the_bounding_box_of_what_the_picture_shows_to_the_grid(shown):
    edges = {min(round(1000 * edge / GRID), 999) for edge in range(GRID + 1)}
    for picture in shown["train"] + shown["test"]:
        assert len(picture.findings) >= 3
        for label, finding in picture.findings.items():
            ys, xs = np.nonzero(picture.labels == label)
            exact = [xs.min() / 112, ys.min() / 112, (xs.max() + 1) / 112, (ys.max() + 1) / 112]
            np.testing.assert_allclose(np.array(finding.box) / 1000, exact, atol=0.5 / GRID + 2e-3)
            assert set(finding.box) <= edges and finding.area == len(ys) / 112**2 >= MIN_AREA
            assert finding.name == picture.volume.names[label]
            # The toy's structures differ in brightness: picture and labels are seen through the same view.
            assert np.median(picture.picture[ys, xs]) == pytest.approx(255 * (label / 5 + 0.05), abs=12)


def test_boxes_are_inside_and_not_empty(asked):
    boxes = [box for _, item in asked for box in parse_boxes(" ".join(item["turn"]))]
    assert len(boxes) == 3 * 60
    assert all(0 <= box.x1 < box.x2 < 1000 and 0 <= box.y1 < box.y2 < 1000 for box in boxes)


def test_task_and_modality_are_those_that_the_project_reads_off(asked):
    for picture, item in asked:
        assert task_of(*item["turn"]) == item["task"]
        assert modality_of(picture.id + ".png") == picture.facts["modality"]
    assert {item["task"] for _, item in asked} == set(TASKS)
    assert {picture.facts["modality"] for picture, _ in asked} == {"mr", "ct"}


@pytest.mark.parametrize("key", ["brain_mr", "body_ct", "body_mr"])
def test_splits_are_apart_by_a_gap(key):
    splits = [split_of(key, index) for index in range(240)]
    assert {"train", "test"} <= set(splits)
    neighbours = {frozenset(pair) for pair in zip(splits, splits[1:], strict=False)}
    assert frozenset(("train", "test")) not in neighbours


def test_training_and_test_pictures_share_no_slice_and_pretraining_uses_training_slices(shown):
    used = {
        split: {(picture.facts["scan"], picture.facts["plane"], picture.facts["slice"]) for picture in made}
        for split, made in shown.items()
    }
    assert not used["test"] & (used["train"] | used["pretrain"])
    for scan, plane, index in used["test"]:
        assert not {(scan, plane, index + step) for step in (-1, 1)} & (used["train"] | used["pretrain"])


def test_captions_state_what_the_picture_shows(asked):
    captions = [(picture, item) for picture, item in asked if item["task"] == "RC"]
    for picture, item in captions:
        answer = item["turn"][1]
        assert item["structure"] in answer and f"{picture.facts['plane']} {picture.volume.title}" in answer
        if ", next to the " in answer:
            neighbour = answer.split(", next to the ")[1].rstrip(".")
            assert neighbour in set(picture.volume.names.values()) - {item["structure"]}
    assert sum(", next to the " in item["turn"][1] for _, item in captions) > 30


def test_a_structure_is_asked_about_once_until_all_have_been(shown):
    for picture in shown["train"]:
        names = [finding.name for finding in picture.findings.values()]
        turns = ask_about(picture, np.random.default_rng(1), ["VG"] * (len(names) + 1))
        structures = [item["structure"] for item in turns]
        assert sorted(structures[:-1]) == sorted(names) and structures[-1] == structures[0]


def test_classes_number_the_names_of_all_volumes_and_a_shared_name_is_one(toy_source):
    # Sorted: left back, left front, other, right back, right front.
    assert {key: table.tolist() for key, table in toy_source.tables.items()} == {
        "brain_mr": [0, 1, 4, 2, 5],
        "body_ct": [0, 1, 4, 2, 3],
        "body_mr": [0, 1, 4, 2, 5],
    }
