# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The plan of whole recipes: the paper's two statements, engines, counts, advice, and what is refused."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from typer.testing import CliRunner

from llamafactory_clinkd.cli import app
from llamafactory_clinkd.doctor import memory
from llamafactory_clinkd.doctor.memory import RUNTIME_BYTES, generation_bytes, memory_by_phase
from llamafactory_clinkd.doctor.model_shape import load_shape
from llamafactory_clinkd.doctor.plan import make_plan, plan_table
from llamafactory_clinkd.doctor.recipe_spec import PSEUDO_LABEL_BEAMS, read_spec
from llamafactory_clinkd.kd import fused_linear
from llamafactory_clinkd.kd import teacher_cache as cache
from llamafactory_clinkd.phases import pseudo_label


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
    keys = recipe(deepspeed=None, per_device_eval_batch_size=1, max_new_tokens=256)
    spec = dataclasses.replace(read_spec(keys, gpus=1, row_tokens=2048, answer_tokens=256), image_tokens=1024)
    fixed = 2 * SEVEN.parameters + RUNTIME_BYTES
    prompt_tokens = 3 * (2048 - 256)
    all_logits = prompt_tokens * SEVEN.vocabulary * (2 + 4)
    prompt_cache = prompt_tokens * SEVEN.layers * 2 * SEVEN.kv_width * 2
    assert fixed + prompt_cache + all_logits == pytest.approx(25 * GB, rel=0.2)
    assert 16.5 * GB < fixed + generation_bytes(spec, SEVEN, 3) < 21 * GB


def test_bytes_a_parameter_of_each_engine(tmp_path):
    def states(stage, gpus=4, **changes):
        config = tmp_path / "ds.json"
        config.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
        changes = {"deepspeed": str(config) if stage else None, "freeze_vision_tower": False, **changes}
        spec = read_spec(recipe(**changes), gpus=gpus)
        sizes = memory.weight_bytes(spec), memory.gradient_bytes(spec), memory.optimizer_bytes(spec)
        return [round(size / memory.trained_parameters(spec), 3) for size in sizes]

    assert states(0) == [4, 4, 8] and states(0, bf16=None) == [4, 4, 8]
    assert states(1) == [2, 2, 3] and states(2) == [2, 0.5, 3] and states(3) == [0.5, 0.5, 3]


def test_trained_parameters_of_each_method():
    def trained(name):
        return memory.trained_parameters(read_spec(recipe(f"table_a3/{name}"), gpus=6))

    layer = SEVEN.layer_parameters
    assert trained("base") == trained("galore") == SEVEN.decoder_parameters + SEVEN.merger_parameters
    assert trained("freeze") == 2 * layer + SEVEN.merger_parameters and trained("badam") == layer
    assert trained("lora") == trained("qlora") == SEVEN.lora_parameters(8) < 0.01 * SEVEN.parameters


def test_four_bits_hold_the_linear_layers():
    four, half = (read_spec(recipe("table_a3/qlora", quantization_bit=bits), gpus=6) for bits in (4, None))
    saved = memory.weight_bytes(half) - memory.weight_bytes(four)
    assert saved == pytest.approx((2 - 0.516) * SEVEN.linear_parameters, rel=1e-3)


def test_adapters_over_the_students_base_cost_no_second_base():
    keys = recipe("table_a3/lora", ref_model=None, ref_model_adapters="saves/teacher")
    assert memory_by_phase(read_spec(keys, gpus=6))["distill"]["teacher"] == 0


def test_components_add_up_and_evaluate_needs_no_gpu():
    phases = plan(recipe())["memory"]
    assert list(phases) == ["pseudo_label", "distill", "correct", "predict"]
    for breakdown in phases.values():
        assert breakdown["peak"] == sum(size for name, size in breakdown.items() if name != "peak")


def test_counts_of_the_paper_recipe():
    counts = plan(recipe())["counts"]
    window = 2 * 8 * 6
    assert counts["steps"] == {
        "distill": math.ceil(30000 / window) * 2,
        "correct": math.ceil(240000 / window) + math.ceil(480000 / window),
    }
    assert counts["generations"] == {"pseudo_label": 30000, "correct": 240000, "predict": 90000}
    assert (counts["api_calls_at_most"], counts["cache_bytes"]) == (0, 0)


