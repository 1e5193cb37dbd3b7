# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import codecs
import json
import os
from pathlib import Path

import pytest

from llamafactory_clinkd.evaluate import captions, evaluate_file, training_rows
from llamafactory_clinkd.evaluate.prediction_files import load_rows


QA50 = Path(os.environ.get("CLINKD_SHARED", Path(__file__).parents[3] / "shared"), "data", "llava_med_qa50")
QUESTIONS = [{"question_id": i, "text": f"What is {i}?", "gpt4_answer": f"answer {i}"} for i in range(3)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def load(tmp_path, questions, answers):
    return load_rows(write(tmp_path / "q.jsonl", questions), write(tmp_path / "a.jsonl", answers))


@pytest.mark.parametrize("convert", [str, int, float, lambda i: f" {i} "])
@pytest.mark.parametrize("name", ["question_id", "qid", "id"])
def test_ids_join_as_text_or_number(tmp_path, convert, name):
    answers = [{name: convert(i), "text": f"found {i}"} for i in (2, 0, 1)]
    rows = load(tmp_path, QUESTIONS, [*answers, {"question_id": "a further one", "text": "x"}])
    assert [row["response"] for row in rows] == ["found 0", "found 1", "found 2"]


@pytest.mark.parametrize(
    ("questions", "answers", "message"),
    [
        (
            QUESTIONS,
            [{"question_id": f"q{i}", "text": "x"} for i in range(3)],
            "3 of 3 questions have no answer.*'0'.*'q0'",
        ),
        (QUESTIONS, [{"question_id": 0, "text": "x"}], "2 of 3 questions have no answer"),
        (QUESTIONS, [{"question_id": 1, "text": "x"}] * 2, "2 answers have the question_id '1'"),
        (QUESTIONS[:1] * 2, [{"question_id": 0, "text": "x"}], "2 questions have the question_id '0'"),
        ([{"text": "What?", "gpt4_answer": "x"}], [], "1 questions have no `question_id`"),
        ([{"question_id": True, "gpt4_answer": "x"}], [], "1 questions have no `question_id`"),
    ],
)
def test_what_cannot_be_joined_is_an_error(tmp_path, questions, answers, message):
    with pytest.raises(ValueError, match=message):
        load(tmp_path, questions, answers)


@pytest.mark.parametrize("start", [b"", codecs.BOM_UTF8, b"\n ", codecs.BOM_UTF8 + b"\n"])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_with_a_byte_order_mark(tmp_path, start, indent):
    (tmp_path / "a.json").write_bytes(start + json.dumps(QUESTIONS, indent=indent).encode())
    (tmp_path / "a.jsonl").write_bytes(start + "\n".join(map(json.dumps, QUESTIONS)).encode())
    (tmp_path / "utf16.json").write_text(json.dumps(QUESTIONS), encoding="utf-16")
    answers = write(tmp_path / "answers.jsonl", [{"question_id": i, "text": "x"} for i in range(3)])
    for name in ("a.json", "a.jsonl", "utf16.json"):
        assert load_rows(tmp_path / name, answers) == [row | {"response": "x"} for row in QUESTIONS]


def test_training_rows_of_a_dataset_info(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}]
    info = {"a": {"file_name": "a.json"}, "hub": {"hf_hub_url": "x"}, "gone": {"file_name": "gone.json"}}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert training_rows(["a", "a"], tmp_path) == rows * 2
    for name in ("hub", "unknown"):
        with pytest.raises(ValueError, match=f"'{name}' is not a local file"):
            training_rows([name], tmp_path)
    with pytest.raises(FileNotFoundError, match="gone"):
        training_rows(["gone"], tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not QA50.exists(), reason="LLaVA-Med's qa50 and its answers are not here (set CLINKD_SHARED)")
@pytest.mark.skipif(captions.java_command() is None, reason="no `java` on the path")
def test_the_papers_number_of_llava_med_by_birds_definition():
    """Table 1 prints 20.04: the mean of BLEU-4, METEOR and ROUGE-L. The released code's mean of six gives 20.03."""
    found = evaluate_file(QA50 / "questions.jsonl", answers=QA50 / "llava_med_answers.jsonl", resamples=0)
    task = found["tasks"]["MIA"]
    assert task["n"] == found["rows"]["evaluated"] == 193
    assert f"{100 * task['mbmr_bird']:.2f}" == "20.04"
    assert f"{100 * task['macro']:.2f}" == "20.03"
