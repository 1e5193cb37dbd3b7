# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Hours of each phase: training by FLOPs, generation by memory bandwidth.

A matrix product of P parameters costs 2 P FLOPs a token, its backward pass twice that (Kaplan et al.,
arXiv:2001.08361, section 2.1); a generated token reads all weights and all keys and values once. Loading, evaluation,
the scorer, communication, a corrector and waiting for a server are not counted.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

from ..utils.gpus import Gpu
from .model_shape import ModelShape
from .recipe_spec import PSEUDO_LABEL_BEAMS, RecipeSpec


GATHER_BANDWIDTH = 2.0e11  # bytes a second from the other GPUs under ZeRO-3 and FSDP: an assumption
HOST_BANDWIDTH = 2.5e10  # bytes a second from CPU memory over PCIe 4.0 x16: an assumption
LAUNCH_SECONDS = 0.7e-3  # of a decoder layer and step in transformers' `generate`, whatever the GPU: an assumption


def forward_flops(shape: ModelShape, spec: RecipeSpec, *, head_tokens: int) -> float:
    """FLOPs of one row's forward pass: vision tower once, causal attention, head at ``head_tokens`` positions."""
    tokens, patches = spec.mean_tokens, spec.image_tokens * shape.merge**2
    layers = 2 * tokens * shape.layers * shape.layer_parameters
    attention = 2 * tokens**2 * shape.hidden * shape.layers  # queries by keys and weights by values, half of each
    head = 2 * head_tokens * shape.embedding_parameters
    return layers + attention + head + vision_flops(shape, patches)


def vision_flops(shape: ModelShape, patches: int) -> float:
    """FLOPs of the vision tower and the projector on one row's patches, without its attention's products."""
    return 2 * patches * (shape.vision_parameters + shape.merger_parameters / shape.merge**2)


def training_flops(spec: RecipeSpec, *, with_teacher: bool) -> float:
    """FLOPs of one row's training step.

    The decoder's backward pass costs two forward passes, or one where its weights are frozen (adapters); gradient
    checkpointing adds a forward pass. A frozen vision tower has no backward pass.
    """
    shape = spec.student
    vision = vision_flops(shape, spec.image_tokens * shape.merge**2)
    decoder = forward_flops(shape, spec, head_tokens=spec.answer_tokens) - vision
    backward = (1 if spec.finetuning_type == "lora" else 2) + (not spec.disable_gradient_checkpointing)
    student = (1 + backward) * decoder + vision * (1 if spec.freeze_vision_tower else 1 + backward)
    return student + (forward_flops(spec.teacher, spec, head_tokens=spec.answer_tokens) if with_teacher else 0.0)


def generation_seconds(
    spec: RecipeSpec, shape: ModelShape, questions: int, beams: int, gpu: Gpu, flops: float
) -> float:
    """Seconds of one GPU for its share of ``questions``: prompts by FLOPs, then ``answer_tokens`` steps a batch."""
    share = questions / spec.gpus
    sequences = spec.per_device_eval_batch_size * beams
    bits = spec.quantization_bit if shape is spec.student else spec.ref_model_quantization_bit
    weights = shape.parameters * spec.dtype_bytes if bits is None else shape.parameters * bits / 8
    cache = sequences * spec.mean_tokens * shape.layers * 2 * shape.kv_width * spec.dtype_bytes
    rate = GATHER_BANDWIDTH if spec.zero_stage == 3 and spec.gpus > 1 else gpu.bandwidth
    step = max(weights / rate + cache / gpu.bandwidth, shape.layers * LAUNCH_SECONDS)
    prompts = share * forward_flops(shape, spec, head_tokens=1) / flops  # once for all beams
    return prompts + ceil(share / spec.per_device_eval_batch_size) * spec.answer_tokens * step


def phase_seconds(spec: RecipeSpec, counts: Mapping[str, Any], gpu: Gpu, utilisation: float) -> dict[str, float]:
    """Phase -> seconds, with the counts of :func:`.plan.count_work`."""
    keys, flops, seconds = spec.keys, gpu.flops * utilisation * (1 if spec.half else 0.5), {}
    rows = spec.per_device_train_batch_size * spec.gradient_accumulation_steps  # of one GPU and optimiser step
    for phase, steps in counts["steps"].items():
        distils = phase == "distill" and spec.distils
        seconds[phase] = steps * rows * training_flops(spec, with_teacher=distils) / flops
        if distils and keys["kd_cache"] == "hidden" and keys["kd_epochs"] > 1:  # later epochs read the cache
            trunk = forward_flops(spec.teacher, spec, head_tokens=0) / flops
            seconds[phase] -= steps * rows * trunk * (1 - 1 / keys["kd_epochs"])
        if distils and keys["kd_teacher_offload"] and not spec.on_cpu:
            moved = spec.dtype_bytes * spec.teacher.layers * spec.teacher.layer_parameters / HOST_BANDWIDTH
            seconds[phase] += steps * spec.gradient_accumulation_steps * moved
        if distils and keys["kd_on_policy"]:
            answered = round(steps * rows * spec.gpus * keys["kd_on_policy"])
            seconds[phase] += generation_seconds(spec, spec.student, answered, 1, gpu, flops)
    models = {"pseudo_label": spec.teacher}
    for phase, answers in counts["generations"].items():
        if answers and not spec.is_served(phase):
            beams = {"pseudo_label": PSEUDO_LABEL_BEAMS, "predict": keys["sasg_candidates"]}.get(phase, 1)
            questions = answers // keys["sasg_candidates"] if phase == "predict" else answers
            model, width = models.get(phase, spec.student), max(beams, spec.num_beams)
            taken = generation_seconds(spec, model, questions, width, gpu, flops)
            seconds[phase] = seconds.get(phase, 0.0) + taken
    return {phase: seconds[phase] for phase in keys["clinkd_phases"] if phase in seconds}
