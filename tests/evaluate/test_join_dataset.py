# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json

import pytest
from typer.testing import CliRunner

from llamafactory_clinkd.cli import app
from llamafactory_clinkd.evaluate import evaluate_file
from llamafactory_clinkd.evaluate.prediction_files import Unreadable, join_dataset


def row(question, answer, **more):
    messages = [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "images": ["images/ct_1.png"], "id": "ct_1", "modality": "ct", **more}


GROUNDING = row(
    "Where is the liver?",
    "<|object_ref_start|>liver<|object_ref_end|><|box_start|>(1,2),(300,400)<|box_end|>",
    task="VG",
)
LABEL = row("What is this?", "Left  hip", task="ROC")


def predicted(label, predict, **more):
    return {"prompt": "system\nuser\n...", "predict": predict, "label": label, **more}


def test_everything_but_the_response_comes_from_the_data_set():
    (joined,) = join_dataset([predicted("liver(1,2),(300,400)", "liver(1,2),(301,400)")], [GROUNDING])
    assert joined == {
        "id": "ct_1",
        "image": "images/ct_1.png",
        "question": "Where is the liver?",
        "annotation": GROUNDING["messages"][1]["content"],
        "response": "liver(1,2),(301,400)",
        "task": "VG",
        "modality": "ct",
    }


def test_labels_may_be_cut_off_or_spaced_otherwise_and_the_data_set_may_go_on():
    joined = join_dataset([predicted("liver (1,2),(3", ""), predicted("Left hi", "x")], [GROUNDING, LABEL, LABEL])
    assert [one["task"] for one in joined] == ["VG", "ROC"]


def test_lines_that_are_not_objects_stay():
    assert join_dataset([Unreadable("not JSON"), 3], [GROUNDING, LABEL]) == [Unreadable("not JSON"), 3]


def test_the_last_turn_of_several_is_taken_and_its_task_worked_out():
    long = {**LABEL, "task": "MIXED", "messages": GROUNDING["messages"] + LABEL["messages"]}
    (joined,) = join_dataset([predicted("Left hip", "hip")], [long])
    assert (joined["question"], joined["annotation"], joined["task"]) == ("What is this?", "Left  hip", None)
    with_system = {**LABEL, "messages": [{"role": "system", "content": "Look."}, *LABEL["messages"]]}
    assert join_dataset([predicted("Left hip", "hip")], [with_system])[0]["task"] == "ROC"


@pytest.mark.parametrize(
    ("predictions", "dataset", "message"),
    [
        ([predicted("Sacrum", "x")], [LABEL], "Row 1: the label 'Sacrum' is not the data set's answer"),
        ([predicted("", "x")], [LABEL], "Row 1: the label ''"),
        ([predicted("Left hip", "x")] * 2, [LABEL], "2 predictions, the data set has 1 rows"),
        ([{"annotation": "a", "response": "b"}], [LABEL], "no `predict` and `label`"),
        ([predicted("Left hip", "x")], [{"messages": "none"}], "Row 1 of the data set is no conversation"),
    ],
)
def test_what_does_not_fit_is_an_error(predictions, dataset, message):
    with pytest.raises(ValueError, match=message):
        join_dataset(predictions, dataset)


@pytest.fixture
def files(tmp_path):
    predictions = [predicted("liver(1,2),(300,400)", "liver(1,2),(301,400)"), predicted("Left hip", "hip, left")]
    (tmp_path / "predictions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in predictions))
    (tmp_path / "set.json").write_text(json.dumps([GROUNDING, LABEL]))
    return tmp_path


def test_modalities_come_with_the_data_set(files):
    found = evaluate_file(files / "predictions.jsonl", dataset=files / "set.json", resamples=0)["tasks"]
    assert {task: list(one["modalities"]) for task, one in found.items()} == {"VG": ["ct"], "ROC": ["ct"]}
    assert (found["VG"]["macro"], found["ROC"]["macro"]) == (1, 1)


def test_command_reads_the_data_set_and_reports_what_does_not_fit(files):
    command = ["evaluate", str(files / "predictions.jsonl"), "--json", str(files / "metrics.json"), "--dataset"]
    done = CliRunner().invoke(app, [*command, str(files / "set.json")])
    assert done.exit_code == 0, done.output
    assert list(json.loads((files / "metrics.json").read_text())["tasks"]["VG"]["modalities"]) == ["ct"]

    (files / "other.json").write_text(json.dumps([LABEL, GROUNDING]))
    done = CliRunner().invoke(app, [*command, str(files / "other.json")])
    assert done.exit_code == 2 and "is not the data set's answer" in done.output and "Traceback" not in done.output


def test_command_reads_the_answers_of_a_question_file(tmp_path):
    question = {"question_id": 1, "image": "a.jpg", "text": "What is seen?", "gpt4_answer": "A mass in the liver."}
    (tmp_path / "q.jsonl").write_text(json.dumps(question) + "\n")
    (tmp_path / "a.jsonl").write_text(json.dumps({"question_id": 1, "text": "A mass in the liver."}) + "\n")
    command = ["evaluate", str(tmp_path / "q.jsonl"), "--json", str(tmp_path / "metrics.json")]
    assert "file of the model's answers" in CliRunner().invoke(app, command).output
    done = CliRunner().invoke(app, [*command, "--answers", str(tmp_path / "a.jsonl")])
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "metrics.json").read_text())["tasks"]["MIA"]["n"] == 1
