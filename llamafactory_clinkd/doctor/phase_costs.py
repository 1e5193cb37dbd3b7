# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Memory of each phase on one GPU."""

from math import ceil
from typing import Any

from .memory import (
    activation_bytes,
    cast_bytes,
    gathered_bytes,
    generation_bytes,
    gradient_bytes,
    loss_bytes,
    model_bytes,
    offloaded_bytes,
    optimizer_bytes,
    step_bytes,
    trained_parameters,
    weight_bytes,
)
from .recipe_spec import Facts


RUNTIME_BYTES = int(1.0 * 2**30)

"""CUDA's context, cuBLAS's and NCCL's work space and what the allocator loses; an assumption, not a measurement."""

PARTS = ("weights", "gradients", "optimiser", "teacher", "activations", "loss", "generation", "runtime")


def memory_of_phases(facts: Facts) -> dict[str, dict[str, int]]:
    """Phase -> part of :data:`PARTS` -> bytes at the moment of its peak, with the sum under ``peak``.

    Phase evaluate needs no GPU.
    """
    found = {}
    for phase in facts.phases:
        if phase == "pseudo_label":
            parts = _generating(facts, of_teacher=True)
        elif phase == "distill":
            parts = _training(facts, with_teacher=facts.distils)
        elif phase == "correct":
            parts = _correcting(facts)
        elif phase == "predict":
            parts = _generating(facts, of_teacher=False)
        else:
            continue
        parts = {name: int(parts.get(name, 0)) for name in PARTS}
        parts["runtime"] = 0 if facts.on_cpu else RUNTIME_BYTES
        found[phase] = {**parts, "peak": sum(parts.values())}
    return found


def _training(facts: Facts, *, with_teacher: bool) -> dict[str, int]:
    """The larger of two moments: the loss's backward pass, and the optimiser's step with all gradients."""
    fixed = {"weights": weight_bytes(facts), "optimiser": optimizer_bytes(facts)}
    if with_teacher and not facts.teacher_shares_weights:  # with `kd_cache: hidden` too: epoch 1 fills the cache
        whole = model_bytes(facts.teacher, facts, facts.teacher_bits)
        fixed["teacher"] = offloaded_bytes(facts.teacher, facts) if facts.keys["kd_teacher_offload"] else whole
    backward = {
        "gradients": gradient_bytes(facts) if facts.accumulation > 1 or facts.zero_stage else 0,
        "activations": activation_bytes(facts) + cast_bytes(facts),
        "loss": loss_bytes(facts, with_teacher),
    }
    step = {"gradients": gradient_bytes(facts), "activations": step_bytes(facts)}
    return {**fixed, **max(backward, step, key=lambda moment: sum(moment.values()))}


def _correcting(facts: Facts) -> dict[str, int]:
    """Training, or generating between two rounds with weights and optimiser in place, whichever is larger."""
    training = _training(facts, with_teacher=False)
    if facts.keys["correction_rounds"] < 2 or facts.keys["correction_outputs"] == "forward":
        return training
    generating = {
        "weights": training["weights"],
        "optimiser": training["optimiser"],
        "generation": _generation(facts, facts.student, facts.correct_beams),
    }
    return max(training, generating, key=lambda moment: sum(moment.values()))


def _generating(facts: Facts, *, of_teacher: bool) -> dict[str, int]:
    if of_teacher:
        weights = {"teacher": model_bytes(facts.teacher, facts, facts.teacher_bits)}
        return {**weights, "generation": _generation(facts, facts.teacher, facts.pseudo_label_beams)}
    weights = {"weights": model_bytes(facts.student, facts, facts.student_bits)}
    return {**weights, "generation": _generation(facts, facts.student, facts.predict_beams)}


def _generation(facts: Facts, shape, beams: int) -> int:
    e = 2 if facts.half else 4
    generating = generation_bytes(
        shape,
        rows=facts.eval_batch,
        beams=beams,
        prompt=max(1, facts.row_tokens - facts.answer_tokens),
        new=facts.new_tokens,
        image_tokens=facts.image_tokens,
        e=e,
    )
    return generating + gathered_bytes(facts, shape, e)


CACHE_HEADER = 160

"""Bytes of a sample's entry in the teacher cache beside its states (``kd.cache.HEADER_BYTES_PER_SAMPLE``)."""


def counts_of(facts: Facts) -> dict[str, Any]:
    """Counts of the whole recipe.

    Returns:
        ``steps`` (phase -> optimiser steps), ``generations`` (phase -> answers), ``api_calls_at_most``,
        ``cache_bytes``, ``checkpoint_bytes`` (of one checkpoint). Corrections are counted as if every answer were
        wrong: how many are is not known before.
    """
    keys, phases = facts.keys, facts.phases
    labelled = min(keys["pseudo_label_samples"], facts.train_rows)
    distilled = labelled if "pseudo_label" in phases else facts.train_rows
    judged = min(keys["correction_max_samples"] or facts.train_rows, facts.train_rows)
    between = keys["correction_rounds"] - 1 if "correct" in phases else 0
    generates = keys["correction_outputs"] == "generate"
    generations = {
        "pseudo_label": labelled * ("pseudo_label" in phases),
        "correct": between * judged * generates,
        "predict": facts.eval_rows * keys["sasg_candidates"] * ("predict" in phases),
    }
    asked = between * min(judged, keys["correction_max_requests"] or judged) if keys["corrector"] == "openai" else 0
    steps = {}
    if "distill" in phases:
        steps["distill"] = ceil(_steps(facts, distilled) * keys["kd_epochs"])
    if "correct" in phases:
        steps["correct"] = _steps(facts, facts.train_rows) + between * _steps(facts, facts.train_rows + judged)
    return {
        "steps": steps,
        "generations": generations,
        "api_calls_at_most": asked,
        "cache_bytes": _cache_bytes(facts, distilled) if facts.distils and keys["kd_cache"] == "hidden" else 0,
        "checkpoint_bytes": _checkpoint_bytes(facts) if steps else 0,
    }


