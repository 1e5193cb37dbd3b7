# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What runs start from: the demo's data and models at mini scale, blind copies, and the mean box."""

import json

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt
from llamafactory_clinkd.demo import run_demo
from llamafactory_clinkd.reproduce.prepare import NOISE_IMAGES, benchmark_of, inputs_of, prepare, write_blind
from llamafactory_clinkd.reproduce.row_recipes import DEMO, plan_run
from llamafactory_clinkd.reproduce.run import mean_box_metrics
from llamafactory_clinkd.reproduce.table_rows import ROWS
from llamafactory_clinkd.utils.io import file_sha256, read_json, read_jsonl


def test_the_miniature_is_the_demo_s_data_with_blind_copies(tmp_path):
    prepare("mini", tmp_path, Console(quiet=True))
    data = tmp_path / "mini" / "data"
    for part in ("train", "test"):
        assert (data / f"demo_{part}.json").read_bytes() == (DEMO / "data" / f"demo_{part}.json").read_bytes()
        blind = read_json(data / f"demo_{part}_blind.json")
        assert all((data / row["images"][0]).is_file() and "noise" in row["images"][0] for row in blind)
    assert read_json(data / "benchmark.json")["id"] == benchmark_of("mini") and benchmark_of("paper") is None
    written = (data / "demo_test_blind.json").stat().st_mtime_ns
    prepare("mini", tmp_path, Console(quiet=True))
    assert (data / "demo_test_blind.json").stat().st_mtime_ns == written


def test_a_dry_run_writes_nothing(tmp_path):
    prepare("mini", tmp_path, Console(quiet=True), dry_run=True)
    assert not list(tmp_path.iterdir())


def test_a_damaged_model_is_no_benchmark(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "sha256.json").write_text('{"base/model.safetensors": "0"}')
    monkeypatch.setattr(run_demo, "HERE", tmp_path)
    with pytest.raises(RuntimeError, match="missing or damaged"):
        prepare("mini", tmp_path, Console(quiet=True))


def test_a_result_keeps_the_hashes_of_what_its_run_started_from():
    data = {f"demo_{part}.json": file_sha256(DEMO / "data" / f"demo_{part}.json") for part in ("train", "test")}
    sha256 = {
        f"models/{name}": file_sha256(DEMO / "models" / name / file)
        for name, file in (
            ("base", "model.safetensors"), ("teacher", "model.safetensors"), ("scorer", "open_clip_model.safetensors"),
        )
    }  # fmt: skip

    def named(row):
        found = inputs_of(plan_run(ROWS[row], 1, "mini", "b"))
        assert found.items() <= (data | sha256).items() and data.items() <= found.items()
        return {name.removeprefix("models/") for name in found.keys() - data.keys()}

    assert named("mean_box") == set() and named("sasg") == {"base", "scorer"} and named("teacher") == {"teacher"}
    assert inputs_of(plan_run(ROWS["sft"], 1, "paper")) == {}


def test_the_mean_box_of_the_miniature_is_that_of_its_facts():
    facts = {part: read_jsonl(DEMO / "data" / f"facts_{part}.jsonl") for part in ("train", "test")}
    asked = [fact for fact in facts["test"] if fact["task"] == "VG"]
    hits = []
    for fact in asked:
        x1, y1, x2, y2 = fact["box"]
        alike = [
            each["box"]
            for each in facts["train"]
            if each.get("structure") == fact["structure"] and each["plane"] == fact["plane"] and "box" in each
        ]
        if not alike:
            alike = [each["box"] for each in facts["train"] if "box" in each]
        left, top, right, bottom = np.mean(alike, axis=0)
        width, height = min(right, x2) - max(left, x1), min(bottom, y2) - max(top, y1)
        shared = max(0.0, width) * max(0.0, height)
        hits.append(shared / ((right - left) * (bottom - top) + (x2 - x1) * (y2 - y1) - shared) > 0.5)
    found = mean_box_metrics(DEMO / "data", "demo_train", "demo_test")["tasks"]["VG"]
    assert found["macro"] == pytest.approx(np.mean(hits)) and found["n"] == len(asked) == 110


def make_data(folder, count=300):
    """Rows as the miniature's, without pictures: every tenth is of a whole picture."""
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        rows = []
        for number in range(count):
            x, y = (int(each) for each in rng.integers(0, 500, 2))
            turns, task = [["What?", "A chest."]], "MIA"
            if number % 10:
                box = f"<box>({x},{y}),({x + 300},{y + 300})</box>"
                turns, task = [[f"Where is the <ref>part {number % 7}</ref>?", box]], "VG"
            name = f"mr_{split}_{number:05d}"
            rows.append({"id": name, "image": f"images/{name}.png", "task": task, "modality": "mr", "turns": turns})
        write_sharegpt(folder / f"demo_{split}.json", rows)
    write_dataset_info(
        folder, {f"demo_{split}": dataset_info_entry(f"demo_{split}.json") for split in ("train", "test")}
    )


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


def test_the_mean_box_of_med_grit_needs_its_rows_alone(tmp_path):
    make_data(tmp_path)
    found = mean_box_metrics(tmp_path, "demo_train", "demo_test")["tasks"]["VG"]
    assert found["n"] == 270 and found["keys"] == 7 and found["fallback"] == 0
    with pytest.raises(FileNotFoundError):
        mean_box_metrics(tmp_path, "med_grit_train", "med_grit_test")
