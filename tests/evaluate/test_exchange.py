# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Result files of VLMEvalKit and lmms-eval, written here as their own code writes them, and back."""

import csv
import json

import pandas
import pytest

from llamafactory_clinkd.evaluate import evaluate_file, load_rows, read_predictions
from llamafactory_clinkd.evaluate.exchange import export_rows
from llamafactory_clinkd.utils.io import write_jsonl


OURS = [
    {"id": "a", "image": "images/ct_1.png", "task": "VG", "modality": "ct", "question": "Where is the liver?",
     "annotation": "<box>(100,100),(300,300)</box>", "response": "<box>(110,100),(300,300)</box>", "patient": "7"},
    {"id": "b", "image": "images/x_1.png", "question": "Is there\ta fracture?\nLook closely.", "annotation": "yes",
     "response": '=1+1, "No"', "answer_type": "CLOSED", "task": "VQA", "modality": "x", "content_type": "ABN"},
    {"id": "c", "image": "images/mr_1.png", "question": "Which organ?", "annotations": ["brain", "the brain's stem"],
     "response": "NA", "answer_type": "OPEN", "task": "VQA", "modality": "mr", "organ": "HEAD"},
    {"id": "d", "image": "images/mr_1.png", "question": "Which plane?", "annotation": "axial",
     "response": "B. coronal", "choices": ["axial", "coronal"], "task": "VQA", "modality": "mr"},
    {"id": "e", "image": "images/ct_1.png", "task": "ROC", "modality": "ct", "question": "What is this?",
     "annotation": "Liver", "response": ""},
]  # fmt: skip

# The columns of VLMEvalKit's data sets (MCQ and VQA in one) with the prediction, as its `infer_data_job` dumps them.
VLMEVALKIT = pandas.DataFrame({
    "index": [3, 7, 9, 11, 12],
    "question": ["Which organ is this?", "Is it enlarged?", "What is shown?", "Where?", "How many?"],
    "A": ["liver"] + [float("nan")] * 4, "B": ["spleen", None, None, None, None], "C": [float("nan")] * 5,
    "answer": ["B", "no", "['a cyst', 'cyst']", "right", 3],
    "category": ["organ", "size", "finding", "place", "number"],
    "image_path": ["3.jpg", "7.jpg", "9.jpg", "11.jpg", "12.jpg"],
    "prediction": ["B", "No, it is not.", "a cyst", "Failed to obtain answer via API.", "3"],
})  # fmt: skip


def dump(data, path):
    """As VLMEvalKit's ``smp/file.py`` does; its engine for .xlsx is xlsxwriter, here it is openpyxl."""
    if path.suffix == ".xlsx":
        data.to_excel(path, index=False)
    elif path.suffix == ".tsv":
        data.to_csv(path, sep="\t", index=False, encoding="utf-8", quoting=csv.QUOTE_ALL)
    else:
        with open(path, "w") as file:
            json.dump(data.to_dict("records"), file, indent=4, ensure_ascii=False)
    return path


@pytest.mark.parametrize("ending", [".xlsx", ".tsv", ".json"])
def test_vlmevalkit_s_results_are_read(tmp_path, ending):
    path = dump(VLMEVALKIT, tmp_path / f"model_DATA{ending}")
    choice, closed, opened, failed, counted = read_predictions(path).rows
    assert counted["annotation"] == "3" and not counted.get("choices")
    assert choice["choices"] == ["liver", "spleen"] and str(choice["id"]) == "3" and choice["image"] == "3.jpg"
    assert opened["annotations"] == ["a cyst", "cyst"] and closed["annotation"] == "no"
    assert failed["response"] == "" and read_predictions(path).answers["not_text"] == 1
    scores = evaluate_file(path)["tasks"]["VQA"]
    assert (scores["closed"], scores["closed_accuracy"], scores["open_exact_match"]) == (2, 1.0, 2 / 3)


