# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The comparison of section 4.4.3: five recipes that differ in the positions only."""

import math
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from small_run import losses

from llamafactory_clinkd.rope import read_rope_config

from .runs import VARIANTS


FOLDER = Path(__file__).resolve().parents[2] / "examples" / "ablation"
RECIPES = {path.stem: OmegaConf.to_container(OmegaConf.load(path)) for path in sorted(FOLDER.glob("rope_*.yaml"))}


def test_recipes_differ_in_the_variant_and_the_folder_only():
    assert sorted(recipe["rope_variant"] for recipe in RECIPES.values()) == sorted(VARIANTS)
    rest = [{k: v for k, v in r.items() if k not in ("rope_variant", "output_dir")} for r in RECIPES.values()]
    assert all(recipe == rest[0] for recipe in rest)
    for name, recipe in RECIPES.items():
        names = (name, Path(recipe["output_dir"]).name, recipe["rope_variant"])
        assert len({each.removeprefix("rope_") for each in names}) == 1


def test_recipes_are_parsed_by_stock(tmp_path):
    from llamafactory.hparams import get_train_args

    for recipe in RECIPES.values():
        finetuning = get_train_args({**recipe, "output_dir": str(tmp_path)})[3]
        assert finetuning.rope_variant == recipe["rope_variant"]


@pytest.mark.slow
def test_each_variant_trains_from_the_same_start(sharp_workspace, tmp_path, capsys):
    from llamafactory.train.tuner import run_exp

    found = {}
    for recipe in RECIPES.values():
        variant = recipe["rope_variant"]
        small = {
            "model_name_or_path": str(sharp_workspace / "student"),
            "dataset_dir": str(sharp_workspace / "data"),
            "dataset": "tiny_train",
            "eval_dataset": None,
            "clinkd_phases": "distill",
            "kd_epochs": 4,
            "per_device_train_batch_size": 2,
            "logging_steps": 1,
            "save_strategy": "no",
            "plot_loss": False,
            "learning_rate": 3e-3,
            "output_dir": str(tmp_path / variant),
        }
        run_exp({key: value for key, value in {**recipe, **small}.items() if value is not None})
        assert read_rope_config(tmp_path / variant)["variant"] == variant
        found[variant] = losses(tmp_path / variant)

    with capsys.disabled():
        for variant, values in found.items():
            print(f"\n{variant:>14}: {' '.join(f'{value:.4f}' for value in values)}", end="")
    assert all(len(values) == 4 and all(map(math.isfinite, values)) for values in found.values())
    assert all(values[-1] < values[0] for values in found.values())
    # RoPE-Mixed starts as stock exactly and parts from it as its frequencies learn.
    assert found["rope_mixed"][0] == found["mrope"][0] and found["rope_mixed"][-1] != found["mrope"][-1]
    starts = {found[variant][0] for variant in ("mrope", "mcg", "mcg_released", "rope_2d")}
    assert len(starts) == 4, "positions had no effect on the loss"
