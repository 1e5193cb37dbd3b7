# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Every row of every table, at both scales: its recipe, and what stock LLaMA-Factory's parser makes of it."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from llamafactory_clinkd.doctor.plan import make_plan
from llamafactory_clinkd.phases import validation as checks
from llamafactory_clinkd.reproduce.row_recipes import (
    DEMO,
    RECIPES_DIR,
    local_keys,
    models_of,
    plan_run,
    read_recipe,
    recipe_text,
)
from llamafactory_clinkd.reproduce.table_rows import (
    ALPHAS,
    BASE_ALPHA,
    METHODS_OF_PAPER,
    ROWS,
    SCALES,
    TABLES,
    alpha_row,
    paper_modalities,
    paper_scores,
    rows_of,
)


RECIPES = [(scale, name) for scale in SCALES for name, row in ROWS.items() if scale in row.scales and not row.computed]
FREE = {"output_dir", "seed"}
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def parsed(tmp_path_factory):
    """Scale, row -> LLaMA-Factory's argument groups, with the recipe's paths put into an empty folder."""
    from llamafactory.hparams import get_train_args

    folder, groups = tmp_path_factory.mktemp("parsed"), ("model", "data", "training", "finetuning", "generating")
    found = {}
    for scale, name in RECIPES:
        keys = local_keys(plan_run(ROWS[name], 1, scale), folder)
        keys.pop("deepspeed", None)  # needs its launcher
        found[scale, name] = dict(zip(groups, get_train_args({**keys, "use_cpu": True}), strict=True))
    return found


@pytest.mark.parametrize(("scale", "name"), RECIPES)
def test_stock_parses_every_row(parsed, scale, name):
    groups, row = parsed[scale, name], ROWS[name]
    keys = groups["finetuning"]
    assert keys.use_clinkd and keys.clinkd_phases[-2:] == ["predict", "evaluate"]
    assert (keys.rope_variant == "mcg") == ("mcg" in row.parts)
    assert (keys.kd_method == "pseudo_kd") == ("kd" in row.parts)
    assert (keys.sasg_candidates == 3) == ("sasg" in row.parts) and groups["generating"].num_beams == 3
    assert (keys.correction_threshold == 0.8) == ("correction" in row.parts)
    judged = {"paper": None, "mini": 200}[scale]
    assert keys.correction_max_samples == (judged if "correction" in row.parts else 1)
    trains = not (row.uses or name in ("teacher", "untrained"))
    assert ("distill" in keys.clinkd_phases) == trains
    if trains and name not in TABLES["on_policy"]:
        epochs = keys.kd_epochs + keys.correction_rounds * ("correct" in keys.clinkd_phases)
        assert epochs == {"paper": 4, "mini": 8}[scale]
    assert groups["training"].seed == 1 and groups["data"].eval_dataset and groups["training"].do_train


@pytest.mark.parametrize("scale", SCALES)
def test_every_file_is_a_row_and_every_row_a_file(scale):
    files = {path.stem for path in (RECIPES_DIR / scale).glob("*.yaml")} - {"base"}
    assert files == {name for name, row in ROWS.items() if scale in row.scales and not row.computed}


@pytest.mark.parametrize(("scale", "name"), RECIPES)
def test_a_row_differs_from_the_base_in_its_own_keys_only(scale, name):
    base, row = read_recipe(RECIPES_DIR / scale / "base.yaml"), ROWS[name]
    own = read_recipe(RECIPES_DIR / scale / f"{name}.yaml")
    if row.uses:
        own |= read_recipe(RECIPES_DIR / scale / f"{row.uses}.yaml") | {"model_name_or_path": None}
    keys = plan_run(row, 1, scale).keys
    changed = {key for key in base.keys() | keys.keys() if base.get(key) != keys.get(key)}
    assert changed <= own.keys() | FREE
    assert not FREE & own.keys()