def test_api_calls_keep_to_the_budget():
    server = {"corrector": "openai", "correction_rounds": 3}
    assert plan(recipe(**server))["counts"]["api_calls_at_most"] == 2 * 240000
    assert plan(recipe(**server, correction_max_samples=500))["counts"]["api_calls_at_most"] == 2 * 500
    assert plan(recipe(**server, correction_max_requests=70))["counts"]["api_calls_at_most"] == 2 * 70
    assert plan(recipe(**server, correction_outputs="forward"))["counts"]["generations"]["correct"] == 0


def test_cache_is_what_the_cache_module_estimates():
    planned = plan(recipe(kd_cache="hidden"), answer_tokens=50)["counts"]["cache_bytes"]
    states = cache.estimate_bytes(30000 * 50, SEVEN.hidden, torch.bfloat16, samples=30000)
    assert planned == states + 2 * SEVEN.embedding_parameters


def test_an_offloaded_teacher_leaves_its_largest_layer():
    keys = {"deepspeed": None, "kd_teacher_offload": True}
    phases = plan(recipe(**keys))["memory"]
    largest = 2 * max(SEVEN.embedding_parameters, SEVEN.layer_parameters)
    assert phases["distill"]["teacher"] == largest < phases["pseudo_label"]["teacher"]


def test_figures_of_other_modules_are_theirs(monkeypatch):
    assert PSEUDO_LABEL_BEAMS == pseudo_label.PSEUDO_LABEL_BEAMS
    spec = read_spec(recipe(per_device_train_batch_size=8), gpus=6)
    before = memory.loss_bytes(spec, True)
    monkeypatch.setattr(fused_linear, "CHUNK_BYTES", 2 * fused_linear.CHUNK_BYTES)
    assert memory.loss_bytes(spec, True) - before == fused_linear.CHUNK_BYTES // 2


def test_rows_are_counted_where_the_data_is(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{}] * 11))
    (tmp_path / "b.jsonl").write_text("{}\n" * 7)
    (tmp_path / "dataset_info.json").write_text('{"a": {"file_name": "a.json"}, "b": {"file_name": "b.jsonl"}}')
    keys = recipe(dataset_dir=str(tmp_path), dataset="a, b", eval_dataset="b")
    spec = read_spec(keys, gpus=1)
    assert (spec.train_rows, spec.eval_rows, spec.rows_are_assumed) == (18, 7, False)
    assert read_spec({**keys, "max_samples": 5}, gpus=1).train_rows == 10, "of each data set, as in LLaMA-Factory"
    assert read_spec(keys, gpus=1, rows=(100, None)).train_rows == 100
    assert any("240000" in line for line in plan(recipe())["assumptions"])


def test_rows_of_every_format_that_stock_loads(tmp_path):
    """Each file is counted as LLaMA-Factory's own loader, ``datasets``, counts it."""
    from datasets import Dataset, load_dataset

    rows = Dataset.from_dict({"text": [f"line one,\nline {number}" for number in range(13)]})
    rows.to_parquet(tmp_path / "a.parquet")
    rows.to_csv(tmp_path / "a.csv")
    rows.to_json(tmp_path / "lines.json")
    rows.to_json(tmp_path / "array.json", lines=False, orient="records")
    (tmp_path / "many").mkdir()
    for part in range(3):
        rows.to_json(tmp_path / "many" / f"{part}.jsonl")
    rows.save_to_disk(tmp_path / "disk")
    next((tmp_path / "disk").glob("*.arrow")).rename(tmp_path / "a.arrow")
    files = {"a.parquet": "parquet", "a.csv": "csv", "lines.json": "json", "array.json": "json", "a.arrow": "arrow"}
    info = {name: {"file_name": name} for name in (*files, "many", "a.xml")}
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))

    def counted(name):
        return read_spec(recipe(dataset_dir=str(tmp_path), dataset=name), gpus=1).train_rows

    cache = str(tmp_path / "cache")
    for name, kind in files.items():
        loaded = load_dataset(kind, data_files=str(tmp_path / name), split="train", cache_dir=cache)
        assert counted(name) == len(loaded) == 13, name
    assert counted("many") == 39
    (tmp_path / "a.xml").write_text("<rows/>")
    with pytest.raises(ValueError, match="--train-rows"):
        counted("a.xml")
    keys = recipe(dataset_dir=str(tmp_path), dataset="a.xml", eval_dataset="many")
    assert read_spec(keys, gpus=1, rows=(5, None)).train_rows == 5


