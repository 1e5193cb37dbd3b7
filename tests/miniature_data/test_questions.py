# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from miniature.questions import (
    QUESTIONS,
    Finding,
    analysis,
    box_text,
    caption,
    classification,
    grounding,
    neighbour_of,
    place,
    size_word,
)

from llamafactory_clinkd.utils.boxes import Box, parse_boxes, tags_balanced, task_of


FINDING = Finding("left kidney", (12, 345, 99, 999), 0.03, "spleen")


def test_a_padded_box_reads_as_the_same_integers():
    assert box_text((7, 80, 900, 999)) == "<|box_start|>(007,080),(900,999)<|box_end|>"
    assert parse_boxes(box_text((7, 80, 900, 999))) == [Box(7, 80, 900, 999)]


@pytest.mark.parametrize("seed", range(8))
def test_every_question_is_of_its_task(seed):
    rng = np.random.default_rng(seed)
    turns = {
        "VG": grounding(rng, FINDING),
        "ROC": classification(rng, FINDING),
        "RC": caption(rng, FINDING, "axial", "abdominal CT"),
        "MIA": analysis(rng, "axial abdominal CT", ["liver"]),
    }
    for task, (question, answer) in turns.items():
        assert task_of(question, answer) == task
        assert tags_balanced(question) and tags_balanced(answer)


def test_answers_word_for_word():
    rng = np.random.default_rng(0)
    assert classification(rng, FINDING)[1] == "Left kidney"
    assert caption(rng, FINDING, "axial", "abdominal CT")[1] == (
        "The region shows the left kidney in an axial abdominal CT. It is medium and lies in the lower left of the "
        "image, next to the spleen."
    )
    assert analysis(rng, "frontal chest X-ray", ["ribs", "lungs"])[1] == (
        "This is a frontal chest X-ray. It shows the ribs and the lungs."
    )
    assert analysis(rng, "axial CT", ["a", "b", "c"])[1] == "This is an axial CT. It shows the a, the b and the c."


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((0, 0, 100, 100), "upper left"),
        ((400, 400, 600, 600), "centre"),
        ((900, 400, 999, 600), "middle right"),
        ((400, 900, 600, 999), "lower middle"),
    ],
)
def test_place(box, words):
    assert place(box) == words


def test_size_words():
    assert [size_word(area) for area in (0.019, 0.02, 0.059, 0.06)] == ["small", "medium", "medium", "large"]


def test_the_neighbour_is_the_label_with_most_pixels_within_two():
    labels = np.zeros((9, 9), dtype=np.int16)
    labels[4, 4] = 1
    labels[4, 6] = 2  # two pixels away
    labels[3, 4:6] = 5  # touching, more pixels
    labels[8, 8] = 9  # too far
    assert neighbour_of(labels, 1) == 5
    assert neighbour_of(labels, 9) is None


def test_each_task_has_several_questions():
    assert all(len(set(questions)) >= 3 for questions in QUESTIONS.values())
