# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The miniature benchmark's parts: slices held out for validation, blind copies, and the mean box."""

import hashlib
import json

import numpy as np
import pytest
from miniature import mini
from miniature.held_out import hold_out, part_of, slice_counts
from miniature.mini import MINI, TRAIN, VALIDATION_ROWS, benchmark_id
from miniature.questions import box_text, ref_text
from miniature.rows import split_of
from miniature.volumes import Volume
from PIL import Image
from rich.console import Console
from safetensors.numpy import load_file, save_file

from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt
from llamafactory_clinkd.reproduce.command import choose_rows
from llamafactory_clinkd.reproduce.prepare import (
    MINI_MODELS,
    NOISE_IMAGES,
    benchmark_of,
    inputs_of,
    prepare,
    write_blind,
)
from llamafactory_clinkd.reproduce.row_recipes import plan_run
from llamafactory_clinkd.reproduce.run import mean_box_metrics, plan_runs
from llamafactory_clinkd.reproduce.table_rows import ROWS
from llamafactory_clinkd.utils.io import read_json, read_jsonl, write_json, write_jsonl


@pytest.mark.parametrize(
    ("rows", "built"), [("mean_box", set()), ("mcg,sasg", {"base", "scorer"}), (None, {"base", "teacher", "scorer"})]
)
def test_only_the_models_that_the_runs_need_are_built(tmp_path, monkeypatch, rows, built):
    asked = []
    monkeypatch.setattr(
        mini, "build_mini", lambda directory, cache, show, say, models: asked.append((directory, set(models)))
    )
    plans = plan_runs(choose_rows("table2", "mini", rows), [1], "mini", "b")
    prepare("mini", tmp_path, tmp_path, Console(), plans)
    prepare("mini", tmp_path, tmp_path, Console())
    assert asked == [(tmp_path / "mini", built), (tmp_path / "mini", {"base", "teacher", "scorer"})]


def test_a_result_keeps_the_hashes_of_what_its_run_started_from(tmp_path):
    folder = tmp_path / "mini"
    write_json(folder / "data" / "benchmark.json", {"sha256": {"demo_train.json": "d"}})
    for name, file in MINI_MODELS.items():
        (folder / "models" / name).mkdir(parents=True)
        (folder / "models" / name / file).write_text(name)

    def inputs(row):
        return inputs_of(plan_run(ROWS[row], 1, "mini", "b"), tmp_path)

    sha256 = {name: hashlib.sha256(name.encode()).hexdigest() for name in MINI_MODELS}
    assert inputs("mean_box") == {"demo_train.json": "d"}
    assert inputs("sasg") == {"demo_train.json": "d", "models/base": sha256["base"], "models/scorer": sha256["scorer"]}
    assert inputs("teacher") == {"demo_train.json": "d", "models/teacher": sha256["teacher"]}


@pytest.mark.parametrize("count", [20, 30, 90, 197, 233])
def test_parts_share_no_slice_and_no_neighbour(count):
    parts = {index: split_of(index, count) for index in range(count)}
    parts = {index: part_of(index, count) if part == "train" else part for index, part in parts.items()}
    assert set(parts.values()) >= {"train", "validation", "test"}
    for index in range(count - 1):
        pair = {parts[index], parts[index + 1]} - {None}
        cycle_begins = (index + 1) % min(30, count) == 0
        assert len(pair) < 2 or (cycle_begins and pair == {"test", "train"})
    whole = [parts[index] for index in range(min(30, count))]
    assert whole.count("train") >= 2.5 * whole.count("validation")


def volume(key, slices):
    empty = np.zeros(slices, dtype=np.int16)
    return Volume(key, "mr", key, empty.astype(np.float32), empty, {}, (1.0, 1.0, 1.0), ("axial",), "made up", "none")


