# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Memory of each phase on one GPU."""

from .generating import generation_bytes
from .memory import (
    activation_bytes,
    cast_bytes,
    gathered_bytes,
    gradient_bytes,
    loss_bytes,
    model_bytes,
    offloaded_bytes,
    optimizer_bytes,
    step_bytes,
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
