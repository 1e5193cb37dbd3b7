# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``rebuild.sh`` runs from end to end: the shipped data come out of the scans again, and training is deterministic.

Its training is cut to 64 pictures and 3 steps a part (``SHORT=1``), so the models are not the shipped ones.
"""

import sys

import pytest
import torch
from PIL import Image, ImageChops
from safetensors.torch import load_file

from llamafactory_clinkd.demo.run_demo import HERE
from llamafactory_clinkd.utils.io import read_json, read_jsonl


pytestmark = pytest.mark.slow
LOSSES = {  # mean of the three steps; another processor rounds differently
    "stage1/tower": 7.770885,
    "stage1/base": 6.196911,
    "stage1/teacher": 6.128736,
    "tower": 7.248515,
    "base": 5.790681,
    "teacher": 5.686355,
}


def test_the_shipped_rows_are_drawn_again(rebuilt):
    data = rebuilt / "data"
    for split in ("train", "test"):
        assert read_json(data / f"demo_{split}.json") == read_json(HERE / "data" / f"demo_{split}.json")
        assert read_jsonl(data / f"facts_{split}.jsonl") == read_jsonl(HERE / "data" / f"facts_{split}.jsonl")
    for path in sorted((HERE / "data" / "images").iterdir())[::10]:
        with Image.open(path) as shipped, Image.open(data / "images" / path.name) as drawn:
            assert max(ImageChops.difference(shipped, drawn).getextrema()) <= 1, path.name
    blind, shipped = read_json(data / "blind.json"), read_json(HERE / "data" / "blind.json")
    assert {task: blind[task]["macro"] for task in ("VG", "ROC", "MIA")} == pytest.approx(
        {task: shipped[task]["macro"] for task in ("VG", "ROC", "MIA")}
    )


@pytest.mark.parametrize("part", LOSSES)
def test_the_first_steps_have_the_committed_losses(rebuilt, part):
    record = read_json(rebuilt / f"{part}.json")
    assert (record["steps"], record["pictures"]) == (3, 64)
    assert record["loss"] == pytest.approx(LOSSES[part], rel=1e-3)


def test_another_process_reaches_the_same_weights(rebuilt, rebuild):
    folder, run = rebuild
    command = (sys.executable, "-m", "miniature.demo.pretrain_models")
    short = ("--pictures", "64", "--steps", "3", "--work", "again")
    run(*command, "tower", "--peak", "1.5e-3", *short, PYTHONPATH="benchmarks")
    run(*command, "base", *short, PYTHONPATH="benchmarks")
    for first, second in (("tower1", "tower1"), ("stage1/base", "base")):
        weights, again = load_file(rebuilt / f"{first}.safetensors"), load_file(folder / f"again/{second}.safetensors")
        assert weights.keys() == again.keys()
        assert [name for name, value in weights.items() if not torch.equal(value, again[name])] == []


def test_the_packed_models_have_the_files_of_the_shipped_ones(rebuilt):
    packed, shipped = (read_json(folder / "models" / "sha256.json") for folder in (rebuilt, HERE))
    assert packed.keys() == shipped.keys()
    for name in ("base", "teacher"):
        made, kept = (load_file(folder / "models" / name / "model.safetensors") for folder in (rebuilt, HERE))
        text = {key for key in made if "embed_tokens" in key or "lm_head" in key}  # the vocabulary is of fewer texts
        assert {key: value.shape for key, value in made.items() if key not in text} == {
            key: value.shape for key, value in kept.items() if key not in text
        }
        assert {value.dtype for value in made.values()} == {torch.float16}