@pytest.mark.parametrize("scale", SCALES)
def test_what_the_file_of_a_row_says_is_what_makes_it_that_row(scale):
    rows = [row for row in ROWS.values() if scale in row.scales and not row.computed]
    differences = {row.name: read_recipe(RECIPES_DIR / scale / f"{row.name}.yaml") for row in rows}
    assert differences["sft"] == {}
    assert differences["bird"] == {"rope_variant": "rope_2d"}
    assert differences["mcg"] == {"rope_variant": "mcg"}
    assert differences["rope_mixed"] == {"rope_variant": "rope_mixed"}
    assert differences["vkd"] | {"kd_method": "pseudo_kd"} == differences["pseudo_kd"]
    base = read_recipe(RECIPES_DIR / scale / "base.yaml")
    assert base["kd_alpha"] == BASE_ALPHA[scale]
    for alpha in ALPHAS:
        found = differences[alpha_row(alpha, scale)]
        assert found.get("kd_alpha", base["kd_alpha"]) == alpha
        assert {key: value for key, value in found.items() if key != "kd_alpha"} == differences["pseudo_kd"]
    full = differences["clinkd"]
    assert differences["mcg"].items() <= full.items()
    assert differences["correction"].items() <= full.items()
    assert {key: value for key, value in differences["sasg"].items() if key != "clinkd_phases"}.items() <= full.items()
    assert differences["pseudo_kd"].keys() <= full.keys()
    assert full.items() == (differences["clinkd_uncorrected"] | differences["correction"]).items()


def test_the_miniature_s_clinkd_is_the_demo():
    demo, row = read_recipe(DEMO / "clinkd_demo.yaml"), plan_run(ROWS["clinkd"], 1, "mini").keys
    different = {key: row[key] for key in row if demo.get(key) != row[key]}
    assert different.keys() - FREE <= {"dataset_dir", "num_beams", "correction_iou", "logging_steps"}
    assert set(demo) - set(row) <= {"plot_loss", "disable_gradient_checkpointing", "kd_cache"}
    assert row["correction_iou"] == 0.5 and row["num_beams"] == 3


def test_on_policy_rows_differ_in_who_answers():
    share = {name: plan_run(ROWS[name], 1, "mini").keys for name in ("kd_off_policy", "kd_mixed", "kd_on_policy")}
    assert [keys.get("kd_on_policy", 0.0) for keys in share.values()] == [0.0, 0.5, 1.0]
    without = [
        {key: value for key, value in keys.items() if key not in FREE | {"kd_on_policy", "kd_rollout_every"}}
        for keys in share.values()
    ]
    assert without[0] == without[1] == without[2] and without[0]["kd_divergence"] == "jsd"


def test_a_seed_changes_seed_and_folder_only():
    one, two = (plan_run(ROWS["clinkd"], seed, "mini") for seed in (1, 2))
    assert {key for key in one.keys if one.keys[key] != two.keys[key]} == FREE
    assert one.keys["output_dir"] == "runs/reproduce/mini/clinkd-seed1" and one.hash != two.hash


def test_a_row_that_uses_another_predicts_with_its_model():
    plan = plan_run(ROWS["clinkd_first_beam"], 2, "mini")
    assert plan.source.name == "clinkd-seed2"
    assert plan.keys["model_name_or_path"] == plan.source.keys["output_dir"]
    assert plan.keys["rope_variant"] == plan.source.keys["rope_variant"] == "mcg"


def test_a_run_needs_the_models_that_its_recipe_names():
    found = {
        name: models_of(plan_run(ROWS[name], 1, "mini"))
        for name in ("mean_box", "sft", "teacher", "pseudo_kd", "sasg", "clinkd", "clinkd_first_beam")
    }
    assert found == {
        "mean_box": set(),
        "sft": {"base"},
        "teacher": {"teacher"},
        "pseudo_kd": {"base", "teacher"},
        "sasg": {"base", "scorer"},  # the sft run, whose model it uses, starts from the base
        "clinkd": {"base", "teacher", "scorer"},
        "clinkd_first_beam": {"base", "teacher", "scorer"},
    }
    assert models_of(plan_run(ROWS["clinkd"], 1, "paper")) == set()


