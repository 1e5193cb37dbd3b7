# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""FLOPs against torch's own counter, and what hours depend on."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode

from llamafactory_clinkd.doctor.duration import LAUNCH_SECONDS, forward_flops, training_flops
from llamafactory_clinkd.doctor.model_shape import known_config, load_shape
from llamafactory_clinkd.doctor.plan import make_plan
from llamafactory_clinkd.doctor.recipe_spec import read_spec
from llamafactory_clinkd.utils.gpus import GPUS, choose_gpu


ROOT = Path(__file__).resolve().parents[2]
H100 = GPUS["h100"]


def recipe(**changes):
    keys = yaml.safe_load((ROOT / "examples" / "kd_only.yaml").read_text())
    return {key: value for key, value in {**keys, "deepspeed": None, **changes}.items() if value is not None}


def seconds(keys, gpu=H100, gpus=1, **options):
    return make_plan(keys, gpus=gpus, gib=gpu.gib, gpu=gpu, rows=(9600, 960), **options)["seconds"]


def test_a_forward_pass_is_what_torch_counts():
    """On the meta device with the text model's own layers; torch counts attention without the causal half."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    config = Qwen2VLConfig.from_dict(known_config("Qwen2-VL-2B"))
    config._attn_implementation = "eager"
    with torch.device("meta"):
        model = Qwen2VLForConditionalGeneration(config)
        ids = torch.zeros(1, 500, dtype=torch.long)
        positions = torch.zeros(3, 1, 500, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            try:
                model(input_ids=ids, position_ids=positions, logits_to_keep=20)
            except RuntimeError as error:
                if "unknown device type for autocast" not in str(error):
                    raise
                pytest.skip("transformers 5.0 to 5.2 runs no forward pass on the meta device")
    shape = load_shape("Qwen2-VL-2B")
    spec = dataclasses.replace(read_spec(recipe(), gpus=1, row_tokens=500), image_tokens=0, answer_tokens=1000)
    ours = forward_flops(shape, spec, head_tokens=20)
    causal_half = 2 * 500**2 * shape.hidden * shape.layers
    assert ours + causal_half == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_backward_passes_of_each_method():
    def factor(**changes):
        spec = dataclasses.replace(read_spec(recipe(**changes), gpus=1), image_tokens=0)
        return training_flops(spec, with_teacher=False) / forward_flops(spec.student, spec, head_tokens=64)

    whole = {"disable_gradient_checkpointing": True}
    assert factor(finetuning_type="full", **whole) == pytest.approx(3)
    assert factor(finetuning_type="full") == pytest.approx(4)
    assert factor(finetuning_type="lora") == pytest.approx(3)
    assert factor(finetuning_type="lora", **whole) == pytest.approx(2)


def test_hours_follow_gpus_epochs_teacher_and_cache():
    base = seconds(recipe())["distill"]
    assert seconds(recipe(), gpus=2)["distill"] == pytest.approx(base / 2, rel=0.05)
    assert seconds(recipe(), GPUS["3090"])["distill"] == pytest.approx(base * 989 / 71, rel=0.01)
    assert seconds(recipe(), utilisation=0.2)["distill"] == pytest.approx(2 * base)
    epochs = recipe()["kd_epochs"]
    assert seconds(recipe(kd_epochs=2 * epochs))["distill"] == pytest.approx(2 * base)
    assert seconds(recipe(kd_cache="hidden", kd_epochs=2 * epochs))["distill"] < 2 * base
    assert seconds(recipe(ref_model="Qwen/Qwen2-VL-2B-Instruct"))["distill"] < base
    assert seconds(recipe(kd_teacher_offload=True, ref_model_quantization_bit=None))["distill"] > base
    assert seconds(recipe(kd_on_policy=0.5))["distill"] > base


def test_generation_is_bound_by_memory_or_by_launches():
    """72B: a step reads 145 GB, at 3.35 TB/s 43 ms; 2B: 28 layers of launches."""
    keys = recipe(clinkd_phases="predict", ref_model=None, kd_method=None, per_device_eval_batch_size=1)
    keys |= {"eval_dataset": "x", "dataset": None, "sasg_candidates": 1, "sasg_scorer": "logprob"}
    small = seconds({**keys, "model_name_or_path": "Qwen/Qwen2-VL-2B-Instruct"})["predict"]
    assert small == pytest.approx(960 * 64 * 28 * LAUNCH_SECONDS, rel=0.1)
    large = seconds({**keys, "model_name_or_path": "Qwen/Qwen2-VL-72B-Instruct"})["predict"]
    weights = 2 * load_shape("Qwen2-VL-72B").parameters
    steps = 960 * 64 * max(weights / H100.bandwidth, 80 * LAUNCH_SECONDS)
    assert steps < large < 1.3 * steps


def test_an_unknown_gpu_names_the_known_ones():
    assert choose_gpu("H100") == H100
    with pytest.raises(ValueError, match="a100-40, a100-80"):
        choose_gpu("v100")
