# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Stock LLaMA-Factory, no key of this project, trains the shipped base for one step on the shipped data."""

import json
import subprocess

import pytest

from llamafactory_clinkd.demo.run_demo import HERE
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
max_samples: 8
cutoff_len: 512
output_dir: {output}
max_steps: 1
per_device_train_batch_size: 4
learning_rate: 1.0e-3
report_to: none
save_strategy: "no"
"""


@pytest.mark.slow
def test_one_step(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    write_text(recipe, RECIPE.format(model=HERE / "models" / "base", data=HERE / "data", output=tmp_path / "out"))
    environment = cli_environment(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hf"))
    command = cli_command("train", recipe)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "out" / "train_results.json").read_text())
    assert 0.5 < results["train_loss"] < 3  # an untrained model has about 7, the logarithm of the vocabulary
    assert (tmp_path / "out" / "model.safetensors").exists()
