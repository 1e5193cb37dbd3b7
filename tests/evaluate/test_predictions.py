# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json

import pytest

from llamafactory_clinkd.evaluate import released
from llamafactory_clinkd.evaluate.model_answer import clean_response
from llamafactory_clinkd.evaluate.prediction_files import load_rows
from llamafactory_clinkd.evaluate.predictions import (
    LEFT_OUT,
    WRONG,
    read_predictions,
    read_rows,
)


BOX = "<box>(1,2),(3,4)</box>"
OURS = {
    "id": "ct_1",
    "image": "images/ct_1.png",
    "question": "Where is the liver?",
    "annotation": BOX,
    "response": "(1,2),(3,4)",
    "task": "VG",
    "modality": "ct",
    "candidates": [{"text": "(1,2),(3,4)", "score": 0.5}],
}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_our_own_rows_come_back_as_they_are():
    assert read_rows([OURS])[:2] == ([OURS], [])
    assert read_rows(read_rows([OURS]).rows)[:2] == ([OURS], [])


def test_bird_rows_with_a_string_or_a_list(tmp_path):
    row = {"id": "mr_7", "image": "mr_7.png", "question": f"What is {BOX}?", "annotation": "Sacrum"}
    path = write(tmp_path / "a.jsonl", [{**row, "response": "sacrum<|endoftext|>"}, {**row, "response": ["a", "b"]}])
    rows, problems, *_ = read_predictions(path)
    assert [one["response"] for one in rows] == ["sacrum", "a"]
    assert {(one["task"], one["modality"]) for one in rows} == {("ROC", "mr")}
    assert problems == []


def test_a_json_array_is_read_like_lines(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([OURS, OURS], indent=1))
    assert read_predictions(path).rows == [OURS, OURS]


def test_llamafactory_generated_predictions():
    prompt = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>Where is the liver?<|im_end|>\n<|im_start|>assistant\n"
    )
    (row,), problems, *_ = read_rows([{"prompt": prompt, "predict": "(1,2),(3,4)", "label": BOX}])
    assert row["question"] == "<|vision_start|><|image_pad|><|vision_end|>Where is the liver?"
    assert (row["task"], row["modality"], row["annotation"], row["response"]) == ("VG", "other", BOX, "(1,2),(3,4)")
    assert problems == []


def test_llava_med_questions_with_answers(tmp_path):
    questions = [
        {"question_id": i, "image": f"1806_F{i}.jpg", "text": "What is it?\n<image>", "gpt4_answer": f"answer {i}"}
        for i in range(3)
    ]
    answers = [{"question_id": "1", "text": "one"}, {"question_id": 0, "text": "zero"}, {"question_id": [1]}, 5]
    answers.append({"question_id": 2.0, "text": ""})
    path = write(tmp_path / "q.jsonl", questions)
    rows, problems, *_ = read_predictions(path, write(tmp_path / "a.jsonl", answers))
    assert [(row["annotation"], row["response"]) for row in rows] == [
        ("answer 0", "zero"),
        ("answer 1", "one"),
        ("answer 2", ""),
    ]
    assert {(row["task"], row["modality"]) for row in rows} == {("MIA", "other")}
    assert [(problem["row"], problem["outcome"]) for problem in problems] == [(3, WRONG)]
    with pytest.raises(ValueError, match="answers"):
        load_rows(path)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("liver<|im_end|>\n<|endoftext|>", "liver"),
        ("<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\nliver<|im_end|>", "liver"),
        ("two\nlines\nand a third", "two\nlines\nand a third"),
        ("liver</s> more", "liver"),
        ("  liver ", "liver"),
    ],
)
def test_clean_response(text, cleaned):
    assert clean_response(text) == cleaned


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("A liver.<|im_end|>\nHuman: more", "A liver."),
        ("liver<|im_end|>\n", "liver"),
        ("assistant\nA liver\n", "A liver"),
        ("a\nb\nc\nd", "b"),
        ("a\nb", "a\nb"),
        ("Lesion<|endoftext|><|endoftext|>", "Lesion"),
    ],
)
def test_released_response(text, cleaned):
    assert released.clean(text) == cleaned
    assert read_rows([{**OURS, "response": text}], by_release=True).rows[0]["response"] == cleaned