def test_the_hash_knows_benchmark_and_source_but_no_folder(tmp_path):
    plans = [plan_run(ROWS["sasg"], 1, "mini", benchmark) for benchmark in ("a", "b")]
    assert plans[0].keys == plans[1].keys and plans[0].hash != plans[1].hash
    assert plans[0].source.hash != plans[1].source.hash
    assert plan_run(ROWS["sasg"], 1, "mini", "a").hash == plans[0].hash
    assert str(tmp_path) not in str(plans[0].keys)


def test_the_written_recipe_is_what_the_plan_says(tmp_path):
    plan = plan_run(ROWS["pseudo_kd"], 3, "mini")
    keys = OmegaConf.to_container(OmegaConf.create(recipe_text(plan, tmp_path)))
    assert keys == local_keys(plan, tmp_path)
    assert keys["ref_model"] == str(DEMO / "models" / "teacher") and keys["learning_rate"] == 1e-3
    assert keys["dataset_dir"] == str(tmp_path / "mini" / "data")
    assert keys["output_dir"] == str(tmp_path / "mini" / "pseudo_kd-seed3")


def test_a_row_of_the_other_scale_is_refused():
    with pytest.raises(ValueError, match="Row llava is for the scales paper, not for mini"):
        plan_run(ROWS["llava"], 1, "mini")


def test_paper_rows_start_from_a_checkout_as_they_are():
    root = ROOT
    for scale, name in RECIPES:
        if scale == "paper":
            keys = plan_run(ROWS[name], 1, scale).keys
            assert Path(root, keys["deepspeed"]).is_file() and keys["bf16"] and not keys.get("kd_cache")
            assert not any("runs/" in str(value) for key, value in keys.items() if key not in FREE) or ROWS[name].uses


@pytest.mark.parametrize("name", [name for scale, name in RECIPES if scale == "paper"])
def test_no_paper_row_is_refused_before_its_first_phase(parsed, name, monkeypatch):
    """Under the engine that it names, which the parsed recipes lack; models and data are not here, and not read."""
    groups = dict(parsed["paper", name])
    groups["training"] = copy.copy(groups["training"])
    groups["training"].deepspeed = plan_run(ROWS[name], 1, "paper").keys["deepspeed"]
    for name in ("_check_positions", "check_files"):
        monkeypatch.setattr(checks, name, lambda *arguments: None)
    assert groups["training"].deepspeed and groups["training"].bf16
    checks.check_recipe(SimpleNamespace(**groups))


@pytest.mark.parametrize("name", ["sft", "mcg", "pseudo_kd", "clinkd", "teacher", "pseudo_labels", "correction"])
def test_paper_rows_fit_on_eight_gpus_of_80_gb(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    planned = make_plan(plan_run(ROWS[name], 1, "paper").keys, gpus=8, gib=80)
    assert planned["fits"], planned["advice"]


@pytest.mark.parametrize("table", TABLES)
def test_the_paper_s_rows_stand_beside_ours(table):
    names = {row.name for scale in SCALES for row in rows_of(table, scale)}
    assert METHODS_OF_PAPER[table].keys() <= names == set(TABLES[table])


def test_values_of_the_paper():
    assert paper_scores("table2", "clinkd") == {"VG": 67.51, "ROC": 82.35, "RC": 70.56, "MIA": 65.69, "Average": 71.53}
    assert paper_scores("table2", "sft")["VG"] == 55.43 and paper_scores("table2", "bird")["VG"] == 53.92
    assert paper_scores("table1", "clinkd_qa") == {"VG": None, "ROC": None, "RC": None, "MIA": 13.24, "Average": None}
    assert paper_scores("table2", "correction") is None and paper_scores("figure4", "sft") is None
    assert paper_modalities("ROC", "vkd")["x"] == 90.84 and paper_modalities("VG", "sft") is None
