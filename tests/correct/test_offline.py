# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafactory_clinkd.correct import CorrectionItem, make_corrector, offline
from llamafactory_clinkd.correct.clinical_comparison import meaning_differences
from llamafactory_clinkd.correct.english import lower_first, with_article, word_choices
from llamafactory_clinkd.correct.offline import protect, reword
from llamafactory_clinkd.correct.rewording_validation import label_key
from llamafactory_clinkd.utils.boxes import box_strings, tags_balanced
from llamafactory_clinkd.utils.spacy_english import load_english


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
        ("the brain", "What organ is this?", "This is the brain."),
        ("CT", "What modality is this?", "It is CT."),
        ("CT", "What modality is this?", "Modality: CT."),
        ("Axial", "What is the plane?", "The plane is axial."),
        ("in the left lung", "Where is it?", "It is located in the left lung."),
        ("Right lung", "Where is the lesion?", "The lesion is in the right lung."),
        ("Left side", "On which side is the mass?", "It is on the left side."),
        ("Pneumothorax", "What is the abnormality?", "The abnormality is a pneumothorax."),
        ("edema", "What is seen?", "This is edema."),
        ("Multiple sclerosis", "What is the diagnosis?", "The diagnosis is multiple sclerosis."),
        ("ascites", "What is behind the liver?", "It is ascites."),
        ("3", "How many masses are there?", "Number: 3."),
        ("Motion", "Why is it blurred?", "The answer is motion."),
        ("Yes", "Is it?", "Yes, that is the case."),
        ("Yes", "Is there a mass?", "Yes, there is a mass."),
        ("No", "Is there a mass?", "No, there is no mass."),
        ("No", "Does the image show free air?", "No, the image does not show free air."),
        ("Yes", "Does the heart look large?", "Yes, the heart looks large."),
        (BOX, WHERE, f"The left hip is located at {BOX}."),
        (BOX + BOX, "Where are the kidneys?", f"The kidneys are located at {BOX}{BOX}."),
        (BOX, "Show me.", f"It is located at {BOX}."),
        (f"The {HIP} is located in the pelvis.", WHERE, f"The {HIP} lies in the pelvis."),
        ("Crohn's disease", "What is it?", "Shown here: Crohn's disease."),
        ("The image shows a mass.", "", "A mass can be seen in the image."),
        ("The image shows two cysts.", "", "Two cysts are shown in the image."),
        ("The chest X-ray shows a mass.", "", "A mass is shown on the chest X-ray."),
        ("There is no effusion.", "", "No effusion is seen."),
        ("There are two cysts in the liver.", "", "Two cysts are present in the liver."),
        ("A mass can be seen in the image.", "", "The image shows a mass."),
        ("The organ in the image is the liver.", "", "The liver is the organ in the image."),
        ("This is an axial CT of the head.", "", "Shown here is an axial CT of the head."),
        ("In the image, the cord is compressed.", "", "The cord is compressed in the image."),
        ("It shows the liver and the spleen.", "", "It shows the spleen and the liver."),
        ("However, the mass seems to be small.", "", "Nevertheless, the mass appears to be small."),
        (
            "According to the image, the mass is small.",
            "",
            "It is of note that according to the image, the mass is small.",
        ),
        ("Dense", "How would you describe the lesion?", "It is dense."),
        ("Keep in mind that the mass is small.", "", "It should be noted that the mass is small."),
        (
            "Yes, in this scan, the mass is small.",
            "",
            "Yes, it should be noted that in this scan, the mass is small.",
        ),
        (
            "Gross image of appendix adhered to right kidney.",
            "",
            "Shown here: gross image of appendix adhered to right kidney.",
        ),
    ],
)
def test_rewordings(text, question, expected):
    found = {each for seed in range(3) for each in reword(text, question=question, seed=str(seed), count=12)}
    assert expected in found


@pytest.mark.parametrize("text", ["Sacrum", BOX, HIP, REPORT, f"The {HIP} is located in the pelvis.", "No", "3"])
def test_every_rewording_is_new_and_keeps_boxes(text):
    for seed in range(5):
        found = reword(text, question=WHERE, seed=str(seed), count=3)
        assert 1 <= len(found) <= 3
        assert len({*map(label_key, found), label_key(text)}) == len(found) + 1
        for each in found:
            assert box_strings(each) == box_strings(text)
            assert tags_balanced(each)


