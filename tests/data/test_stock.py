# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What was converted, through stock LLaMA-Factory: loaded with and without the plugin, counted, and trained on."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import build_tiny_qwen2vl, qwen_tokenizer_available
from vqa_rad import VQA_RAD, build_vqa_rad_model, needs_vqa_rad

from llamafactory_clinkd.data.check import check
from llamafactory_clinkd.data.convert import Options, convert
from llamafactory_clinkd.data.coordinates import IMAGE_MAX_PIXELS, resized
from llamafactory_clinkd.data.row_check import count_tokens
from llamafactory_clinkd.utils.boxes import parse_boxes
from llamafactory_clinkd.utils.environment import cli_command

from .samples import draw, sharegpt, write_source


LOAD = """
import json, sys
recipe = json.load(open(sys.argv[1]))
from llamafactory.hparams import get_train_args
model_args, data_args, training_args, finetuning_args, _ = get_train_args(recipe)
from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
from llamafactory.model import load_tokenizer
parts = load_tokenizer(model_args)
template = get_template_and_fix_tokenizer(parts["tokenizer"], data_args)
rows = get_dataset(template, model_args, data_args, training_args, stage="sft", **parts)["train_dataset"]
found = []
for row in rows:
    answer = parts["tokenizer"].decode([token for token in row["labels"] if token != -100])
    whole = parts["tokenizer"].decode(row["input_ids"])
    found.append({"answer": answer, "row": whole, "tokens": len(row["input_ids"])})
clinkd = "use_clinkd" in {f for f in type(finetuning_args).__dataclass_fields__}
json.dump({"plugin": clinkd, "rows": found}, open(sys.argv[2], "w"))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    if not qwen_tokenizer_available():
        pytest.skip("the package dashscope, which carries Qwen2-VL's tokenizer file, is not installed")
    return build_tiny_qwen2vl(tmp_path_factory.mktemp("model"), hidden_size=32, layers=1)


def recipe(model, folder, media, out, **changes):
    keys = {
        "model_name_or_path": str(model),
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full",
        "freeze_vision_tower": True,
        "template": "qwen2_vl",
        "dataset_dir": str(folder),
        "dataset": "source",
        "media_dir": str(media),
        "output_dir": str(out),
        "cutoff_len": 4096,
        "overwrite_cache": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    path = Path(out).with_suffix(".yaml")  # JSON is YAML; llamafactory-cli 0.9.5 fails on .json
    path.write_text(json.dumps(keys | changes))
    return path


def run(*command, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def grit(tmp_path, count):
    """Med-GRIT rows with random boxes, in question or answer, and their pictures."""
    rng, rows, boxes = random.Random(5), [], []
    for number in range(count):
        name = f"ct_00--set--case_{number}--x_0001"
        draw(tmp_path, f"{name}.png", (rng.randrange(30, 300), rng.randrange(30, 300)))
        x, y = rng.randrange(500), rng.randrange(500)
        box = (x, y, x + rng.randrange(1, 499), y + rng.randrange(1, 499))
        tag = "<box>({},{}),({},{})</box>".format(*box)
        question, answer = [("Where is the liver?", f"<ref>liver</ref>{tag}"), (f"What is at {tag}?", "liver")][
            number % 2
        ]
        turns = [{"from": "human", "value": f"<img>x/{name}.png</img>\n{question}"}, {"from": "gpt", "value": answer}]
        rows.append({"id": name, "conversations": turns})
        boxes.append(box)
    return write_source(tmp_path / "source.json", rows), boxes


@pytest.mark.slow
@pytest.mark.parametrize("tags", ["qwen2_vl", pytest.param("qwen_vl", marks=pytest.mark.long)])
def test_boxes_come_back_equal_with_and_without_the_plugin(model, tmp_path, tags):
    source, boxes = grit(tmp_path, 24)
    out = tmp_path / "out"
    done = convert(source, out, options=Options(tags=tags))
    path, answers = recipe(model, out, tmp_path, tmp_path / "run"), []
    for autoload in ("0", "1"):
        found = tmp_path / f"found_{autoload}.json"
        run(sys.executable, "-c", LOAD, path, found, TORCH_DEVICE_BACKEND_AUTOLOAD=autoload)
        answers.append(json.loads(found.read_text()))
    without, with_plugin = answers
    assert (without["plugin"], with_plugin["plugin"]) == (False, True)
    assert without["rows"] == with_plugin["rows"]
    assert len(without["rows"]) == done.rows_out == 24
    for row, box in zip(without["rows"], boxes, strict=True):
        assert parse_boxes(row["row"]) == [box]  # the whole row: question and answer
    assert [parse_boxes(row["answer"]) for row in without["rows"][::2]] == [[box] for box in boxes[::2]]

    from PIL import Image

    for row, stock in zip(json.loads(done.path.read_text()), without["rows"], strict=True):
        with Image.open(tmp_path / row["images"][0]) as picture:
            counted = count_tokens(str(model), row["messages"], [picture.size], IMAGE_MAX_PIXELS)
            assert abs(counted - stock["tokens"]) <= 1


@pytest.mark.slow
def test_rows_that_are_too_long_are_found(model, tmp_path):
    draw(tmp_path, "ct_0.png")
    rows = [sharegpt("ct_0.png"), sharegpt("ct_0.png", answer="liver " * 300, id="long")]
    path = write_source(tmp_path / "set.json", rows)
    found = check(path, model=str(model), cutoff_len=200, workers=1)
    assert dict(found.counts) == {"too_long": 1}
    assert found.examples["too_long"][0]["row"] == 2
    assert 300 < found.longest < 400
    assert not check(path, model=str(model), cutoff_len=400, workers=1).counts


def test_resized_keeps_within_the_limits():
    assert resized(300, 200) == (300, 200)
    assert resized(3000, 2000) == (940, 627)
    assert resized(10, 10) == (32, 32)
    assert resized(4, 1200) == (28, 1200)
    assert resized(1, 100_000) == (28, 5040)


@needs_vqa_rad
def test_all_rows_of_vqa_rad_convert(tmp_path):
    done = convert(VQA_RAD / "trainset.json", tmp_path, name="vqa_rad")
    assert (done.format, done.rows_in, done.rows_out, done.rejected) == ("vqa_rad", 3042, 3042, 0)
    source = json.loads((VQA_RAD / "trainset.json").read_text())
    rows = json.loads(done.path.read_text())
    for row, origin in zip(rows, source, strict=True):
        assert row["messages"][0]["content"] == "<image>" + origin["question"].strip()
        assert row["messages"][1]["content"] == str(origin["answer"]).strip()
        assert row["images"] == [origin["image_name"]]
    found = check(done.path, image_folder=VQA_RAD / "images", workers=1)
    assert (found.rows, found.images, found.errors) == (3042, 314, 0)


@pytest.mark.long
@needs_vqa_rad
def test_a_tiny_model_trains_one_epoch_on_vqa_rad(tmp_path):
    convert(VQA_RAD / "trainset.json", tmp_path / "data", name="source")
    out = tmp_path / "run"
    path = recipe(
        build_vqa_rad_model(tmp_path / "model"),
        tmp_path / "data",
        VQA_RAD / "images",
        out,
        num_train_epochs=1,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        image_max_pixels=56 * 56,
        logging_steps=20,
        save_strategy="no",
    )
    run(*cli_command("train", path))
    state = json.loads((out / "trainer_state.json").read_text())
    assert (state["global_step"], state["epoch"]) == (381, 1.0)  # ceil(3042 / 8)
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]
