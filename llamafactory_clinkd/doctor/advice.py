# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What to change in a recipe whose phase does not fit."""

from .memory import offloaded_bytes
from .recipe_spec import Facts


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
