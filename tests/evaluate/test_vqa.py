# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import importlib.util
import json
import random
import sys
from collections import Counter

import pytest
from rich.console import Console
from vqa_rad import VQA_RAD, needs_vqa_rad

from llamafactory_clinkd.evaluate import evaluate_file, evaluate_predictions, metrics_table
from llamafactory_clinkd.evaluate.answer_words import answer_words
from llamafactory_clinkd.evaluate.vqa import answer_type, closed_is_right, open_scores


def row(answer, response, kind=None, **more):
    named = {"question": "What is it?", "annotation": answer, "response": response, "task": "VQA", "answer_type": kind}
    return named | more


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The left-sided mass.", "left sided mass"),
        ("Left , right", "left right"),
        ("2.5 cm.", "2.5 cm"),
        ("two lesions", "2 lesions"),
        ("a 1,000 ml (one litre)", "1000 ml 1 litre"),
        ("It isn't", "it isnt"),
        ("", ""),
    ],
)
def test_words(text, words):
    assert " ".join(answer_words(text)) == words


@pytest.mark.parametrize(
    ("response", "truths", "right"),
    [
        ("Yes", ["yes"], True),
        ("Yes, there is no doubt.", ["Yes"], True),
        ("No.", ["yes"], False),
        ("It is normal.", ["no"], False),  # "no" is a part of "normal"
        ("I know nothing", ["no"], False),
        ("no, yes", ["yes"], False),  # the first one counts
        ("", ["no"], False),
        ("On the left side.", ["left"], True),
        ("right", ["left"], False),
        ("right side", ["left", "right side"], True),
        ("brightness", ["right"], False),
    ],
)
def test_closed_by_hand(response, truths, right):
    assert closed_is_right(response, truths) is right


CHOICES = ["Lung", "Left lung", "Heart", "A mass"]


@pytest.mark.parametrize(
    ("response", "truth", "right"),
    [
        ("A", "Lung", True),
        ("(C) Heart", "C", True),
        ("The answer is B.", "left lung", True),
        ("Option D", "A mass", True),
        ("It shows the left lung.", "B", True),  # and not A, whose words are within B's
        ("the heart and the left lung", "B", False),  # names two
        ("A mass", "Lung", False),  # not the letter A
        ("A mass", "D", True),
        ("nothing", "Lung", False),
        ("H", "Lung", False),
    ],
)
def test_choices_by_hand(response, truth, right):
    assert closed_is_right(response, [truth], CHOICES) is right


@pytest.mark.parametrize(
    "choices", [CHOICES, dict(zip("ABCD", CHOICES, strict=True)), ["A: Lung", "B. Left lung", "C) Heart"]]
)
def test_choices_in_every_form(choices):
    rows = [row("Heart", "C", choices=choices), row("C", "the heart", choices=choices), row("C", "B", choices=choices)]
    assert evaluate_predictions(rows, resamples=0)["tasks"]["VQA"]["closed_accuracy"] == 2 / 3


def test_open_by_hand():
    assert open_scores("the left lung", "Left lung.") == (1, 1, 1)
    assert open_scores("in the left lung", "left lung") == (1, pytest.approx(0.8), 0)
    assert open_scores("lung", "left lung") == (0.5, pytest.approx(2 / 3), 0)
    assert open_scores("heart", "left lung") == open_scores("", "left lung") == (0, 0, 0)
    assert open_scores("lung lung lung", "left lung")[0] == 0.75  # LLaVA-Med's code counts each repetition


def test_types_of_answers():
    assert answer_type(row("Yes", "", "CLOSED ")) == answer_type(row("left", "", "closed")) == "CLOSED"
    assert answer_type(row("Yes", "", "OPEN")) == "OPEN"
    assert answer_type(row("No.", "")) == "CLOSED" and answer_type(row("not seen", "")) == "OPEN"
    assert answer_type(row("Lung", "", choices=CHOICES)) == "CLOSED"


def independent(rows):
    """Closed accuracy, open recall, F1 and exact match in a few lines, for answers without punctuation or articles."""
    closed, recall, f1, exact = [], [], [], []
    for each in rows:
        answer, truth = (each[key].lower().split() for key in ("response", "annotation"))
        if each["answer_type"] == "CLOSED":
            closed.append(answer[:1] == truth)
            continue
        shared = sum((Counter(answer) & Counter(truth)).values())
        recall.append(shared / len(truth))
        f1.append(2 * shared / (len(answer) + len(truth)))
        exact.append(answer == truth)
    return [sum(values) / len(values) for values in (closed, recall, exact, f1)]


