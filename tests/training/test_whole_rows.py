# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Rows that `cutoff_len` cuts: named before the first step, in every phase; rows of mixed media in one set."""

import json
from types import SimpleNamespace

import pytest
from PIL import Image
from small_run import drawn_rows, losses, recipe

from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt
from llamafactory_clinkd.training.whole_rows import CUT_ROWS, PACKED, TEXT, describe_cut_rows, without_cut_rows
from llamafactory_clinkd.utils.io import read_jsonl


def run(keys):
    from llamafactory.train.tuner import run_exp

    run_exp(keys)


def data_keys(folder, rows, test=None):
    write_sharegpt(folder / "train.json", rows)
    write_sharegpt(folder / "test.json", test or rows)
    entries = {f"tiny_{name}": dataset_info_entry(f"{name}.json") for name in ("train", "test")}
    write_dataset_info(folder, entries)
    return {"dataset_dir": str(folder)}


@pytest.fixture
def rows(tmp_path):
    return drawn_rows(tmp_path / "data", 4)


def with_large_image(folder, row):
    Image.new("RGB", (600, 600)).save(folder / row["image"])


@pytest.mark.parametrize(
    ("phase", "workers"), [("pseudo_label", 1), ("distill", 2), ("correct", 1), ("predict", 1)], ids=str
)
def test_a_row_whose_image_is_cut(workspace, tmp_path, rows, phase, workers):
    with_large_image(tmp_path / "data", rows[2])
    keys = {"clinkd_phases": phase, "cutoff_len": 80, "preprocessing_num_workers": workers}
    with pytest.raises(ValueError) as found:
        run(recipe(workspace, tmp_path / "out", **keys, **data_keys(tmp_path / "data", rows)))
    name = "test" if phase == "predict" else "train"
    message = str(found.value)
    assert f"{name}.json, row 3 (id ct_002) has" in message and "loses image or video tokens" in message
    assert "`cutoff_len: 80` cuts" in message and "lower `image_max_pixels`" in message
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_a_row_that_does_not_fit_into_a_packed_one(workspace, tmp_path, rows):
    rows[1]["turns"][0][1] = "a long answer " * 60
    keys = {"packing": True, "teacher_rope_variant": "mcg", "cutoff_len": 200}
    with pytest.raises(ValueError, match=r"`cutoff_len: 200` cuts 1 of 4 rows: train.json, row 2 .* too long to be"):
        run(recipe(workspace, tmp_path / "out", **keys, **data_keys(tmp_path / "data", rows)))


def test_a_question_without_its_end_is_not_answered(workspace, tmp_path, rows):
    rows[0]["turns"][0][0] = "why and where " * 60
    keys = data_keys(tmp_path / "data", drawn_rows(tmp_path / "data", 4), rows)
    with pytest.raises(ValueError, match=r"test.json, row 1 \(id ct_000\) has .* tokens and loses its question"):
        run(recipe(workspace, tmp_path / "out", clinkd_phases="distill,predict", cutoff_len=100, **keys))
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_shortened_text_is_reported_and_trained_on(workspace, tmp_path, rows, caplog):
    rows[3]["turns"][0][1] = "a long answer " * 60
    run(recipe(workspace, tmp_path / "out", cutoff_len=100, **data_keys(tmp_path / "data", rows)))
    assert "`cutoff_len: 100` cuts 1 of 4 rows: train.json, row 4 (id ct_003)" in caplog.text
    assert losses(tmp_path / "out")


class Table(dict):
    """As much of a `datasets.Dataset` as is read."""

    def remove_columns(self, name):
        return Table({key: value for key, value in self.items() if key != name})