# name: (what is malformed, the outcome, a word of the reason)
LINES = {
    "torn": ('{"id": 1, "annotation": "x", "respon', LEFT_OUT, "not JSON"),
    "empty object": ("{}", LEFT_OUT, "no known format"),
    "a number": ("5", LEFT_OUT, "int"),
    "a list": ("[1, 2]", LEFT_OUT, "list"),
    "a string": ('"liver"', LEFT_OUT, "str"),
    "null": ("null", LEFT_OUT, "NoneType"),
    "words": ("no JSON at all", LEFT_OUT, "not JSON"),
    "not UTF-8": (b'{"id": "\xff"}', LEFT_OUT, "not JSON"),
    "nested too deep": ("[" * 100_000, LEFT_OUT, "not JSON"),
    "another format": ('{"instruction": "a", "output": "b"}', LEFT_OUT, "instruction, output"),
}
CHANGES = {
    "no annotation": ({"annotation": None}, LEFT_OUT, "no ground truth"),
    "an empty annotation": ({"annotation": " "}, LEFT_OUT, "no ground truth"),
    "an annotation of signs": ({"annotation": "..."}, LEFT_OUT, "no ground truth"),
    "an annotation that is a number": ({"annotation": 5}, LEFT_OUT, "no ground truth"),
    "an empty list of annotations": ({"annotation": []}, LEFT_OUT, "no ground truth"),
    "nested annotations": ({"annotation": [["a"]]}, LEFT_OUT, "no ground truth"),
    "an unknown task": ({"task": "OCR"}, LEFT_OUT, "unknown task"),
    "a task that is a list": ({"task": ["VG"]}, LEFT_OUT, "unknown task"),
    "no question and no task": ({"task": None, "question": None}, LEFT_OUT, "no question"),
    "grounding without a box": ({"annotation": "the liver"}, LEFT_OUT, "no box"),
    "grounding with a torn box": ({"annotation": "<box>(1,2),(3"}, LEFT_OUT, "no box"),
    "a label without a word": ({"task": "ROC"}, LEFT_OUT, "ROC with a box and no words"),
    "a caption without a word": ({"task": "RC", "annotation": f"{BOX}."}, LEFT_OUT, "RC with a box and no words"),
    "no response": ({"response": None}, WRONG, "not text"),
    "an empty response": ({"response": ""}, WRONG, "no letter"),
    "a blank response": ({"response": " \n\t"}, WRONG, "no letter"),
    "a response of signs": ({"response": "!!! ???"}, WRONG, "no letter"),
    "only an end token": ({"response": "<|im_end|>"}, WRONG, "no letter"),
    "unreadable bytes": ({"response": "\ufffd\ufffd\ufffd"}, WRONG, "no letter"),
    "a response that is a number": ({"response": 5}, WRONG, "not text"),
    "a response that is an object": ({"response": {"text": "a"}}, WRONG, "not text"),
    "no candidates": ({"response": []}, WRONG, "not text"),
    "a list whose best is null": ({"response": [None, "(1,2),(3,4)"]}, WRONG, "not text"),
    "nested candidates": ({"response": [["a"]]}, WRONG, "not text"),
}
HARMLESS = {
    "a lone surrogate": {"response": "\ud800 (1,2),(3,4)"},
    "NUL": {"response": "\0(1,2),(3,4)"},
    "an image that is a number": {"image": 5},
    "no image": {"image": None, "modality": None},
    "candidates that are no list": {"candidates": "a"},
    "an annotation in a list": {"annotation": [BOX]},
    "a task in lower case": {"task": "vg"},
    "a question that is a list, with a task": {"question": ["a"]},
}


def malformed_lines():
    """Every kind of malformed line, as (bytes, outcome, reason), over and over until there are 200."""
    kinds = [(line if isinstance(line, bytes) else line.encode(), *rest) for line, *rest in LINES.values()]
    kinds += [(json.dumps({**OURS, **change}).encode(), *rest) for change, *rest in CHANGES.values()]
    return [kinds[i % len(kinds)] for i in range(200)]


@pytest.mark.parametrize("name", CHANGES)
def test_each_malformed_row(name):
    change, outcome, reason = CHANGES[name]
    rows, (problem,), *_ = read_rows([{**OURS, **change}])
    assert (problem["row"], problem["outcome"]) == (1, outcome)
    assert reason in problem["reason"]
    assert [row["response"] for row in rows] == ([""] if outcome == WRONG else [])


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_oddities_are_read(name):
    (row,), problems, *_ = read_rows([{**OURS, **HARMLESS[name]}])
    assert problems == []
    assert row["task"] == "VG"
    json.dumps(row).encode()
    row["response"].encode()


def test_200_malformed_rows_are_each_listed_and_the_rest_is_read(tmp_path):
    lines = malformed_lines()
    good = json.dumps(OURS).encode()
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"".join(good + b"\n" + line + b"\n" for line, _, _ in lines) + good)

    rows, problems, *_ = read_predictions(path)
    assert [problem["row"] for problem in problems] == [2 * i + 2 for i in range(200)]
    for problem, (_, outcome, reason) in zip(problems, lines, strict=True):
        assert problem["outcome"] == outcome
        assert reason in problem["reason"]
    assert sum(row == OURS for row in rows) == 201
    assert len(rows) == 201 + sum(outcome == WRONG for _, outcome, _ in lines)


def test_a_file_of_nothing_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n\n")
    with pytest.raises(ValueError, match="holds no row"):
        read_predictions(tmp_path / "a.jsonl")
    with pytest.raises(FileNotFoundError):
        read_predictions(tmp_path / "b.jsonl")