def test_equal_to_an_independent_script():
    rng, words = random.Random(0), "lung liver mass left right dark large cyst".split()
    rows = [row(rng.choice(["Yes", "No"]), rng.choice(["yes", "no", "Yes it is"]), "CLOSED") for _ in range(300)]
    for _ in range(300):
        truth = rng.sample(words, rng.randint(1, 3))
        answer = truth if rng.random() < 0.3 else rng.sample(words, rng.randint(1, 5))
        rows.append(row(" ".join(truth).title(), " ".join(answer), "OPEN"))
    found = evaluate_predictions(rows, resamples=0)["tasks"]["VQA"]
    keys = ("closed_accuracy", "open_recall", "open_exact_match", "open_f1")
    assert [found[key] for key in keys] == pytest.approx(independent(rows), abs=1e-9)
    closed, opened, exact, _ = independent(rows)
    assert found["accuracy"] == pytest.approx((closed + exact) / 2, abs=1e-9)
    assert found["macro"] == pytest.approx((closed + opened) / 2, abs=1e-9)


def test_groups_modalities_and_several_references():
    rows = [
        row("yes", "yes", "CLOSED", organ="Lung", modality="X-Ray", language="en", content_type="Presence"),
        row("yes", "no", "CLOSED", organ="lung", modality="xray", language="en", content_type="Presence"),
        row("liver", "spleen", "OPEN", organ="Abdomen", modality="CT", language="en", content_type="Organ"),
        row("mass", "tumour", "OPEN", annotations=["mass", "lesion", "tumour"], modality="MRI"),
    ]
    metrics = evaluate_predictions(rows, resamples=20)
    found = metrics["tasks"]["VQA"]
    assert metrics["average"] is None and metrics["average_of"] == []  # the paper's average is of its four tasks
    assert {name: entry["value"] for name, entry in found["modalities"].items()} == {"ct": 0, "mr": 1, "x": 0.5}
    assert (
        found["by"]["organ"]["Lung"]["closed_accuracy"] == 0.5 and found["by"]["organ"]["Lung"]["open_recall"] is None
    )
    assert found["by"]["content_type"]["Organ"]["open_recall"] == 0
    assert found["by"]["answer_type"]["OPEN"]["open_exact_match"] == 0.5
    assert list(found["by"]) == ["answer_type", "content_type", "organ", "modality", "language"]
    json.dumps(metrics, allow_nan=False)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(metrics_table(metrics))
    assert "content type Presence" in (text := console.export_text()) and "exact match" in text


def test_intervals_are_those_of_the_same_resamples():
    """With closed rows alone, closed accuracy is the task's score, and has its interval; likewise open recall."""
    rng = random.Random(1)
    closed = [row("yes", rng.choice(["yes", "no"]), "CLOSED", image=f"ct_{n // 2}.png") for n in range(60)]
    opened = [row("left lung", rng.choice(["lung", "heart"]), "OPEN", image=f"ct_{n // 2}.png") for n in range(60)]
    for rows, key in ((closed, "closed_accuracy"), (opened, "open_recall")):
        found = evaluate_predictions(rows, resamples=200)["tasks"]["VQA"]
        assert found["intervals"][key] == pytest.approx(found["ci"]) and found["ci"][0] < found[key] < found["ci"][1]
        assert found["by"]["answer_type"][rows[0]["answer_type"]]["intervals"] == found["intervals"]
    both = evaluate_predictions(closed + opened, resamples=200)["tasks"]["VQA"]
    assert all(low <= both[key] <= high for key, (low, high) in both["intervals"].items())
    assert evaluate_predictions(closed, resamples=0)["tasks"]["VQA"]["intervals"] == {}
    few = evaluate_predictions(closed[:8], resamples=50)["tasks"]["VQA"]  # four images
    assert few["intervals"] == dict.fromkeys(few["intervals"]) and few["ci"] is None


