# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Each recipe of ``examples/table_a3`` on a tiny model, on CPU: what it trains, and what it leaves as it was."""

import importlib.util
import json
import math

import pytest
from safetensors.torch import load_file
from small_run import build_workspace, llamafactory_cli, losses, write_recipe

from .test_settings import load


pytestmark = pytest.mark.slow
NEEDS = {"badam": "badam", "galore": "galore_torch", "qlora": "bitsandbytes"}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A workspace whose student has three decoder layers, so that the last two are not all of them."""
    return build_workspace(tmp_path_factory.mktemp("table_a3"), layers=3, own_vocabulary=True)


def run(name, models, folder):
    """Runs a recipe with paths and sizes for a tiny model, without DeepSpeed and bf16; returns the log."""
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"the package {NEEDS[name]} is not installed")
    changes = {
        "model_name_or_path": str(models / "student"), "ref_model": str(models / "teacher"),
        "dataset_dir": str(models / "data"), "dataset": "tiny_train", "eval_dataset": "tiny_test",
        "output_dir": str(folder), "deepspeed": None, "bf16": None, "preprocessing_num_workers": None,
        "clinkd_phases": "pseudo_label, distill, correct, predict", "kd_epochs": 1, "pseudo_label_samples": 4,
        "correction_similarity": "lexical", "sasg_scorer": "logprob", "cutoff_len": 512, "max_new_tokens": 4,
        "gradient_accumulation_steps": 2, "learning_rate": 1e-3, "logging_steps": 1, "report_to": "none",
        "disable_tqdm": True, "overwrite_cache": True,
    }  # fmt: skip
    keys = {key: value for key, value in {**load(name), **changes}.items() if value is not None}
    done = llamafactory_cli("train", str(write_recipe(folder.with_suffix(".yaml"), keys)))
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-3000:]
    return log


def changed(models, folder):
    """Names of the saved tensors that differ from the student's, without the prefix."""
    before, after = load_file(models / "student" / "model.safetensors"), load_file(folder / "model.safetensors")
    assert before.keys() == after.keys()
    return {name.removeprefix("model.") for name in before if not before[name].equal(after[name])}


def layers(names):
    """Numbers of the decoder layers among tensor names."""
    return {int(name.split("layers.")[1].split(".")[0]) for name in names if "layers." in name}


def _long(name):
    return pytest.param(name, marks=pytest.mark.long)


@pytest.mark.parametrize("name", ["base", _long("freeze"), _long("badam"), _long("galore")])
def test_full_weights(name, models, tmp_path):
    folder = tmp_path / name
    log = run(name, models, folder)
    names = changed(models, folder)
    assert not any(name.startswith("visual.blocks.") for name in names)
    trained = {"base": {0, 1, 2}, "freeze": {1, 2}, "badam": {0}, "galore": {0, 1, 2}}[name]
    assert layers(names) == trained
    outside = {name for name in names if "layers." not in name}
    if name == "badam":
        assert not outside and "Using BAdam optimizer with layer-wise update, switch mode is ascending" in log
    elif name == "freeze":
        assert outside and all(name.startswith("visual.merger.") for name in outside)
    else:
        assert any("embed_tokens" in name for name in outside)
    if name == "galore":
        assert "Using GaLore optimizer with args: {'rank': 16, 'update_proj_gap': 200, 'scale': 0.25" in log
    check_rest(folder)


@pytest.mark.parametrize("name", [_long("lora"), _long("qlora")])
def test_adapters(name, models, tmp_path):
    folder = tmp_path / name
    log = run(name, models, folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (8, 16, 0.0)
    tensors = load_file(folder / "adapter_model.safetensors")
    assert layers(tensors) == {0, 1, 2} and not any("visual.blocks" in name for name in tensors)
    assert any(tensor.any() for name, tensor in tensors.items() if "lora_B" in name)
    assert ("Quantizing model to 4 bit with bitsandbytes" in log) == (name == "qlora")
    check_rest(folder)


def check_rest(folder):
    """Losses of every phase are numbers, and every question was answered."""
    found = losses(folder / "clinkd" / "distill") + losses(folder)
    # One window of distillation, two of the first round; the second has every row twice, as all answers were wrong.
    assert len(found) == 1 + 2 + 4 and all(math.isfinite(loss) for loss in found)
    assert len((folder / "clinkd" / "predictions.jsonl").read_text().splitlines()) == 4