def test_row_numbers_add_up_over_batches_and_packed_rows():
    aligned = [{"_clinkd_row": f"a.json, row {number}", "_clinkd_id": ""} for number in range(1, 8)]
    records = [json.dumps([3, [[1, 90, PACKED]]]), "", json.dumps([4, [[0, 95, TEXT], [3, 99, PACKED]]])]
    table = Table({"input_ids": [[]] * 3, CUT_ROWS: records})
    with pytest.raises(ValueError) as found:
        without_cut_rows(table, aligned, SimpleNamespace(cutoff_len=80, packing=False), strict=True)
    assert "cuts 2 of 7 rows: a.json, row 2 has 90 tokens" in str(found.value)
    assert "a.json, row 7 has 99 tokens, too long to be packed. Raise it to 99" in str(found.value)
    packed = SimpleNamespace(cutoff_len=79, packing=True)  # stock keeps one token of the recipe's 80 back
    with pytest.raises(ValueError, match="`cutoff_len: 80` cuts .* Raise it to 100,"):
        without_cut_rows(table, aligned, packed, strict=True)
    assert CUT_ROWS not in without_cut_rows(table, aligned, packed, strict=False)
    assert "and 5 more" in describe_cut_rows([(0, 90, TEXT)] * 15, aligned, 80)


POSITIONS = {"rope_variant": "mcg", "teacher_rope_variant": "mcg"}
"""Stock's positions of videos are wrong in transformers 5.3.0 to 5.5.4, and a run with them is refused."""


def mixed_rows(folder):
    """Rows with one picture, with two, with none, and with a video of four frames."""
    rows = drawn_rows(folder, 8)
    write_sharegpt(folder / "train.json", rows)
    mixed = json.loads((folder / "train.json").read_text(encoding="utf-8"))
    frames = [mixed[index]["images"][0] for index in range(4)]
    for row, images, videos, text in (
        (mixed[1], [frames[1], frames[2]], [], "<image>\n<image>\nWhich is lighter?"),
        (mixed[2], [], [], "What is a square?"),
        (mixed[3], [], [frames], "<video>\nWhat moves?"),
        (mixed[6], [], [], "What is a circle?"),
    ):
        row["images"], row["videos"] = images, videos
        row["messages"][0]["content"] = text
    for row in mixed:
        row.setdefault("videos", [])
    entry = dataset_info_entry("train.json")
    entry["columns"]["videos"] = "videos"
    (folder / "train.json").write_text(json.dumps(mixed), encoding="utf-8")
    write_dataset_info(folder, {"tiny_train": entry, "tiny_test": entry})
    return mixed


def test_pictures_videos_and_text_in_one_set(workspace, tmp_path):
    mixed_rows(tmp_path / "data")
    keys = {"clinkd_phases": "pseudo_label,distill,correct,predict,evaluate", "pseudo_label_samples": 8}
    keys |= POSITIONS | {"correction_rounds": 2, "per_device_train_batch_size": 2}
    run(recipe(workspace, tmp_path / "out", dataset_dir=str(tmp_path / "data"), **keys))
    folder = tmp_path / "out" / "clinkd"
    labels, predictions = read_jsonl(folder / "pseudo_labels.jsonl"), read_jsonl(folder / "predictions.jsonl")
    assert [row["error"] for row in labels] == [None] * 8 and len(predictions) == 8
    assert all(row["candidates"] and "error" not in row for row in predictions), predictions
    assert (folder / "corrections" / "round-1.summary.json").is_file()


@pytest.mark.parametrize(("column", "name"), [("images", "ct_002.png"), ("videos", "ct_003.png")])
def test_a_second_picture_or_a_frame_that_is_missing(workspace, tmp_path, column, name):
    mixed = mixed_rows(tmp_path / "data")
    for row in mixed:  # only the second picture of row 2, or the last frame, names the file
        if row["images"] == [f"images/{name}"]:
            row["images"] = ["images/ct_000.png"]
    (tmp_path / "data" / "train.json").write_text(json.dumps(mixed), encoding="utf-8")
    (tmp_path / "data" / "images" / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{name} of row .* does not exist \(train.json, row [24]\)"):
        run(recipe(workspace, tmp_path / "out", dataset_dir=str(tmp_path / "data"), **POSITIONS))
