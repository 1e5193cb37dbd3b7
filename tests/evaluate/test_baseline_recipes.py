# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The baseline recipes: parsed by stock, and run through it on tiny models of both architectures."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from small_run import drawn_rows, llamafactory_cli, write_recipe
from tiny_llava import build_tiny_llava
from tiny_models import build_tiny_qwen2vl

from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt


FOLDER = Path(__file__).resolve().parents[2] / "examples" / "baselines"
RECIPES = {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in sorted(FOLDER.glob("*.yaml"))}
PLAIN = {"qwen2_vl": "", "llava": "_plain"}
BUILD = {
    "qwen2_vl": lambda folder, texts: build_tiny_qwen2vl(folder, texts=texts),
    "llava": build_tiny_llava,
}


@pytest.mark.parametrize("model", BUILD)
def test_training_and_prediction_go_together(model):
    train, predict = RECIPES[f"{model}_sft"], RECIPES[f"{model}_predict"]
    assert predict["model_name_or_path"] == train["output_dir"]
    assert train["dataset"] == predict["eval_dataset"].replace("test", "train")
    for key in ("template", "dataset_dir", "cutoff_len", "image_max_pixels"):
        assert train.get(key) == predict.get(key), key
    recipe = (FOLDER / f"{model}_sft.yaml").read_text(encoding="utf-8")
    assert f"###   {' '.join(['clinkd', *evaluation(model, predict)])}\n" in recipe


def evaluation(model, predict):
    """The arguments of `clinkd` for a prediction recipe's answers."""
    if predict.get("use_clinkd"):
        return ["evaluate", f"{predict['output_dir']}/clinkd/predictions.jsonl"]
    dataset = f"{predict['dataset_dir']}/{predict['eval_dataset']}.json"
    return ["evaluate", f"{predict['output_dir']}/generated_predictions.jsonl", "--dataset", dataset]


@pytest.mark.parametrize("name", RECIPES)
def test_stock_parses_every_recipe(name, tmp_path):
    from llamafactory.hparams import get_train_args

    keys = {**RECIPES[name], "bf16": False, "deepspeed": None, "output_dir": str(tmp_path)}
    data, training, finetuning = get_train_args({k: v for k, v in keys.items() if v is not None})[1:4]
    assert finetuning.use_clinkd == (name == "qwen2_vl_predict")
    assert (training.do_train, training.predict_with_generate) == (name.endswith("sft"), name.endswith("predict"))
    assert data.template == RECIPES[name]["template"]


@pytest.mark.long
@pytest.mark.parametrize("model", ["qwen2_vl", "llava"])
def test_a_tiny_model_is_trained_predicts_and_is_evaluated(model, tmp_path):
    """It learns one row of each task by heart, so each metric has to come out at its best."""
    rows, names = drawn_rows(tmp_path / "data", 4), [f"med_grit{PLAIN[model]}_{part}" for part in ("train", "test")]
    for name in names:
        write_sharegpt(tmp_path / "data" / f"{name}.json", rows, tags="qwen_vl" if PLAIN[model] else "qwen2_vl")
    write_dataset_info(tmp_path / "data", {name: dataset_info_entry(f"{name}.json") for name in names})
    BUILD[model](tmp_path / "start", [text for row in rows for turn in row["turns"] for text in turn] * 3)

    small = {"dataset_dir": str(tmp_path / "data"), "bf16": False, "deepspeed": None, "preprocessing_num_workers": 1}
    small |= {"overwrite_cache": True, "cutoff_len": 512, "disable_tqdm": True}
    train = {
        **{"model_name_or_path": str(tmp_path / "start"), "output_dir": str(tmp_path / "run")},
        **{"num_train_epochs": 200, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1},
        **{"learning_rate": 1e-2, "save_strategy": "no", "plot_loss": False},
    }
    predict = {"model_name_or_path": str(tmp_path / "run"), "output_dir": str(tmp_path / "run" / "predict")}
    predict |= {"max_new_tokens": 64, "per_device_eval_batch_size": 4}
    for what, changes in (("sft", train), ("predict", predict)):
        keys = {**RECIPES[f"{model}_{what}"], **small, **changes}
        path = write_recipe(tmp_path / f"{what}.yaml", {k: v for k, v in keys.items() if v is not None})
        done = llamafactory_cli("train", str(path))
        assert done.returncode == 0, done.stderr[-3000:]

    found = tmp_path / "metrics.json"
    command = [*evaluation(model, keys), "--json", str(found)]
    clinkd = str(Path(sys.executable).with_name("clinkd"))
    done = subprocess.run([clinkd, *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    tasks = json.loads(found.read_text())["tasks"]
    assert {name: (task["n"], list(task["modalities"])) for name, task in tasks.items()} == {
        name: (1, ["ct"]) for name in ("VG", "ROC", "RC", "MIA")
    }
    assert (tasks["VG"]["macro"], tasks["ROC"]["macro"], tasks["RC"]["macro"]) == (1, 1, 1)
