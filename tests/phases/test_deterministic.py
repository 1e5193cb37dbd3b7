# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The same recipe twice, in two processes: the same models and files, bit by bit."""

import pytest
from small_run import llamafactory_cli, losses, recipe, write_recipe

from llamafactory_clinkd.utils.io import read_json


PHASES = "pseudo_label,distill,correct,predict"
FILES = [
    "clinkd/pseudo_labels.jsonl", "clinkd/distill/model.safetensors", "clinkd/corrections/round-1.outputs.jsonl",
    "clinkd/corrections/round-1.jsonl", "model.safetensors", "clinkd/predict/answers.jsonl",
    "clinkd/predictions.jsonl", "clinkd_config.json",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["beam", pytest.param("sample", marks=pytest.mark.long)])
def test_same_seed_same_bits(workspace, tmp_path, mode):
    for name in ("one", "two"):
        changes = {"clinkd_phases": PHASES, "pseudo_label_samples": 6, "sasg_candidates": 2, "sasg_mode": mode}
        changes |= {"kd_noise_std": 0.1, "rope_variant": "mcg"}
        path = write_recipe(tmp_path / f"{name}.yaml", recipe(workspace, tmp_path / name, **changes))
        done = llamafactory_cli("train", str(path), fresh=True)  # another seed of `hash`
        assert done.returncode == 0, done.stderr[-2000:]
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    for folder in ("clinkd/distill", "."):
        assert losses(tmp_path / "one" / folder) == losses(tmp_path / "two" / folder)
    one, two = (read_json(tmp_path / name / "clinkd" / "state.json")["phases"] for name in ("one", "two"))
    assert {phase: one[phase]["hash"] for phase in one} == {phase: two[phase]["hash"] for phase in two}
