# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafactory_clinkd.correct import CorrectionItem, make_corrector
from llamafactory_clinkd.correct.offline import SYNONYMS, frame_variants, protect, reword, synonym_sites
from llamafactory_clinkd.correct.rewording_validation import keeps_meaning, label_key
from llamafactory_clinkd.utils.boxes import box_strings, tags_balanced


BOX = "<|box_start|>(1,2),(30,40)<|box_end|>"
HIP = "<ref>left hip</ref><box>(1,2),(3,4)</box>"
WHERE = "Where is the left hip located in the image?"
REPORT = (
    "The image shows a chest x-ray with multiple nodules in the left lung. There is no pleural effusion. "
    f"A mass {BOX} is seen in the hilar region."
)


@pytest.mark.parametrize(
    ("text", "question", "expected"),
    [
        ("Sacrum", f"What anatomical structure is present at the {BOX}?", "This is the sacrum."),
        ("the brain", "What organ is this?", "Brain."),
        ("CT", "What modality is this?", "It is CT."),
        ("in the left lung", "Where is it?", "It is located in the left lung."),
        ("Yes", "Is it?", "Yes, that is the case."),
        (BOX, WHERE, f"The left hip is located at {BOX}."),
        (BOX + BOX, "Where are the kidneys?", f"The kidneys are located at {BOX}{BOX}."),
        (BOX, "Show me.", f"It is located at {BOX}."),
        (HIP, WHERE, f"This is the {HIP}."),
        (f"The {HIP} is located in the pelvis.", WHERE, f"The {HIP} lies in the pelvis."),
        ("Crohn's disease", "What is it?", "It is Crohn's disease."),
        ("Axial slice; both kidneys enhance", "Describe.", "In the image, Axial slice; both kidneys enhance"),
    ],
)
def test_rewordings(text, question, expected):
    found = {each for seed in range(30) for each in reword(text, question=question, seed=str(seed), count=4)}
    assert expected in found


@pytest.mark.parametrize("text", ["Sacrum", BOX, HIP, REPORT, f"The {HIP} is located in the pelvis.", "No", "3"])
def test_every_rewording_is_new_and_keeps_boxes_and_critical_words(text):
    for seed in range(40):
        found = reword(text, question=WHERE, seed=str(seed), count=3)
        assert 1 <= len(found) <= 3
        assert len({*map(label_key, found), label_key(text)}) == len(found) + 1
        for each in found:
            assert box_strings(each) == box_strings(text)
            assert tags_balanced(each)
            assert keeps_meaning(text, each, WHERE)


@settings(max_examples=150, deadline=None)
@given(st.text("ab. ,TheisS()0123<>|box/ref\n?", max_size=60), st.integers(0, 3))
def test_any_text_keeps_its_boxes(text, boxes):
    text = f"{text}{BOX * boxes}"
    for each in reword(text, question=WHERE, seed="1", count=3):
        assert box_strings(each) == box_strings(text)


def test_the_same_everywhere():
    code = (
        "from llamafactory_clinkd.correct.offline import reword\n"
        f"print(reword({REPORT!r}, question='', seed='ct_1', count=3))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert outputs == {str(reword(REPORT, question="", seed="ct_1", count=3))}


def test_rows_differ():
    assert len({tuple(reword(REPORT, question="", seed=str(seed), count=1)) for seed in range(20)}) > 5


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("The image shows a mass.", "A mass can be seen in the image."),
        ("This axial CT demonstrates a cyst", "In this axial CT, a cyst can be seen"),
        ("There are two cysts in the liver.", "Two cysts are present in the liver."),
        ("There is no effusion.", "No effusion is seen."),
        ("Two cysts are found in the liver.", "Two cysts lie in the liver."),
        ("A cyst is seen in the liver.", "There is a cyst in the liver."),
        ("This is the liver.", "What is shown is the liver."),
    ],
)
def test_frames(sentence, expected):
    assert expected in frame_variants(sentence)


@pytest.mark.parametrize("sentence", ["Is there a mass?", "There is a mass, which is large.", "Lungs clear."])
def test_frames_leave_what_they_do_not_know(sentence):
    assert frame_variants(sentence) == []


def test_synonyms_keep_the_article_right_and_do_not_overlap():
    assert synonym_sites("an area") == []
    assert synonym_sites("the region is located within it") == [
        (4, 10, ("area",)),
        (14, 21, ("situated",)),
        (22, 28, ("inside",)),
    ]


def test_no_synonym_is_a_critical_word():
    for group in SYNONYMS:
        for word in group:
            assert keeps_meaning(group[0], word)


def test_protected_text_comes_back():
    protected = protect(REPORT + HIP + " (1,2),(3,4)")
    assert not re.search(r"\d,\d", protected.text)
    assert protected.restore(protected.text) == REPORT + HIP + " (1,2),(3,4)"


def test_texts_without_a_rule_have_an_error_not_a_crash():
    corrector = make_corrector("offline", candidates=2)
    items = [CorrectionItem("a", "q", "\ue000", ""), CorrectionItem("b", "q", "Sacrum", "")]
    results = [result for group in corrector.correct(items) for result in group]
    assert [(r.id, len(r.candidates), r.error) for r in results] == [("a", 0, "no_rule"), ("b", 2, None)]


def test_bad_values():
    with pytest.raises(ValueError, match="correction_candidates is 0"):
        make_corrector("offline", candidates=0)
    with pytest.raises(ValueError, match="offline, openai"):
        make_corrector("gpt")