@pytest.mark.parametrize(
    ("fsdp", "stage", "offload"),
    [
        ("full_shard auto_wrap", 3, False), (["full_shard", "offload"], 3, True), ("shard_grad_op", 2, False),
        (True, 3, False),
    ],
)  # fmt: skip
def test_fsdp_shards_as_the_stage_of_zero_does(fsdp, stage, offload):
    spec = read_spec(recipe(deepspeed=None, fsdp=fsdp), gpus=6)
    assert (spec.zero_stage, spec.offload_optimizer, spec.offload_weights) == (stage, offload, offload)
    with pytest.raises(ValueError, match="fsdp: full_shart"):
        read_spec(recipe(deepspeed=None, fsdp="full_shart"), gpus=6)


def test_phases_of_a_server_need_no_gpu_and_a_teacher_that_corrects_is_counted():
    served = {"generation_base_url": "http://127.0.0.1:8000/v1", "generation_phases": "pseudo_label, predict"}
    planned, own = plan(recipe(**served)), plan(recipe())
    assert list(planned["memory"]) == ["distill", "correct"] and list(own["memory"])[0] == "pseudo_label"
    assert "predict" in own["seconds"] and not {"pseudo_label", "predict"} & set(planned["seconds"])
    assert any("a server generates for pseudo_label, predict" in line for line in planned["assumptions"])
    without_teacher = recipe(**served, ref_model=None, clinkd_phases="pseudo_label,predict", kd_method="none")
    assert plan(without_teacher)["memory"] == {}
    lora = recipe("table_a3/lora", clinkd_phases="correct", deepspeed=None)
    rules, corrects = (plan({**lora, "corrector": name})["memory"]["correct"] for name in ("offline", "teacher"))
    assert rules["teacher"] == 0 and corrects["teacher"] > 2 * load_shape(lora["ref_model"]).parameters - GB


def test_the_projection_of_vkd_is_counted():
    """Bytes that torch allocates for the projector, its pass and AdamW, by the CPU profiler's memory events."""
    from llamafactory_clinkd.kd.vkd import VkdProjector

    student, teacher = 192, 320
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        projector = VkdProjector(student, teacher)
        optimiser = torch.optim.AdamW(projector.parameters(), foreach=False)
        for _ in range(2):  # the second pass runs beside the optimiser's states
            projector(torch.randn(2, student)).sum().backward()
            optimiser.step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert memory.projection_bytes(student, teacher) == pytest.approx(peak, rel=0.1)
    without, with_vkd = (plan(recipe(kd_method=method, deepspeed=None))["memory"] for method in ("pseudo_kd", "vkd"))
    assert without["distill"]["projection"] == 0 and with_vkd["correct"]["projection"] == 0
    assert with_vkd["distill"]["projection"] == memory.projection_bytes(SEVEN.hidden, SEVEN.hidden)


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
    ("changes", "message"),
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
def test_what_cannot_be_planned_names_the_reason(changes, message):
    with pytest.raises(ValueError, match=message):
        plan(recipe(**changes))


def test_deepspeed_settings_may_be_in_the_recipe():
    settings = json.loads((ROOT / recipe()["deepspeed"]).read_text())
    assert plan(recipe(deepspeed=settings)) == plan(recipe())


def test_text_of_the_plan():
    def text(gib, gpus, **changes):
        table = plan_table(plan(recipe("table_a3/lora", deepspeed=None, **changes), gpus=gpus, gib=gib))
        return console_text(table)

    shown = text(139.5406, 1)
    assert "of 139.5 " in shown and "fits on 1 GPU." in shown and "corrector's server" not in shown
    assert "--answer-tokens" in shown and "--row-tokens" in shown
    server = text(139, 2, corrector="openai")
    assert "fits on 2 GPUs." in server and "corrector's server: at most 240,000" in server and "of 139 " in server


def console_text(renderable):
    console = Console(width=200)
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def test_command_prints_the_plan_and_fails_if_it_does_not_fit():
    base = ["doctor", "--plan", "examples/table_a3/base.yaml", "--gpu-memory", "40"]
    done = CliRunner().invoke(app, [*base, "--gpus", "6", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["fits"]
    seconds = json.loads(CliRunner().invoke(app, [*base, "--gpus", "6", "--gpu", "h100", "--json"]).stdout)["seconds"]
    assert 0 < seconds["distill"] < json.loads(done.stdout)["seconds"]["distill"]
    done = CliRunner().invoke(app, [*base, "--gpus", "2"])
    assert done.exit_code == 1 and "offload_optimizer" in done.stdout
