# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A teacher that is a LoRA adapter over the student's own base, against the same teacher loaded apart."""

import pytest
import torch
from kd_runs import distil, history, quantised, same_bits, weights
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, TrainerCallback

from llamafactory_clinkd.kd.adapter_teacher import AdapterTeacher
from llamafactory_clinkd.kd.teacher import Teacher
from llamafactory_clinkd.phases.stock_sft import StockWorkflow


pytestmark = pytest.mark.usefixtures("one_thread")
LORA = {"finetuning_type": "lora", "lora_rank": 2, "lora_target": "q_proj,v_proj", "ref_model": None}


@pytest.fixture(scope="module")
def adapter(small_workspace, tmp_path_factory):
    """A LoRA adapter that changes the outputs of the student's base, a rank and targets of its own."""
    folder = tmp_path_factory.mktemp("adapter")
    base = AutoModelForImageTextToText.from_pretrained(small_workspace / "student")
    torch.manual_seed(3)
    config = LoraConfig(r=3, target_modules=["q_proj", "down_proj"], init_lora_weights=False, lora_dropout=0.5)
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.mul_(20)
    model.save_pretrained(folder)
    return folder


class Look(TrainerCallback):
    """Notes what is trainable, active and in training mode at each step, and the teacher's weights."""

    def __init__(self):
        self.trainable, self.active, self.modes, self.teacher = set(), [], [], []

    def on_step_end(self, args, state, control, model=None, optimizer=None, **kwargs):
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        self.trainable |= {n for n, p in model.named_parameters() if p.requires_grad or id(p) in held}
        self.active.append(list(model.active_adapters))
        self.modes.append(model.training)
        teacher = {n: p.detach().clone() for n, p in model.named_parameters() if "clinkd_teacher" in n}
        self.teacher.append(teacher)
        assert all(p.grad is None for n, p in model.named_parameters() if "clinkd_teacher" in n)


def apart(monkeypatch):
    monkeypatch.setattr("llamafactory_clinkd.phases.distill._shares_base", lambda *args: False)