def _steps(facts: Facts, rows: int) -> int:
    return ceil(rows / (facts.batch * facts.accumulation * facts.gpus))


def _cache_bytes(facts: Facts, rows: int) -> int:
    """The teacher's hidden states of every supervised token, and its head once."""
    each = 2 if facts.half else 4
    states = rows * (facts.answer_tokens * facts.teacher.hidden * each + CACHE_HEADER)
    return states + facts.teacher.embedding_parameters * each


def _checkpoint_bytes(facts: Facts) -> int:
    """One checkpoint: what was saved of the model, and two fp32 moments (ZeRO: with fp32 weights)."""
    trained, each = trained_parameters(facts), 2 if facts.half and facts.zero_stage else 4
    frozen = 0 if facts.finetuning == "lora" else (2 if facts.half else 4) * (facts.student.parameters - trained)
    return frozen + each * trained + (12 if facts.zero_stage else 8) * trained


def advice(facts: Facts, memory: dict[str, dict[str, int]], available: int) -> list[str]:
    """Changes for every phase whose peak is above ``available`` bytes a GPU, the most effective first.

    Args:
        facts: The recipe.
        memory: From :func:`.phases.memory_of_phases`.
        available: Bytes of one GPU.

    Returns:
        Lines ``phase: change (about X GiB)``; empty if everything fits.
    """
    lines = []
    for phase, parts in memory.items():
        if parts["peak"] > available:
            over = (parts["peak"] - available) / 2**30
            lines.append(f"{phase}: {over:.1f} GiB too much a GPU")
            changes = sorted(_changes(facts, phase, parts), reverse=True)
            lines += [f"{phase}: {text} (about {saved / 2**30:.1f} GiB less)" for saved, text in changes if saved > 0]
    return lines


def _changes(facts: Facts, phase: str, parts: dict[str, int]) -> list[tuple[int, str]]:
    """``(bytes saved, change)`` for one phase."""
    trains = phase in ("distill", "correct")
    changes = []
    sharded = facts.zero_stage == 3
    if not sharded and facts.gpus > 1 and facts.galore_rank is None and not (facts.student_bits or facts.teacher_bits):
        states = parts["weights"] + parts["gradients"] + parts["optimiser"] + parts["teacher"]
        text = "`deepspeed: examples/deepspeed/ds_z3_config.json` shares weights, gradients and states among the GPUs"
        changes.append((states - states // facts.gpus, text))
    if sharded and parts["optimiser"] and not facts.offload_optimizer:
        text = "`offload_optimizer: {device: cpu}` in the DeepSpeed file moves the optimiser to the machine's memory"
        changes.append((parts["optimiser"], text))
    if sharded and trains:
        states = parts["weights"] + parts["gradients"] + parts["optimiser"] + parts["teacher"]
        changes.append((states // 2, f"{2 * facts.gpus} GPUs instead of {facts.gpus}"))
    if trains and facts.finetuning == "full":
        text = "`finetuning_type: lora` trains adapters only"
        changes.append((int(0.95 * (parts["gradients"] + parts["optimiser"])), text))
    if parts["teacher"] and facts.teacher_bits is None and not sharded:
        changes.append((int(0.7 * parts["teacher"]), "`ref_model_quantization_bit: 4` for the teacher"))
    if phase == "distill" and parts["teacher"] and not (facts.teacher_bits or facts.zero_stage or facts.on_cpu):
        left = offloaded_bytes(facts.teacher, facts)
        text = "`kd_teacher_offload: true` keeps the teacher's weights in the machine's memory, slower"
        changes.append((parts["teacher"] - left, text))
    if parts["teacher"] and facts.teacher.parameters > facts.student.parameters:
        saved = parts["teacher"] - parts["teacher"] * facts.student.parameters // facts.teacher.parameters
        changes.append((saved, "a smaller teacher: `ref_model` of the student's size"))
    if trains and facts.batch > 1:
        text = (
            f"`per_device_train_batch_size: {facts.batch // 2}` with `gradient_accumulation_steps: "
            f"{facts.accumulation * facts.batch // (facts.batch // 2)}`"
        )
        changes.append((parts["activations"] // 2, text))
    if trains and not facts.checkpointing:
        changes.append((int(0.8 * parts["activations"]), "leave `disable_gradient_checkpointing` out"))
    if parts["generation"] and facts.eval_batch > 1:
        text = f"`per_device_eval_batch_size: {facts.eval_batch // 2}`"
        changes.append((parts["generation"] // 2, text))
    if parts["generation"] and phase == "correct":
        changes.append((parts["generation"], "`correction_outputs: forward` generates nothing between rounds"))
    return changes