def make_data(folder, count=300):
    """What ``build_data`` writes, without pictures: rows of slices 0 to 21 of each cycle, every tenth of a picture."""
    rng = np.random.default_rng(0)
    for split in ("train", "pretrain", "test"):
        rows, facts = [], []
        for number in range(count):
            name = f"mr_{split}_{number:05d}"
            fact = {"id": name, "task": "VG", "modality": "mr", "scan": "brain", "plane": "axial"}
            x, y = (int(each) for each in rng.integers(0, 500, 2))
            fact |= {
                "slice": int(rng.integers(0, 22)) + 30 * int(rng.integers(0, 3)),
                "structure": f"part {number % 7}",
            }
            fact |= {"box": [x, y, x + 300, y + 300]}
            if number % 10 == 0:
                fact = {"id": name, "task": "MIA", "modality": "x", "scan": "chest"}
            facts.append(fact)
            turns = [["Where?", box_text(fact["box"])]] if "box" in fact else [["What?", "A chest."]]
            if "structure" in fact:
                turns[0][0] = f"Where is the {ref_text(fact['structure'])}?"
            rows.append({"id": name, "image": f"images/{name}.png", "task": fact["task"],
                         "modality": fact["modality"], "turns": turns})  # fmt: skip
        write_sharegpt(folder / f"demo_{split}.json", rows)
        write_jsonl(folder / f"facts_{split}.jsonl", facts)
    cells = np.arange(count, dtype=np.int16)[:, None, None] * np.ones((1, 2, 2), np.int16)
    known = {"cells": cells, "boxes": cells.repeat(2, 0).reshape(count, 2, 2, 2)}
    save_file(known, folder / "cells_pretrain.safetensors", {"classes": "5"})
    write_dataset_info(
        folder, {f"demo_{split}": dataset_info_entry(f"demo_{split}.json") for split in ("train", "test")}
    )


def test_validation_is_cut_out_of_training_and_pretraining(tmp_path):
    make_data(tmp_path)
    whole = {fact["id"]: fact for fact in read_jsonl(tmp_path / "facts_train.jsonl")}
    kept = hold_out(tmp_path, [volume("brain", (10, 10, 90))], train=180, validation=40)
    assert (kept["train"], kept["validation"]) == (180, 40)
    found = {
        name: read_jsonl(tmp_path / f"facts_{name}.jsonl") for name in ("train", "validation", "pretrain", "test")
    }
    slices = {name: {fact["slice"] % 30 for fact in facts if "slice" in fact} for name, facts in found.items()}
    assert slices["train"] == slices["pretrain"] == set(range(16)) and slices["validation"] == {18, 19, 20, 21}
    assert all("slice" in fact for fact in found["validation"]) and any("slice" not in fact for fact in found["train"])
    assert len(found["test"]) == 300
    for name in ("train", "validation", "pretrain"):
        rows = read_json(tmp_path / f"demo_{name}.json")
        assert [row["id"] for row in rows] == [fact["id"] for fact in found[name]]
    assert {fact["id"] for fact in found["train"] + found["validation"]} < whole.keys()
    numbers = [int(fact["id"][-5:]) for fact in found["pretrain"]]
    assert load_file(tmp_path / "cells_pretrain.safetensors")["cells"][:, 0, 0].tolist() == numbers
    assert "demo_validation" in read_json(tmp_path / "dataset_info.json")


def test_too_few_rows_are_told_before_anything_is_cut(tmp_path):
    make_data(tmp_path)
    before = (tmp_path / "demo_train.json").read_bytes()
    with pytest.raises(ValueError, match="for train, 290 are wanted: raise `train`"):
        hold_out(tmp_path, [volume("brain", (10, 10, 90))], train=290, validation=10)
    assert (tmp_path / "demo_train.json").read_bytes() == before


def test_counts_of_slices():
    assert slice_counts([volume("a", (3, 4, 5))]) == {("a", "sagittal"): 3, ("a", "coronal"): 4, ("a", "axial"): 5}


def test_the_benchmark_is_as_large_as_it_has_to_be():
    data = MINI[0]
    assert TRAIN >= 3000 and data.test * 0.5 >= 1050 and VALIDATION_ROWS >= 300
    assert data.train * 16 / 22 > TRAIN * 1.02 and data.train * 4 / 22 > VALIDATION_ROWS * 1.1
    assert benchmark_id() == benchmark_id() and len(benchmark_id()) == 64


