# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json

import pytest
from typer.testing import CliRunner

from llamafactory_clinkd.cli import app
from llamafactory_clinkd.evaluate import blind_scores, mean_box_baseline
from llamafactory_clinkd.evaluate.blind import most_frequent_answers
from llamafactory_clinkd.evaluate.scored_files import evaluate_file


def roc(answer, box="(1,2),(3,4)", **more):
    question = f"What is <box>{box}</box>?"
    return {"task": "ROC", "modality": "ct", "question": question, "annotation": answer, **more}


def vqa(question, answer, **more):
    return {"task": "VQA", "modality": "ct", "question": question, "annotation": answer, **more}


def answers(train, test):
    return [
        row["response"]
        for row in most_frequent_answers(*([{"response": "", **row} for row in rows] for rows in (train, test)))
    ]


def test_the_most_frequent_answer_whatever_the_box_by_modality():
    train = [roc("liver"), roc("liver", "(5,6),(7,8)"), roc("spleen"), roc("lung", modality="x")]
    assert answers(train, [roc("a", "(9,9),(10,10)"), roc("a", modality="x"), roc("a", modality="mr")]) == [
        "liver",
        "lung",
        "liver",
    ]


def test_a_question_falls_back_on_its_type():
    train = [vqa("Is it large?", "no"), vqa("Is it large?", "no"), vqa("Is it small?", "yes")]
    train += [vqa("Where?", "left", content_type="position"), vqa("Which organ?", "liver", content_type="organ")]
    test = [
        vqa("Is it SMALL?", "no"),
        vqa("Is it round?", "yes"),
        vqa("On which side?", "right", content_type="position"),
    ]
    assert answers(train, test) == ["yes", "no", "left"]


def test_the_first_of_equally_frequent_answers():
    assert answers([roc("b"), roc("a"), roc("a"), roc("b")], [roc("x")]) == ["b"]


def test_the_response_is_not_looked_at_and_an_unknown_task_is_left_out():
    test = [roc("liver", response="spleen"), {"task": "MIA", "question": "What?", "annotation": "A CT."}]
    assert answers([roc("liver")], test) == ["liver"]


def test_scores_of_each_task():
    box = {"task": "VG", "modality": "ct", "question": "Where is the liver?", "annotation": "<box>(0,0),(10,10)</box>"}
    train = [
        roc("liver"),
        roc("liver"),
        roc("lung"),
        box,
        vqa("Is it?", "yes"),
        vqa("Is it?", "yes"),
        vqa("Is it?", "no"),
    ]
    test = [roc("liver"), roc("lung"), box, vqa("Is it?", "no"), vqa("Is it?", "yes")]
    found = blind_scores(train, test, resamples=10)
    assert {name: (entry["macro"], entry["task"]) for name, entry in found.items()} == {
        "blind_VG": (1, "VG"),
        "blind_ROC": (0.5, "ROC"),
        "blind_VQA": (0.5, "VQA"),
    }
    assert found["blind_VQA"]["closed_accuracy"] == 0.5
    assert found["blind_VG"] == {**mean_box_baseline(train, test), "task": "VG"}
    assert set(blind_scores(train[:3], test, resamples=10)) == {"blind_ROC"}


def conversation(*turns, **more):
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]
    return {"messages": messages, "images": ["ct_1.png"], "modality": "ct", **more}


def test_all_turns_of_a_conversation_count():
    question = "<image>What is <box>(1,2),(3,4)</box>?"
    train = [conversation(question, "lung", question, "liver", question, "liver", task="MIXED")]
    assert blind_scores(train, [conversation(question, "Liver", task="ROC")])["blind_ROC"]["macro"] == 1


def test_command_shows_them(tmp_path):
    question = "<image>What is <box>(1,2),(3,4)</box>?"
    (tmp_path / "train.json").write_text(json.dumps([conversation(question, "liver", task="ROC")] * 2))
    (tmp_path / "a.jsonl").write_text(json.dumps(roc("liver", response="lung")) + "\n")
    command = ["evaluate", str(tmp_path / "a.jsonl"), "--train", str(tmp_path / "train.json")]
    done = CliRunner().invoke(app, [*command, "--json", str(tmp_path / "metrics.json")])
    assert done.exit_code == 0, done.output
    assert "blind answer" in done.output and "100.00" in done.output
    assert "blind answers from 2 rows of train.json" in " ".join(done.output.split())
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["baselines_from"] == "2 rows of train.json"
    assert (metrics["tasks"]["ROC"]["macro"], metrics["baselines"]["blind_ROC"]["macro"]) == (0, 1)


def test_training_rows_that_are_no_conversation_are_an_error():
    with pytest.raises(ValueError, match="Row 1 of the data set is no conversation"):
        blind_scores([{"messages": []}], [roc("liver")])


def test_a_task_without_training_rows_is_noted(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps([conversation("<image>Is it?", "yes", task="MIA")] * 2))
    test = {"question": "Is it?", "annotation": "yes", "response": "yes", "task": "VQA"}
    (tmp_path / "a.jsonl").write_text(json.dumps(test) + "\n")
    metrics = evaluate_file(tmp_path / "a.jsonl", train=tmp_path / "train.json", resamples=0)
    assert metrics["baselines"] == {}
    assert metrics["notes"] == ["No blind answers of VQA: the training rows are MIA 2. Convert both sets alike."]
