# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Real runs of rows: tiny models through ``llamafactory-cli train``, from the files in ``examples/reproduce``."""

import importlib.util
import shutil
import subprocess
import sys

import pytest
from engines.engine_runs import deepspeed_config, launch
from miniature.clip_scorer import train_demo_scorer
from small_run import drawn_rows, llamafactory_cli, write_recipe
from tiny_llava import build_tiny_llava

from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt
from llamafactory_clinkd.reproduce.results import find_result, results_folder
from llamafactory_clinkd.reproduce.row_recipes import plan_run, run_folder
from llamafactory_clinkd.reproduce.run import missing_runs, plan_runs, run_missing
from llamafactory_clinkd.reproduce.table_rows import ROWS
from llamafactory_clinkd.utils.io import read_json, read_jsonl


def test_the_command_starts_without_torch():
    code = (
        "import sys; from llamafactory_clinkd.cli import main\n"
        "sys.argv = ['clinkd', 'reproduce', '--help']\n"
        "try: main()\nexcept SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'scipy', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "table3" in done.stdout, done.stderr[-2000:]


@pytest.fixture
def small_benchmark(workspace, tmp_path):
    """The folders of the miniature benchmark with tiny models and drawn pictures."""
    data, models = tmp_path / "mini" / "data", tmp_path / "mini" / "models"
    shutil.copytree(workspace / "data", data)
    for split in ("train", "test"):
        (data / f"{split}.json").rename(data / f"demo_{split}.json")
        write_dataset_info(data, {f"demo_{split}": dataset_info_entry(f"demo_{split}.json")})
    shutil.copytree(workspace / "student", models / "base")
    rows = read_json(data / "demo_train.json")
    train_demo_scorer(
        [(data / row["images"][0], row["messages"][1]["content"]) for row in rows], models / "scorer", steps=1
    )
    return tmp_path


@pytest.mark.long
def test_rows_are_trained_used_and_not_run_again(small_benchmark):
    """SFT, the same model with SASG, and Pseudo-KD, which fails because its teacher is not there."""
    rows = [ROWS[name] for name in ("sft", "sasg", "pseudo_kd")]
    folders = [results_folder(small_benchmark, "mini")]
    plans = plan_runs(rows, [7], "mini")
    todo, _ = missing_runs(plans, rows, small_benchmark, folders)
    outcome = run_missing(todo, small_benchmark)
    assert outcome == {"sft-seed7": None, "sasg-seed7": None}
    assert (
        "ended with 1" in outcome.failed["pseudo_kd-seed7"] and "does not exist" in outcome.failed["pseudo_kd-seed7"]
    )

    sft, sasg = (find_result(plan, folders) for plan in plans[:2])
    assert sft["phases"].keys() == {"distill", "correct", "predict", "evaluate"}
    assert sasg["phases"].keys() == {"predict", "evaluate"}
    assert all(found["metrics"]["tasks"]["VG"]["n"] == 1 and found["seconds"] > 0 for found in (sft, sasg))
    one, two = (run_folder(plan, small_benchmark) for plan in plans[:2])
    assert not list(one.rglob("checkpoint-*")) and (one / "model.safetensors").is_file()
    assert not list(two.rglob("*.safetensors"))
    assert "--- " not in (one / "recipe.yaml").read_text() and (one / "log.txt").stat().st_size > 0

    todo, found = missing_runs(plans, rows, small_benchmark, folders)
    assert [plan.name for plan in todo] == ["pseudo_kd-seed7"] and len(found) == 2

    done = llamafactory_cli("train", str(one / "recipe.yaml"))  # by hand: everything is finished already
    assert done.returncode == 0 and "is finished already, skipped" in done.stdout + done.stderr, done.stderr[-2000:]


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="the package deepspeed is not installed")
def test_a_row_that_only_predicts_does_so_under_the_base_s_zero_3(workspace, tmp_path):
    """Stock refuses to predict under ZeRO-3; the paper's teacher fits on no single GPU."""
    found = {}
    for name, processes in (("one", 1), ("two", 2)):
        keys = plan_run(ROWS["teacher"], 1, "paper").keys | {
            "model_name_or_path": str(workspace / "teacher"), "dataset_dir": str(workspace / "data"),
            "dataset": "tiny_train", "eval_dataset": "tiny_test", "output_dir": str(tmp_path / name), "bf16": None,
            "deepspeed": deepspeed_config(tmp_path, 3) if processes == 2 else None, "preprocessing_num_workers": None,
            "max_new_tokens": 6, "per_device_eval_batch_size": 1, "disable_tqdm": True, "overwrite_cache": True,
        }  # fmt: skip
        done = launch({key: value for key, value in keys.items() if value is not None}, processes=processes)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        rows = read_jsonl(tmp_path / name / "clinkd" / "predictions.jsonl")
        found[name] = [(row["id"], row["response"]) for row in rows]
    assert found["one"] == found["two"] and len(found["one"]) == 4


@pytest.mark.long
def test_llava_goes_through_the_same_phases(tmp_path):
    data = tmp_path / "data"
    rows = drawn_rows(data, 6)
    names = ("med_grit_plain_train", "med_grit_plain_test")
    for name in names:
        write_sharegpt(data / f"{name}.json", rows, tags="qwen_vl")
    write_dataset_info(data, {name: dataset_info_entry(f"{name}.json") for name in names})
    build_tiny_llava(tmp_path / "llava", [text for row in rows for turn in row["turns"] for text in turn] * 3)
    keys = plan_run(ROWS["llava"], 1, "paper").keys | {
        "model_name_or_path": str(tmp_path / "llava"), "dataset_dir": str(data), "output_dir": str(tmp_path / "run"),
        "deepspeed": None, "bf16": None, "preprocessing_num_workers": None, "max_new_tokens": 4, "disable_tqdm": True,
        "overwrite_cache": True, "learning_rate": 1e-3,
    }  # fmt: skip
    path = write_recipe(tmp_path / "llava.yaml", {key: value for key, value in keys.items() if value is not None})
    done = llamafactory_cli("train", str(path))
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    state = read_json(tmp_path / "run" / "clinkd" / "state.json")["phases"]
    assert {name: phase["status"] for name, phase in state.items()} == dict.fromkeys(
        ("distill", "correct", "predict", "evaluate"), "finished"
    )
    tasks = read_json(tmp_path / "run" / "clinkd" / "metrics.json")["tasks"]
    assert {name: task["n"] for name, task in tasks.items()} == {"VG": 2, "ROC": 2, "RC": 1, "MIA": 1}
