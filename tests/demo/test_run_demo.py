# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The shipped models and data, and the demo that runs on them."""

import json
import re
import shutil

import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors import safe_open
from typer.testing import CliRunner

from llamafactory_clinkd.cli import app
from llamafactory_clinkd.demo import run_demo as demo
from llamafactory_clinkd.select import load_scorer
from llamafactory_clinkd.utils.boxes import TASKS
from llamafactory_clinkd.utils.io import read_json, read_jsonl, write_json


MODELS, DATA = demo.HERE / "models", demo.HERE / "data"


def test_the_shipped_models_are_whole_small_and_in_half_precision():
    demo.check_assets()
    weights = sorted(MODELS.glob("*/*.safetensors"))
    assert [path.parent.name for path in weights] == ["base", "scorer", "teacher"]
    assert sum(path.stat().st_size for path in weights) < 12e6
    for path in weights:
        with safe_open(path, framework="pt") as file:
            dtypes = {file.get_tensor(name).dtype for name in file.keys() if file.get_tensor(name).is_floating_point()}  # noqa: SIM118
        assert dtypes == {torch.float16}, path
        assert (path.parent / "README.md").is_file()


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_model_is_refused(tmp_path, monkeypatch, damage):
    shutil.copytree(MODELS, tmp_path / "models")
    path = tmp_path / "models" / "base" / "config.json"
    path.write_text("{}") if damage == "changed" else path.unlink()
    monkeypatch.setattr(demo, "HERE", tmp_path)
    with pytest.raises(RuntimeError, match=r"config.json is missing or damaged.*Reinstall"):
        demo.check_assets()


@pytest.mark.parametrize("name", ["base", "teacher"])
def test_transformers_alone_loads_a_language_model(name):
    from transformers import AutoProcessor, Qwen2VLForConditionalGeneration

    model = Qwen2VLForConditionalGeneration.from_pretrained(MODELS / name, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(MODELS / name)
    assert next(model.parameters()).dtype == torch.float32
    assert model.get_input_embeddings().num_embeddings == len(processor.tokenizer)


def test_open_clip_alone_loads_the_scorer():
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{MODELS / 'scorer'}")
    assert preprocess is not None and next(model.parameters()).shape
    image = Image.open(DATA / read_json(DATA / "demo_test.json")[0]["images"][0])
    a, b = load_scorer(str(MODELS / "scorer")).score([image], [["An axial abdominal CT.", "A box."]])[0]
    assert a != b


def test_the_rows_have_their_pictures_and_share_no_slice():
    slices = {}
    for split in ("train", "test"):
        rows, facts = read_json(DATA / f"demo_{split}.json"), read_jsonl(DATA / f"facts_{split}.jsonl")
        assert [row["id"] for row in rows] == [fact["id"] for fact in facts] and {row["task"] for row in rows} == set(
            TASKS
        )
        assert all((DATA / name).is_file() for row in rows for name in row["images"])
        slices[split] = {(fact["scan"], fact["plane"], fact["slice"]) for fact in facts}
    assert not slices["train"] & slices["test"]
    neighbours = {(scan, plane, number + step) for scan, plane, number in slices["test"] for step in (-1, 1)}
    assert not slices["train"] & neighbours


def test_the_teacher_is_better_than_the_blind_answers():
    teacher, blind = read_json(MODELS / "teacher_scores.json")["tasks"], read_json(DATA / "blind.json")
    for task in TASKS:
        assert teacher[task]["ci"][0] > blind[task]["ci"][1], task


def test_the_table_has_a_line_for_each_stage():
    entry = {task: {"macro": 0.123, "ci": [0.1, 0.15], "metric": "recall"} for task in TASKS}
    console = Console(record=True, width=120)
    console.print(demo._score_table({"before (base)": entry, "after selection": entry}))
    text = console.export_text()
    assert "before (base)" in text and text.count("12.3 [10, 15]") == 8


def test_the_report_has_the_stages_of_the_table(tmp_path):
    entry = {task: {"macro": 0.123, "ci": [0.1, 0.15], "metric": "recall"} for task in TASKS}
    folders = [tmp_path / name for name in ("before", "distilled", "run")]
    for folder in folders:
        write_json(folder / "clinkd" / "metrics.json", {"tasks": entry})
    names = ("before (base)", "the teacher", "after distillation", "after correction", "after selection")
    report = demo._report(*folders, dict.fromkeys((*names, "blind answers"), entry))
    text = report.read_text(encoding="utf-8")
    table = text[text.index('aria-label="Scores of all methods"') :]
    table = table[: table.index("</table>")]
    heads = [re.sub(r"<small>.*|<[^>]*>", "", head) for head in re.findall(r'<th scope="row">(.*?)</th>', table)]
    assert heads == [*names, "blind answers"] and f"from {demo.BLIND_ROWS}" in table
    assert text.index(table) < text.index("Data and weights")
    assert table.count("12.30<small>10.0–15.0</small>") == 5 * len(TASKS)


@pytest.mark.slow
def test_the_quick_demo_learns(tmp_path):
    done = CliRunner().invoke(app, ["demo", "--quick", "--directory", str(tmp_path)])
    assert done.exit_code == 0, (done.output, done.exception)
    assert "Report:" in done.output and (tmp_path / "run" / "clinkd" / "report.html").is_file()
    before = json.loads((tmp_path / "before" / "clinkd" / "metrics.json").read_text())["tasks"]
    after = json.loads((tmp_path / "run" / "clinkd" / "metrics.json").read_text())["tasks"]
    assert sum(after[task]["macro"] > before[task]["macro"] for task in TASKS) >= 3