def lmms_eval_lines(**more):
    """As lmms-eval's ``evaluation_tracker.py`` writes them."""
    return [
        {"doc_id": 0, "target": "yes", "filtered_resps": ["Yes"], "doc_hash": "ab", "input": "Is it a CT?", **more,
         "gpt_eval_score": 1.0},
        {"doc_id": 1, "target": "['liver', 'the liver']", "filtered_resps": [["spleen"]], "doc_hash": "cd",
         "input": ["Which organ?", {"until": ["\n"]}], "resps": [["the spleen"]]},
    ]  # fmt: skip


def test_lmms_eval_s_samples_are_read(tmp_path):
    write_jsonl(tmp_path / "s.jsonl", lmms_eval_lines(doc={"question": "A CT?", "task": "binary", "image": None}))
    first, second = read_predictions(tmp_path / "s.jsonl").rows
    assert (first["question"], first["task"], first["response"]) == ("A CT?", "VQA", "Yes")
    assert second["question"] == "Which organ?" and second["annotations"] == ["liver", "the liver"]
    assert second["response"] == "spleen"


def test_a_question_of_several_filters_is_not_counted_several_times(tmp_path):
    lines = [line | {"filter": name} for name in ("strict", "flexible") for line in lmms_eval_lines()]
    write_jsonl(tmp_path / "s.jsonl", lines)
    with pytest.raises(ValueError, match="2 of 2 doc_id several times"):
        load_rows(tmp_path / "s.jsonl")


@pytest.mark.parametrize(
    ("tool", "name"),
    [("vlmevalkit", "r.xlsx"), ("vlmevalkit", "r.tsv"), ("vlmevalkit", "r.json"), ("lmms-eval", "r.jsonl")],
)
def test_our_rows_come_back(tmp_path, tool, name):
    write_jsonl(tmp_path / "ours.jsonl", OURS)
    before = evaluate_file(tmp_path / "ours.jsonl", export=(tool, tmp_path / name))
    after = evaluate_file(tmp_path / name)
    assert after["tasks"] == before["tasks"] and after["answers"] == before["answers"]
    for old, new in zip(
        read_predictions(tmp_path / "ours.jsonl").rows, read_predictions(tmp_path / name).rows, strict=True
    ):
        assert new["response"] == old["response"] and new["question"] == old["question"] and new["id"] == old["id"]
        assert new.get("patient") == old.get("patient") and new["image"] == old["image"]
        letter = tool == "vlmevalkit" and old.get("choices")
        assert new["annotation"] == ("A" if letter else old["annotation"])


def test_vlmevalkit_and_lmms_eval_find_their_columns(tmp_path):
    rows = read_predictions(write_rows(tmp_path)).rows
    export_rows(rows, "vlmevalkit", tmp_path / "r.xlsx")
    sheet = pandas.read_excel(tmp_path / "r.xlsx")
    assert (
        sheet["index"].tolist() == [0, 1, 2, 3, 4] and sheet.loc[3, "A"] == "axial" and sheet.loc[3, "answer"] == "A"
    )
    assert sheet.loc[1, "prediction"] == '=1+1, "No"'  # a text, not a formula
    export_rows(rows, "lmms-eval", tmp_path / "r.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [line["doc_id"] for line in lines] == [0, 1, 2, 3, 4] and lines[2]["target"] == str(OURS[2]["annotations"])
    assert {"filtered_resps", "doc_hash", "input"} <= lines[0].keys()


def write_rows(folder):
    write_jsonl(folder / "ours.jsonl", OURS)
    return folder / "ours.jsonl"


@pytest.mark.parametrize(
    ("tool", "name", "row", "message"),
    [
        ("lmms-eval", "r.xlsx", {}, "expected a tool and a file with its ending"),
        ("opencompass", "r.json", {}, "expected a tool"),
        ("vlmevalkit", "r.xlsx", {"response": "x" * 40_000}, "Row 1: prediction does not fit"),
        ("vlmevalkit", "r.xlsx", {"response": "a\x07b"}, "write .tsv or .json"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, tool, name, row, message):
    with pytest.raises(ValueError, match=message):
        export_rows([OURS[1] | row], tool, tmp_path / name)
    assert not (tmp_path / name).exists()
