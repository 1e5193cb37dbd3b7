# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Stock LLaMA-Factory, no key of this project, trains one step on the demo's data and model."""

import json
import subprocess

import pytest
from miniature import scans
from miniature.models import ModelSize, build_demo_models
from miniature.scans import DataSettings, build_data

from llamafactory_clinkd.utils.environment import cli_command, cli_environment
from llamafactory_clinkd.utils.io import write_text


RECIPE = """
model_name_or_path: {model}
template: qwen2_vl
stage: sft
do_train: true
finetuning_type: full
freeze_vision_tower: true
freeze_multi_modal_projector: false
dataset_dir: {data}
media_dir: {data}
dataset: demo_train
cutoff_len: 512
output_dir: {output}
max_steps: 1
per_device_train_batch_size: 4
learning_rate: 1.0e-3
report_to: none
save_strategy: "no"
"""


@pytest.mark.slow
def test_one_step(tmp_path, toy_scans, monkeypatch):
    monkeypatch.setattr(scans, "find_archive", lambda cache, say: None)
    monkeypatch.setattr(scans, "load_scans", lambda archive: toy_scans)
    data = tmp_path / "data"
    build_data(data, DataSettings(train=8, test=2, pretrain=2), tmp_path / "cache", processes=1)
    rows = json.loads((data / "demo_train.json").read_text())
    texts = [message["content"] for row in rows for message in row["messages"]]
    size = ModelSize(hidden=32, layers=1)
    model = build_demo_models(tmp_path / "models", texts, base=size, teacher=size)["base"]
    recipe = tmp_path / "recipe.yaml"
    write_text(recipe, RECIPE.format(model=model, data=data, output=tmp_path / "out"))
    environment = cli_environment(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hf"))
    command = cli_command("train", recipe)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "train_results.json").read_text())
    assert 3 < results["train_loss"] < 9  # ln(vocabulary) is about 6
    assert (tmp_path / "out" / "model.safetensors").exists()