@pytest.mark.parametrize(
    "phrase",
    ["multiple sclerosis", "within normal limits", "signs of infection", "mass-like opacity", "ground-glass opacity"]
    + ["region of interest", "evidence of metastasis", "multiple myeloma", "surface area"],
)
def test_fixed_phrases_keep_their_words(phrase):
    text = f"The image shows {phrase} in several regions, due to an infection that is located in the left lung."
    found = [each for seed in range(4) for each in reword(text, question="", seed=str(seed), count=3)]
    assert found and all(phrase in each for each in found)


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("The finding is due to edema of the lung.", "is because of"),
        ("The image shows the liver and the spleen.", "spleen is shown"),
        ("These infiltrates can be seen in both lungs.", "is visible"),
        ("The image shows a gross specimen of splenic tissue.", "tissue are"),
        ("The mass can be seen as a response to injury.", "observed as"),
    ],
)
def test_words_stay_where_their_replacement_would_not_fit(text, broken):
    found = [each for seed in range(4) for each in reword(text, question="", seed=str(seed), count=12)]
    assert found and not [each for each in found if broken in each]


@pytest.mark.parametrize(
    ("text", "question", "expected", "wrong"),
    [
        (
            "Cirrhosis",
            "What does the nodular liver suggest?",
            "The answer is cirrhosis.",
            "(?:Shown|Seen|Visible|This is)",
        ),
        ("abscess", "What is the image suggestive of?", "The answer is an abscess.", "(?:Shown|Seen|Visible|This is)"),
        ("Enlarged", "What is abnormal about the hila?", "The answer is enlarged.", "It is"),
        ("Diffuse", "How would you describe the nodules?", "The answer is diffuse.", "It is"),
        ("Pancreas", "Which organ is enlarged?", "It is the pancreas.", "(?:This is|Shown|Seen|Visible)"),
        ("Lungs", "What organ is primarily evaluated?", "The answer is the lungs.", "(?:.* are seen|Shown|Visible)"),
    ],
)
def test_an_answer_claims_no_more_than_its_question_and_agrees_with_it(text, question, expected, wrong):
    found = reword(text, question=question, seed="1", count=12)
    assert expected in found and not [each for each in found if re.match(wrong, each)]
    for each in found:
        assert meaning_differences(text, each, question) == {}


@pytest.mark.parametrize(
    ("text", "question"),
    [("CT", "What type of imaging is this?"), ("3", "How many?"), ("Motion", "Why?"), ("No", "Is there a mass?")],
)
def test_no_frame_adds_a_word_for_the_validation(text, question):
    found = reword(text, question=question, seed="1", count=12)
    assert len(found) >= 3
    assert {each: meaning_differences(text, each, question) for each in found} == dict.fromkeys(found, {})


@pytest.mark.parametrize("text", ["not sure", "Tumor?", "\ue000", " "])
def test_what_has_no_rule(text):
    assert reword(text, question="What is it?", seed="1", count=3) == []


@settings(max_examples=40, deadline=None)
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
    environment = {"PYTHONHASHSEED": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(reword(REPORT, question="", seed="ct_1", count=3))


def test_rows_differ():
    assert len({tuple(reword(REPORT, question="", seed=str(seed), count=1)) for seed in range(20)}) > 5


def test_replacements_do_not_overlap_and_keep_article_and_capital():
    choices = word_choices(load_english()("An area of the region is located within the lung. However, it is small."))
    assert all(left.end <= right.start for left, right in zip(choices, choices[1:], strict=False))
    others = {other for choice in choices for other in choice.others}
    assert {"A region", "lies", "in", "Nevertheless"} <= others


@pytest.mark.parametrize(
    ("text", "expected"),
    [("The liver", "the liver"), ("MRI shows", "MRI shows"), ("Crohn's disease", "Crohn's disease")]
    + [("Cardiomegaly is", "cardiomegaly is"), ("A mass", "a mass"), ("T2 signal", "T2 signal"), ("", "")],
)
def test_lower_first(text, expected):
    assert lower_first(text) == expected


def test_articles_follow_the_sound():
    assert [with_article(noun) for noun in ("mass", "effusion", "MRI")] == ["a mass", "an effusion", "an MRI"]


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
    with pytest.raises(ValueError, match="expected one of offline"):
        make_corrector("gpt")


def test_a_missing_library_is_named_before_the_first_phase(monkeypatch):
    monkeypatch.setitem(sys.modules, "lemminflect", None)
    with pytest.raises(ImportError, match=r"lemminflect.*llamafactory-clinkd\[correct\]"):
        make_corrector("offline")


def test_the_libraries_are_checked_without_loading_them(monkeypatch):
    monkeypatch.setattr(offline, "load_english", lambda: pytest.fail("spaCy's model was loaded"))
    for library in ("inflect", "lemminflect"):
        monkeypatch.delitem(sys.modules, library, raising=False)
    make_corrector("offline")
    assert not {"inflect", "lemminflect"} & sys.modules.keys()