@pytest.mark.parametrize("named", [False, True], ids=["adapters_alone", "base_named"])
def test_one_copy_of_the_weights_gives_the_loss_of_two(small_workspace, adapter, tmp_path, monkeypatch, named):
    keys = LORA | {"ref_model_adapters": str(adapter), "rope_variant": "mrope", "lora_dropout": 0.1}
    if named:
        keys["ref_model"] = str(small_workspace / "data" / ".." / "student")
    look = Look()
    with monkeypatch.context() as patch:
        patch.setattr(StockWorkflow, "load_teacher", lambda *args: pytest.fail("the base was loaded twice"))
        shared = distil(small_workspace, tmp_path / "shared", [look], **keys)
    with monkeypatch.context() as patch:
        apart(patch)
        two = distil(small_workspace, tmp_path / "two", **keys)
    assert len(history(shared)) == 8
    for ours, theirs in zip(history(shared), history(two), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert max(entry["kl"] for entry in history(shared)) > 1e-3, "teacher and student predict the same"

    assert look.trainable and all(".default." in name for name in look.trainable)
    assert set(map(tuple, look.active)) == {("default",)} and all(look.modes)
    in_file = load_file(adapter / "adapter_model.safetensors")
    assert len(look.teacher[0]) == len(in_file) and same_bits(look.teacher[0], look.teacher[-1])
    for name, parameter in look.teacher[-1].items():
        assert torch.equal(parameter, in_file[name.replace(".clinkd_teacher_0", "")])


def test_the_teacher_is_in_nothing_that_is_saved(small_workspace, adapter, tmp_path):
    keys = LORA | {"ref_model_adapters": str(adapter), "rope_variant": "mrope"}
    out = distil(small_workspace, tmp_path, kd_epochs=1, **keys)
    assert not list(out.rglob("*clinkd_teacher*"))
    files = list(out.rglob("adapter_model.safetensors"))
    assert len(files) == 2, "the model and its one checkpoint"
    for path in files:
        saved = load_file(path)
        assert {tensor.shape[0] for name, tensor in saved.items() if "lora_A" in name} == {2}
        assert not any("down_proj" in name or "teacher" in name for name in saved)
    model = AutoModelForImageTextToText.from_pretrained(small_workspace / "student")
    assert list(PeftModel.from_pretrained(model, str(out)).peft_config) == ["default"]


def test_cached_adapters_run_once(small_workspace, adapter, tmp_path, monkeypatch):
    runs = []
    stock = Teacher.hidden
    monkeypatch.setattr(Teacher, "hidden", lambda self, *args: runs.append(type(self)) or stock(self, *args))
    keys = LORA | {"ref_model_adapters": str(adapter), "rope_variant": "mrope"}
    live = distil(small_workspace, tmp_path / "live", **keys)
    assert runs == [AdapterTeacher] * 16
    cached = distil(small_workspace, tmp_path / "cached", kd_cache="hidden", **keys)
    assert runs == [AdapterTeacher] * 24
    assert history(cached) == history(live)
    name = "adapter_model.safetensors"
    assert same_bits(weights(cached, name), weights(live, name))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rope_variant": "mcg"}, "teacher_rope_variant"),
        ({"rope_variant": "mrope", "additional_target": "norm"}, "additional_target"),
        pytest.param(
            {"rope_variant": "mrope", "ref_model_quantization_bit": 4},
            "ref_model_quantization_bit: 4",
            marks=quantised,
        ),
    ],
    ids=["positions", "additional_target", "quantised"],
)
def test_where_one_copy_cannot_serve_a_second_is_loaded(small_workspace, adapter, tmp_path, caplog, changes, named):
    distil(small_workspace, tmp_path, kd_epochs=1, **LORA | {"ref_model_adapters": str(adapter)} | changes)
    assert "loaded a second time" in caplog.text and named in caplog.text


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"init_lora_weights": False, "modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights: pissa"),
    ],
    ids=["whole_modules", "pissa"],
)
def test_adapters_that_write_into_their_base_leave_the_students_alone(
    small_workspace, tmp_path, caplog, config, named
):
    base = AutoModelForImageTextToText.from_pretrained(small_workspace / "student")
    teacher = get_peft_model(base, LoraConfig(r=3, target_modules=["q_proj"], **config))
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.mul_(1.5)
    teacher.save_pretrained(tmp_path / "adapter")
    keys = LORA | {"rope_variant": "mrope", "kd_epochs": 1, "learning_rate": 1e-30, "disable_shuffling": True}
    out = distil(small_workspace, tmp_path / "out", **keys | {"ref_model_adapters": str(tmp_path / "adapter")})
    assert "loaded a second time" in caplog.text and named in caplog.text
    alone = distil(small_workspace, tmp_path / "alone", kd_method="none", **keys)
    losses = [entry["loss"] for entry in history(alone)]
    assert [entry["ce"] for entry in history(out)] == pytest.approx(losses, rel=1e-5)
    assert all(entry["kl"] > 0 for entry in history(out))


@quantised
@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("cache", ["off", "hidden"])
def test_a_quantised_teacher_beside_a_full_student(small_workspace, tmp_path, bits, cache, monkeypatch):
    module_types = []
    make = Teacher.__init__

    def init(self, model, **kwargs):
        module_types.append({type(module).__name__ for module in model.modules()})
        make(self, model, **kwargs)

    monkeypatch.setattr(Teacher, "__init__", init)
    plain = distil(small_workspace, tmp_path / "plain", kd_epochs=1)
    out = distil(small_workspace, tmp_path / "out", ref_model_quantization_bit=bits, kd_cache=cache)
    assert {4: "Linear4bit", 8: "Linear8bitLt"}[bits] in module_types[-1]
    assert 0 < history(out)[0]["kl"] != history(plain)[0]["kl"]
    assert history(out)[0]["kl"] == pytest.approx(history(plain)[0]["kl"], rel=0.3)


@quantised
@pytest.mark.slow
def test_one_four_bit_base_serves_both(small_workspace, adapter, tmp_path, monkeypatch):
    keys = LORA | {"ref_model_adapters": str(adapter), "rope_variant": "mrope", "quantization_bit": 4}
    with monkeypatch.context() as patch:
        patch.setattr(StockWorkflow, "load_teacher", lambda *args: pytest.fail("the base was loaded twice"))
        shared = distil(small_workspace, tmp_path / "shared", ref_model_quantization_bit=4, **keys)
    apart(monkeypatch)
    two = distil(small_workspace, tmp_path / "two", ref_model_quantization_bit=4, **keys)
    for ours, theirs in zip(history(shared), history(two), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-2)
