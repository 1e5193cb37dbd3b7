# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The plan of whole recipes: the paper's two statements, engines, counts, advice, and what is refused."""

import json
import math
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from llamafactory_clinkd import kd
from llamafactory_clinkd.cli import app
from llamafactory_clinkd.doctor import memory as training
from llamafactory_clinkd.doctor import phase_costs as counts
from llamafactory_clinkd.doctor.memory import generation_bytes
from llamafactory_clinkd.doctor.model_shape import load_shape
from llamafactory_clinkd.doctor.phase_costs import RUNTIME_BYTES, memory_of_phases
from llamafactory_clinkd.doctor.plan import facts_of, make_plan
from llamafactory_clinkd.kd import fused
from llamafactory_clinkd.kd import teacher_cache as cache


ROOT = Path(__file__).resolve().parents[2]
GB, GIB = 10**9, 2**30
SEVEN = load_shape("Qwen2-VL-7B")


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(ROOT)


def recipe(name="table_a3/base", **changes):
    keys = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text())
    return {key: value for key, value in {**keys, **changes}.items() if value is not None}


def plan(keys, gpus=6, gib=40, **options):
    return make_plan(keys, gpus=gpus, gib=gib, **options)


def test_six_gpus_of_40_gib_suffice_as_the_paper_says():
    planned = plan(recipe())
    assert planned["fits"] and planned["advice"] == []
    assert 20 * GIB < planned["memory"]["distill"]["peak"] < 40 * GIB


def test_fewer_gpus_do_not():
    planned = plan(recipe(), gpus=3)
    assert not planned["fits"] and any("offload_optimizer" in line for line in planned["advice"])
    assert not plan(recipe(deepspeed=None))["fits"]


def test_25_gb_for_an_iteration_of_a_7b_teacher():
    """Weights, the runtime, and one question of 2048 tokens with 3 beams, all its logits in fp32 as done then."""
    generation = {"rows": 1, "beams": 3, "prompt": 1792, "new": 256, "image_tokens": 1024, "e": 2}
    fixed = 2 * SEVEN.parameters + RUNTIME_BYTES
    assert fixed + generation_bytes(SEVEN, **generation, all_logits=True) == pytest.approx(25 * GB, rel=0.2)
    assert 16.5 * GB < fixed + generation_bytes(SEVEN, **generation) < 21 * GB


def test_bytes_a_parameter_of_each_engine(tmp_path):
    def states(stage, gpus=4, **changes):
        config = tmp_path / "ds.json"
        config.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
        changes = {"deepspeed": str(config) if stage else None, "freeze_vision_tower": False, **changes}
        facts = facts_of(recipe(**changes), gpus=gpus)
        sizes = training.weight_bytes(facts), training.gradient_bytes(facts), training.optimizer_bytes(facts)
        return [round(size / training.trained_parameters(facts), 3) for size in sizes]

    assert states(0) == [4, 4, 8] and states(0, bf16=None) == [4, 4, 8]
    assert states(1) == [2, 2, 3] and states(2) == [2, 0.5, 3] and states(3) == [0.5, 0.5, 3]


def test_trained_parameters_of_each_method():
    def trained(name):
        return training.trained_parameters(facts_of(recipe(f"table_a3/{name}"), gpus=6))

    layer = SEVEN.layer_parameters
    assert trained("base") == trained("galore") == SEVEN.decoder_parameters + SEVEN.merger_parameters
    assert trained("freeze") == 2 * layer + SEVEN.merger_parameters and trained("badam") == layer
    assert trained("lora") == trained("qlora") == SEVEN.lora_parameters(8) < 0.01 * SEVEN.parameters


def test_four_bits_hold_the_linear_layers():
    four, half = (facts_of(recipe("table_a3/qlora", quantization_bit=bits), gpus=6) for bits in (4, None))
    saved = training.weight_bytes(half) - training.weight_bytes(four)
    assert saved == pytest.approx((2 - 0.516) * SEVEN.linear_parameters, rel=1e-3)


def test_adapters_over_the_students_base_cost_no_second_base():
    keys = recipe("table_a3/lora", ref_model=None, ref_model_adapters="saves/teacher")
    assert memory_of_phases(facts_of(keys, gpus=6))["distill"]["teacher"] == 0


def test_parts_add_up_and_evaluate_needs_no_gpu():
    memory = plan(recipe())["memory"]
    assert list(memory) == ["pseudo_label", "distill", "correct", "predict"]
    for parts in memory.values():
        assert parts["peak"] == sum(size for name, size in parts.items() if name != "peak")


def test_counts_of_the_paper_recipe():
    found = plan(recipe())["counts"]
    window = 2 * 8 * 6
    assert found["steps"] == {
        "distill": math.ceil(30000 / window) * 2,
        "correct": math.ceil(240000 / window) + math.ceil(480000 / window),
    }
    assert found["generations"] == {"pseudo_label": 30000, "correct": 240000, "predict": 90000}
    assert (found["api_calls_at_most"], found["cache_bytes"]) == (0, 0)