def test_the_task_of_rows_without_one_is_noted():
    asked = {"question": "Which organ?", "response": "lung"}
    box = "(1,2),(30,40)"
    rows = [asked | {"answer": "lung"}] * 3 + [asked | {"annotation": "lung", "answer_type": "OPEN"}]
    rows += [asked | {"annotation": box, "response": box}, asked | {"annotation": "lung", "task": "VQA"}]
    assert evaluate_predictions(rows, resamples=0)["notes"] == [
        "Rows without `task`, scored by their form: VQA 4, VG 1."
    ]
    assert evaluate_predictions(rows[-1:], resamples=0)["notes"] == []


def test_rows_with_an_answer_type_are_vqa_unless_they_name_another_task():
    rows = [row("yes", "yes", "CLOSED", task=task) for task in (None, "MIA", "ROC")]
    assert {task: found["n"] for task, found in evaluate_predictions(rows, resamples=0)["tasks"].items()} == {
        "ROC": 1,
        "VQA": 2,
    }


@pytest.mark.parametrize(
    ("raw", "groups"),
    [
        (
            {"qid": 1, "image_name": "a.jpg", "image_organ": "HEAD", "answer": "Yes", "answer_type": "CLOSED ",
             "question_type": "PRES", "question": "Is it?"},
            {"organ": "HEAD", "content_type": "PRES", "answer_type": "CLOSED"},
        ),
        (
            {"img_name": "x/a.jpg", "question": "Is it?", "answer": "Yes", "q_lang": "en", "location": "Lung",
             "modality": "X-Ray", "answer_type": "CLOSED", "content_type": "Abnormality"},
            {"organ": "Lung", "modality": "x", "language": "en", "content_type": "Abnormality"},
        ),
        ({"image": "a.jpg", "question": "Is it?", "answer": "yes"}, {"answer_type": "CLOSED"}),
        (
            {"Figure_path": "a.jpg", "Question": "Is it?", "Choice A": " A:No ", "Choice B": " B:Yes", "Answer": "B"},
            {"answer_type": "CLOSED"},
        ),
        (
            {"id": 3, "answer_type": "CLOSED", "conversatons": [{"from": "human", "value": "Is it?\n<image>"},
             {"from": "gpt", "value": "Yes"}]},
            {"answer_type": "CLOSED"},
        ),
    ],
    ids=["VQA-RAD", "SLAKE", "PathVQA", "PMC-VQA", "LLaVA-Med"],
)  # fmt: skip
def test_published_forms(raw, groups):
    found = evaluate_predictions([raw | {"response": "Yes."}], resamples=0)["tasks"]["VQA"]
    assert found["closed_accuracy"] == 1
    assert {column: next(iter(found["by"][column])) for column in groups} == groups


needs_jieba = pytest.mark.skipif(importlib.util.find_spec("jieba") is None, reason="needs jieba (the extra 'eval')")


@needs_jieba
def test_chinese_is_cut_into_words():
    rows = [
        row("是", "是的，有肿块。", "CLOSED"),
        row("是的", "不是", "CLOSED"),
        row("肺部", "左侧肺部", "OPEN", language="zh"),
        row("肝脏", "心脏", "OPEN"),
    ]
    found = evaluate_predictions(rows, resamples=0)["tasks"]["VQA"]
    assert (found["closed_accuracy"], found["open_recall"]) == (0.5, 0.5)
    assert found["by"]["language"]["zh"]["n"] == 4


def test_chinese_without_jieba_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)
    with pytest.raises(ImportError, match="Chinese text needs jieba.*eval"):
        evaluate_predictions([row("肺部", "肺部", "OPEN")], resamples=0)
    assert evaluate_predictions([row("lung", "lung", "OPEN")], resamples=0)["tasks"]["VQA"]["macro"] == 1


@needs_vqa_rad
def test_every_ground_truth_of_vqa_rad_answers_itself(tmp_path):
    rows = json.loads((VQA_RAD / "trainset.json").read_text())
    answers = [{"question_id": str(each["qid"]), "text": str(each["answer"])} for each in rows]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    metrics = evaluate_file(VQA_RAD / "trainset.json", answers=tmp_path / "answers.jsonl", resamples=0)
    found = metrics["tasks"]["VQA"]
    assert (found["n"], found["closed_accuracy"], found["open_exact_match"]) == (len(rows), 1, 1)
    assert metrics["problems"] == []
    assert set(found["by"]["organ"]) == {"HEAD", "CHEST", "ABD"}
