# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import importlib.util

import pytest

from llamafactory_clinkd.correct.corrector import PromptTemplate
from llamafactory_clinkd.correct.rewording_validation import (
    candidate_similarities,
    check_validation,
    label_key,
    prompt_runs,
    rejection_reasons,
)
from llamafactory_clinkd.correct.similarity import load_similarity


TRUTH = "The <ref>left hip</ref><box>(1,2),(3,4)</box> is located below the <ref>liver</ref><box>(5,6),(7,8)</box>."
LEAKS = prompt_runs(PromptTemplate().fixed_text)


def reasons(candidate, annotation=TRUTH, similarity=0.9, existing=(TRUTH,), question="Where is it?"):
    return rejection_reasons(
        candidate, annotation=annotation, question=question, similarity=similarity, threshold=0.8,
        existing={label_key(label) for label in existing}, leaks=LEAKS,
    )  # fmt: skip


def test_a_faithful_rewording_passes():
    assert reasons(TRUTH.replace("is located", "lies")) == {}


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (" \n", "empty"),
        (TRUTH.replace("(1,2)", "(1,3)"), "boxes"),
        (TRUTH.replace("(1,2)", "(1, 2)"), "boxes"),
        (TRUTH.replace("<box>(1", "<box>((1"), "boxes"),
        (TRUTH.replace("(1,2),(3,4)", "(5,6),(7,8)", 1), "boxes"),
        (TRUTH.replace("left hip", "hip").replace("liver", "left hip").replace(">hip", ">liver"), "boxes"),
        (TRUTH.replace("liver", "spleen"), "boxes"),
        (TRUTH.replace("</box>", "", 1), "tags"),
        (TRUTH.replace("<ref>", "").replace("</ref>", ""), "tags"),
        (TRUTH.replace("<box>", "<|box_start|>").replace("</box>", "<|box_end|>"), "tags"),
        (TRUTH.replace("left", "right"), "opposite"),
        (TRUTH.replace("is located", "is not located"), "negation"),
        (TRUTH.replace("hip", "hip of 3 cm"), "quantity"),
        (TRUTH.upper().replace("REF>", "ref>").replace("BOX>", "box>"), "existing_label"),
        (TRUTH + " very" * 40, "too_long"),
        ("x" * 5000, "too_long"),
        ("<ref>left</ref><box>(1,2),(3,4)</box><ref></ref><box>(5,6),(7,8)</box>", "too_short"),
        ("Keep the exact meaning of the reference answer. " + TRUTH, "prompt_leak"),
        ("```" + TRUTH, "prompt_leak"),
    ],
)
def test_each_reason(candidate, reason):
    assert reason in reasons(candidate)


def test_a_reference_may_change_its_case_only():
    assert reasons(TRUTH.replace("The <ref>left", "<ref>Left").replace("is located", "lies")) == {}


def test_low_similarity():
    assert reasons(TRUTH.replace("is located", "lies"), similarity=0.79) == {"similarity": "0.790 is below 0.8"}
    assert reasons(TRUTH.replace("is located", "lies"), similarity=0.8) == {}


def test_words_of_the_row_are_no_leak():
    truth = "Change the wording or the sentence structure of the report."
    assert reasons("Do change the wording or the sentence structure of the report.", annotation=truth) == {}


@pytest.mark.parametrize("missing", ["en_core_web_sm", "wn", "negspacy", "pint"])
def test_a_missing_library_is_reported_without_loading(monkeypatch, missing):
    check_validation()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.startswith(missing) else found(name))
    with pytest.raises(ImportError, match="pip install"):
        check_validation()


def test_a_box_only_truth_takes_only_locating_words_and_the_questions():
    box = "<box>(1,2),(3,4)</box>"
    found = candidate_similarities(
        [f"The left hip is located at {box}.", f"A tumour is located at {box}.", box],
        annotation=box,
        question="Where is the left hip?",
        similarity=load_similarity("lexical"),
    )
    assert found == [1.0, 0.0, 1.0]