def test_api_calls_keep_to_the_budget():
    asks = {"corrector": "openai", "correction_rounds": 3}
    assert plan(recipe(**asks))["counts"]["api_calls_at_most"] == 2 * 240000
    assert plan(recipe(**asks, correction_max_samples=500))["counts"]["api_calls_at_most"] == 2 * 500
    assert plan(recipe(**asks, correction_max_requests=70))["counts"]["api_calls_at_most"] == 2 * 70
    assert plan(recipe(**asks, correction_outputs="forward"))["counts"]["generations"]["correct"] == 0


def test_cache_is_what_the_cache_module_says():
    import torch

    found = plan(recipe(kd_cache="hidden"), answer_tokens=50)["counts"]["cache_bytes"]
    states = cache.estimate_bytes(30000 * 50, SEVEN.hidden, torch.bfloat16, samples=30000)
    assert found == states + 2 * SEVEN.embedding_parameters


def test_an_offloaded_teacher_leaves_its_largest_layer():
    keys = {"deepspeed": None, "kd_teacher_offload": True}
    parts = plan(recipe(**keys))["memory"]
    largest = 2 * max(SEVEN.embedding_parameters, SEVEN.layer_parameters)
    assert parts["distill"]["teacher"] == largest < parts["pseudo_label"]["teacher"]


def test_figures_taken_from_other_rooms_are_theirs():
    assert kd.teacher_cache is cache
    assert counts.CACHE_HEADER == cache.HEADER_BYTES_PER_SAMPLE and training.LOSS_BUFFERS == fused.CHUNK_BYTES


def test_rows_are_counted_where_the_data_is(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{}] * 11))
    (tmp_path / "b.jsonl").write_text("{}\n" * 7)
    (tmp_path / "dataset_info.json").write_text('{"a": {"file_name": "a.json"}, "b": {"file_name": "b.jsonl"}}')
    keys = recipe(dataset_dir=str(tmp_path), dataset="a, b", eval_dataset="b")
    facts = facts_of(keys, gpus=1)
    assert (facts.train_rows, facts.eval_rows, facts.rows_are_assumed) == (18, 7, False)
    assert facts_of({**keys, "max_samples": 5}, gpus=1).train_rows == 5
    assert facts_of(keys, gpus=1, rows=(100, None)).train_rows == 100
    assert any("240000" in line for line in plan(recipe())["assumptions"])


@pytest.mark.parametrize(
    ("changes", "gpus", "wanted"),
    [
        ({"deepspeed": None}, 6, "ds_z3_config"),
        ({"ref_model": "Qwen/Qwen2-VL-72B-Instruct"}, 2, "a smaller teacher"),
        ({"disable_gradient_checkpointing": True}, 2, "disable_gradient_checkpointing"),
        ({}, 1, "finetuning_type: lora"),
        ({"per_device_eval_batch_size": 64}, 6, "per_device_eval_batch_size: 32"),
    ],
)
def test_advice_names_the_change(changes, gpus, wanted):
    lines = plan(recipe(**changes), gpus=gpus)["advice"]
    assert any(wanted in line for line in lines), lines


@pytest.mark.parametrize(
    "change",
    [
        {"per_device_train_batch_size": 1},
        {"finetuning_type": "lora"},
        {"per_device_eval_batch_size": 4},
        {"ref_model": "Qwen/Qwen2-VL-2B-Instruct"},
    ],
)
def test_what_is_advised_lowers_a_peak(change):
    before, after = plan(recipe())["memory"], plan(recipe(**change))["memory"]
    assert all(after[phase]["peak"] <= before[phase]["peak"] for phase in before)
    assert any(after[phase]["peak"] < before[phase]["peak"] for phase in before)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"use_clinkd": None}, "use_clinkd"),
        ({"model_name_or_path": "gpt2"}, "neither a folder"),
        ({"deepspeed": "no/such.json"}, "no/such.json"),
        ({"model_name_or_path": None}, "model_name_or_path"),
        ({"ref_model": None}, "`ref_model` is missing"),
        ({"clinkd_phases": "distil"}, "clinkd_phases"),
        ({"correction_rounds": "two"}, "correction_rounds: two"),
    ],
)
def test_what_cannot_be_planned_says_why(changes, told):
    with pytest.raises(ValueError, match=told):
        plan(recipe(**changes))


def test_deepspeed_settings_may_stand_in_the_recipe():
    settings = json.loads((ROOT / recipe()["deepspeed"]).read_text())
    assert plan(recipe(deepspeed=settings)) == plan(recipe())


def test_command_prints_the_plan_and_fails_if_it_does_not_fit():
    base = ["doctor", "--plan", "examples/table_a3/base.yaml", "--gpu-memory", "40"]
    done = CliRunner().invoke(app, [*base, "--gpus", "6", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["fits"]
    done = CliRunner().invoke(app, [*base, "--gpus", "2"])
    assert done.exit_code == 1 and "offload_optimizer" in done.stdout