def test_blind_rows_differ_in_their_pictures_only(tmp_path):
    make_data(tmp_path, count=100)
    assert write_blind(tmp_path, ["demo_train", "demo_test"], side=56) == ["demo_train_blind", "demo_test_blind"]
    rows, blind = (read_json(tmp_path / f"demo_train{end}.json") for end in ("", "_blind"))
    assert [{**row, "images": None} for row in rows] == [{**row, "images": None} for row in blind]
    used = {row["images"][0] for row in blind}
    assert 20 < len(used) <= NOISE_IMAGES and not used & {row["images"][0] for row in rows}
    with Image.open(tmp_path / blind[0]["images"][0]) as picture:
        values = np.asarray(picture)
    assert values.shape == (56, 56) and 60 < values.std() < 90
    assert read_json(tmp_path / "dataset_info.json")["demo_test_blind"]["file_name"] == "demo_test_blind.json"
    first = (tmp_path / "demo_train_blind.json").read_bytes()
    write_blind(tmp_path, ["demo_train"], side=56)
    assert (tmp_path / "demo_train_blind.json").read_bytes() == first


def test_a_modality_that_only_the_name_told_is_written_down(tmp_path):
    rows = [{"messages": [{"role": "user", "content": "<image>What?"}], "images": ["images/pet_3.png"]},
            {"messages": [{"role": "user", "content": "What?"}], "images": []}]  # fmt: skip
    (tmp_path / "a.json").write_text(json.dumps(rows))
    write_dataset_info(tmp_path, {"a": dataset_info_entry("a.json")})
    write_blind(tmp_path, ["a"], side=28)
    found = read_json(tmp_path / "a_blind.json")
    assert found[0]["modality"] == "pet" and found[1] == rows[1]
    with pytest.raises(ValueError, match="has no b: convert"):
        write_blind(tmp_path, ["b"], side=28)


def test_the_mean_box_is_of_all_that_the_models_were_shown(tmp_path):
    make_data(tmp_path)
    facts = {name: read_jsonl(tmp_path / f"facts_{name}.jsonl") for name in ("train", "pretrain", "test")}
    seen = [fact for fact in facts["train"] + facts["pretrain"] if "box" in fact]
    asked = [fact for fact in facts["test"] if fact["task"] == "VG"]
    hits = []
    for fact in asked:
        x1, y1, x2, y2 = fact["box"]
        alike = [each["box"] for each in seen if each["structure"] == fact["structure"]]
        left, top, right, bottom = np.mean(alike, axis=0)
        width, height = min(right, x2) - max(left, x1), min(bottom, y2) - max(top, y1)
        shared = max(0.0, width) * max(0.0, height)
        hits.append(shared / ((right - left) * (bottom - top) + (x2 - x1) * (y2 - y1) - shared) > 0.5)
    found = mean_box_metrics(tmp_path, "demo_train", "demo_test")["tasks"]["VG"]
    assert found["macro"] == pytest.approx(np.mean(hits)) and 0.05 < found["macro"] < 0.95
    assert found["n"] == len(asked) == 270 and found["ci"][0] < found["macro"] < found["ci"][1]


def test_the_mean_box_of_med_grit_needs_its_rows_alone(tmp_path):
    make_data(tmp_path)
    for path in tmp_path.glob("facts_*.jsonl"):
        path.unlink()
    found = mean_box_metrics(tmp_path, "demo_train", "demo_test")["tasks"]["VG"]
    assert found["n"] == 270 and found["keys"] == 7 and found["fallback"] == 0
    with pytest.raises(FileNotFoundError):
        mean_box_metrics(tmp_path, "med_grit_train", "med_grit_test")


def test_the_recorded_identity_is_that_of_the_settings():
    assert benchmark_of("mini") == benchmark_id()


def test_an_installed_wheel_has_no_miniature(tmp_path, monkeypatch):
    monkeypatch.setattr("llamafactory_clinkd.reproduce.prepare.__file__", str(tmp_path / "a" / "b" / "prepare.py"))
    with pytest.raises(FileNotFoundError, match="run the command in a checkout"):
        prepare("mini", tmp_path, tmp_path, Console())
