# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json

import pytest

from llamafactory_clinkd.data.convert import Options, convert
from llamafactory_clinkd.data.formats import FORMATS, detect_format
from llamafactory_clinkd.evaluate import evaluate_predictions
from llamafactory_clinkd.evaluate.prediction_files import turns_of
from llamafactory_clinkd.utils.boxes import parse_boxes

from .samples import (
    LLAVA_MED,
    LLAVA_MED_MISSPELT,
    LLAVA_MED_QA,
    MED_GRIT_TEST,
    MED_GRIT_TRAIN,
    PMC_VQA,
    QUESTION,
    SHAREGPT,
    SLAKE,
    SOURCES,
    TRAIN_ID,
    write_source,
)


def converted(tmp_path, rows, **options):
    source = write_source(tmp_path / "source.json", rows)
    done = convert(source, tmp_path / "out", options=Options(image_folder=tmp_path, **options))
    return done, json.loads(done.path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
@pytest.mark.parametrize("kind", SOURCES)
def test_formats_are_detected(tmp_path, kind, suffix):
    detections = []
    source = write_source(tmp_path / f"source.{suffix}", SOURCES[kind])
    done = convert(
        source, tmp_path / "out", on_format=lambda found, detected: detections.append((found.name, detected))
    )
    assert detections == [(kind, True)]
    assert (done.format, done.rejected, done.rows_out) == (kind, 0, len(SOURCES[kind]))


def test_table_a1(tmp_path):
    done, (row, _) = converted(tmp_path, [MED_GRIT_TRAIN, MED_GRIT_TEST])
    assert row == {
        "messages": [
            {
                "role": "user",
                "content": "<image>Where is the <|object_ref_start|>left hip<|object_ref_end|>?",
            },
            {
                "role": "assistant",
                "content": "The <|object_ref_start|>left hip<|object_ref_end|>"
                "<|box_start|>(120,30),(400,500)<|box_end|> is here.",
            },
        ],
        "images": [f"{TRAIN_ID}.png"],
        "id": TRAIN_ID,
        "task": "VG",
        "modality": "ct",
    }
    assert json.loads((tmp_path / "out" / "dataset_info.json").read_text()) == {
        "source": {
            "file_name": "source.json",
            "formatting": "sharegpt",
            "columns": {"messages": "messages", "images": "images"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
        }
    }
    assert done.tasks == {"ROC": 1, "VG": 1}
    assert done.modalities == {"ct": 1, "mr": 1}


def test_qwen_vl_tags_and_prefix(tmp_path):
    _, (row,) = converted(tmp_path, [MED_GRIT_TRAIN], tags="qwen_vl", image_prefix="images/")
    assert row["images"] == [f"images/{TRAIN_ID}.png"]
    assert row["messages"][1]["content"] == "The <ref>left hip</ref><box>(120,30),(400,500)</box> is here."
    assert row["modality"] == "ct"


def test_boxes_of_either_style_are_those_of_the_source(tmp_path):
    for tags in ("qwen2_vl", "qwen_vl"):
        _, rows = converted(tmp_path, [MED_GRIT_TRAIN, MED_GRIT_TEST], tags=tags)
        assert parse_boxes(rows[0]["messages"][1]["content"]) == [(120, 30, 400, 500)]
        assert parse_boxes(rows[1]["messages"][0]["content"]) == [(12, 34, 56, 78)]


def test_fields_of_the_other_sources(tmp_path):
    found = {}
    for kind, rows in SOURCES.items():
        _, (row, *_) = converted(tmp_path, rows)
        found[kind] = (row["id"], row["images"], row["messages"][1]["content"], row["task"], row["modality"])
    assert found["vqa_rad"] == ("7", ["synpic1.jpg"], "4", "VQA", "unknown")
    assert found["slake"] == ("9", ["xmlab1/source.jpg"], "MRI", "VQA", "mr")
    assert found["llava_med"] == ("pmc_1", ["pmc_1.jpg"], "A clear lung.", "MIA", "x")
    assert found["llava_med_qa"] == ("3", ["a.jpg"], "A fracture.", "MIA", "ct")
    assert found["sharegpt"] == ("one", ["images/ct_1.png"], "Here.", "MIA", "ct")


def test_the_key_that_llava_med_itself_misspells(tmp_path):
    done, (row,) = converted(tmp_path, [LLAVA_MED_MISSPELT])
    assert done.format == "llava_med"
    assert row == converted(tmp_path, [LLAVA_MED])[1][0]


def test_a_file_without_a_readable_row_says_what_is_wrong(tmp_path):
    source = tmp_path / "source.json"
    source.write_text("no JSON\nat all")
    with pytest.raises(ValueError, match="no row that can be read; row 1: not_json: .* CSV or Parquet"):
        convert(source, tmp_path / "out")


def test_turns_stay_together_or_are_split(tmp_path):
    done, (row,) = converted(tmp_path, [LLAVA_MED])
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 2
    assert row["messages"][0]["content"] == "<image>What is seen?"
    done, rows = converted(tmp_path, [LLAVA_MED], split_turns=True)
    assert (done.rows_in, done.converted, done.rows_out) == (1, 1, 2)
    assert [row["id"] for row in rows] == ["pmc_1#1", "pmc_1#2"]
    assert [row["messages"][0]["content"] for row in rows] == ["<image>What is seen?", "<image>And the heart?"]


def test_a_row_of_several_tasks_is_mixed(tmp_path):
    row = {"id": "ct_1", "conversations": MED_GRIT_TEST["conversations"] + [["What do you see?", "A pelvis."]]}
    assert converted(tmp_path, [row])[1][0]["task"] == "MIXED"
    assert [row["task"] for row in converted(tmp_path, [row], split_turns=True)[1]] == ["ROC", "MIA"]
    assert converted(tmp_path, [row | {"task": "rc"}])[1][0]["task"] == "RC"


@pytest.mark.parametrize(
    ("row", "task"),
    [
        (QUESTION, "VQA"),
        (PMC_VQA, "VQA"),
        (QUESTION | {"task": "vqa"}, "VQA"),
        (QUESTION | {"task": "MIA"}, "MIA"),
        (QUESTION | {"answer": "(1,2),(30,40)"}, "VG"),
        (SHAREGPT | {"task": "VQA"}, "VQA"),
        (LLAVA_MED | {"task": "VQA"}, "VQA"),
        (LLAVA_MED_QA, "MIA"),
    ],
)
def test_vqa_sources_are_vqa_and_the_sources_own_task_stays(row, task, tmp_path):
    done, rows = converted(tmp_path, [row], coordinates="thousandths")
    assert [row["task"] for row in rows] == [task] and done.tasks == {task: 1}


def test_choices_are_kept_so_that_a_letter_or_its_text_is_right(tmp_path):
    _, (row,) = converted(tmp_path, [PMC_VQA])
    assert row["choices"] == ["Liver", "Spleen", "Kidney", "Lung"]
    turn = turns_of(1, row)[0]
    answers = {answer: {**turn, "response": answer} for answer in ("B", "the spleen", "A", "B: Liver or lung")}
    scores = {answer: evaluate_predictions([row], resamples=0)["tasks"]["VQA"] for answer, row in answers.items()}
    assert {answer: found["closed_accuracy"] for answer, found in scores.items()} == {
        "B": 1, "the spleen": 1, "A": 0, "B: Liver or lung": 1
    }  # fmt: skip


def test_an_image_tag_in_every_turn_is_one_image(tmp_path):
    tag = "Picture 1: <img>x/ct_1.png</img>\n"
    row = {"id": "ct_1", "conversations": [[tag + "One?", "1"], [tag + "Two?", "2"]]}
    _, (row,) = converted(tmp_path, [row])
    assert [message["content"] for message in row["messages"]] == ["<image>One?", "1", "Two?", "2"]


def test_several_images_and_a_system_prompt_keep_their_places(tmp_path):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Compare <image> with <image>."},
        {"role": "assistant", "content": "Alike."},
    ]
    _, (row,) = converted(tmp_path, [{"messages": messages, "images": ["a.png", "b.png"]}])
    assert row["messages"] == messages
    assert row["images"] == ["a.png", "b.png"]
    assert row["id"] == "row-1"
    messages[1]["content"] = "Compare."
    _, (row,) = converted(tmp_path, [{"messages": messages, "images": ["a.png", "b.png"]}])
    assert row["messages"][1]["content"] == "<image><image>Compare."


def test_the_majority_of_the_first_rows_names_the_format():
    assert detect_format([{"odd": 1}, SLAKE, SLAKE, SHAREGPT]) is FORMATS["slake"]
    with pytest.raises(ValueError, match="Keys found: answer, prompt.*med_grit"):
        detect_format([{"prompt": "a", "answer": "b"}])


def test_names_and_formats_are_checked(tmp_path):
    source = write_source(tmp_path / "source.json", [SHAREGPT])
    with pytest.raises(ValueError, match="Unknown format 'csv'"):
        convert(source, tmp_path / "out", format="csv")
    for name in ("../up", "dataset_info", ".hidden", "a b"):
        with pytest.raises(ValueError, match="not a valid data set name"):
            convert(source, tmp_path / "out", name=name)
    with pytest.raises(ValueError, match="overwritten"):
        convert(source, tmp_path)
    with pytest.raises(ValueError, match="leaves the data folder"):
        Options(image_prefix="../up")


def test_what_others_left_in_the_folder_stays(tmp_path):
    source, out = write_source(tmp_path / "source.json", [SHAREGPT]), tmp_path / "out"
    out.mkdir()
    foreign = 'a note\n["a list"]\n{"id": 3}\n'
    (out / "rejects.jsonl").write_text(foreign)
    (out / "dataset_info.json").write_text('{"mine": {"file_name": "mine.json"}}')
    convert(source, out)
    assert (out / "rejects.jsonl").read_text() == foreign
    assert set(json.loads((out / "dataset_info.json").read_text())) == {"mine", "source"}


@pytest.mark.parametrize(("text", "message"), [("{", "is not valid JSON"), ("[]", "holds a list")])
def test_a_broken_dataset_info_is_named_and_kept(tmp_path, text, message):
    source, out = write_source(tmp_path / "source.json", [SHAREGPT]), tmp_path / "out"
    out.mkdir()
    (out / "dataset_info.json").write_text(text)
    with pytest.raises(ValueError, match=f"dataset_info.json {message}"):
        convert(source, out)
    assert (out / "dataset_info.json").read_text() == text


def test_data_sets_share_a_folder(tmp_path):
    bad = {"id": "ct_1", "conversations": []}
    for name in ("train", "test"):
        convert(write_source(tmp_path / f"{name}.json", [MED_GRIT_TRAIN, bad]), tmp_path / "out")
    convert(tmp_path / "train.json", tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "rejects.jsonl").read_text().splitlines()]
    assert [line["dataset"] for line in lines] == ["test", "train"]
    assert set(json.loads((tmp_path / "out" / "dataset_info.json").read_text())) == {"train", "test"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "train.json",
        "test.json",
        "dataset_info.json",
        "rejects.jsonl",
    }
