# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The teacher's own scores, from the labels that phase ``pseudo_label`` writes."""

import importlib.util

import pytest

from llamafactory_clinkd.phases.pseudo_label import describe_scores, teacher_scores


def labels(grounding, label):
    """Rows of VG and ROC with different boxes and organs; ``grounding`` and ``label`` make the teacher's answers."""
    rows = []
    for index in range(40):
        box = f"<box>({index * 20},{index * 10}),({index * 20 + 60},{index * 10 + 90})</box>"
        organ = ("liver", "spleen", "kidney", "lung")[index % 4]
        known = {"key": f"{index}:x", "id": "x", "image": "ct_1.png", "modality": "ct", "error": None}
        rows.append(
            {
                **known,
                "task": "VG",
                "question": f"Where is the {organ}?",
                "annotation": box,
                "pseudo_label": grounding(box),
            }
        )
        question = f"What is at {box}?"
        rows.append({**known, "task": "ROC", "question": question, "annotation": organ, "pseudo_label": label(organ)})
    return rows


def same(text):
    return text


def test_a_teacher_that_knows_has_scores_and_no_warning():
    scores = teacher_scores(labels(same, same), seed=0)
    assert scores["warnings"] == [] and scores["rows"] == 80
    assert scores["tasks"]["VG"]["macro"] == scores["tasks"]["ROC"]["macro"] == 1.0
    assert scores["blind"]["VG"]["macro"] < 0.2 and scores["blind"]["ROC"]["macro"] <= 0.5
    assert any(
        "Teacher on 40 VG rows: recall@0.5 100.0 (without the image: " in line for line in describe_scores(scores)
    )


def test_a_teacher_that_is_worse_than_no_image_is_named_for_each_task():
    warnings = teacher_scores(labels(lambda box: "The2500,0000000,179)</box>", lambda organ: "The"), seed=0)[
        "warnings"
    ]
    assert any("scores 0.0 on VG" in text and "Check `ref_model`, `template`" in text for text in warnings)
    assert any("scores 0.0 on ROC" in text for text in warnings)
    assert any("40 of 40 pseudo-labels of VG have no readable box" in text for text in warnings)


def test_rows_without_a_label_are_counted():
    rows = labels(same, same)
    rows[0] |= {"pseudo_label": None, "error": "OSError: broken"}
    scores = teacher_scores(rows, seed=0)
    assert scores["warnings"] == ["1 of 80 rows have no pseudo-label; the reason is in their `error`."]
    assert scores["tasks"]["VG"]["macro"] == pytest.approx(39 / 40)


def test_nothing_to_score():
    assert teacher_scores([], seed=0) == {"tasks": {}, "blind": {}, "rows": 0, "warnings": []}


def test_captions_need_their_library(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pycocoevalcap" else find(name))
    rows = [{**row, "task": "MIA"} for row in labels(same, same)[:2]] + labels(same, same)[:2]
    assert set(teacher_scores(rows, seed=0)["tasks"]) == {"VG", "ROC"}
