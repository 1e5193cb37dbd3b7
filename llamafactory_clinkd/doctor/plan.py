# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd doctor --plan``: memory, time, disk and counts of a recipe before a GPU is rented.

Arithmetic over a recipe's keys and the models' configurations: no GPU, no LLaMA-Factory, no download.
"""

from collections.abc import Mapping
from math import ceil
from typing import Any

from rich.console import Group

from ..utils.console import WholeTable, counted
from ..utils.gpus import GPUS, UTILISATION, Gpu
from .duration import LAUNCH_SECONDS, phase_seconds
from .memory import COMPONENTS, memory_by_phase, offloaded_bytes, trained_parameters
from .recipe_spec import RecipeSpec, read_spec


def make_plan(
    keys: Mapping[str, Any],
    *,
    gpus: int,
    gib: float,
    gpu: Gpu = GPUS["a100-80"],
    utilisation: float = UTILISATION,
    **options: Any,
) -> dict[str, Any]:
    """The plan of a recipe on ``gpus`` GPUs of ``gib`` GiB each; ``options`` are those of :func:`.read_spec`.

    ``gpu`` has the peak and the bandwidth of each, of which training reaches the share ``utilisation`` (0 to 1).

    Returns:
        JSON-able: ``gpus`` (0 for the CPU), ``gib``, ``fits``, ``memory`` (phase -> component -> bytes, with
        ``peak``), ``counts``, ``seconds`` (phase -> seconds; empty on the CPU), ``rows_per_second`` (phase -> rows),
        ``advice`` (lines; empty if the recipe fits) and ``assumptions`` (lines).

    Raises:
        ValueError: If the recipe cannot be planned; the message names the fix.
    """
    spec = read_spec(keys, gpus=gpus, **options)
    if spec.on_cpu:
        _check_cpu(spec, keys)
    memory, available = memory_by_phase(spec), int(gib * 2**30)
    counts = count_work(spec)
    seconds = {} if spec.on_cpu else phase_seconds(spec, counts, gpu, utilisation)
    assumptions = [
        f"every row has {spec.row_tokens} tokens (--row-tokens), an image {spec.image_tokens} of them, an answer "
        f"{spec.answer_tokens} on average (--answer-tokens; the data is not read) and at most {spec.max_new_tokens}",
        "every answer is wrong and is corrected (the upper bound)",
    ]
    if spec.rows_are_assumed:
        assumptions.append(
            f"{spec.train_rows} training and {spec.eval_rows} evaluation rows: the paper's numbers where the "
            "recipe's data is not on this machine"
        )
    if served := [phase for phase, answers in counts["generations"].items() if answers and spec.is_served(phase)]:
        assumptions.append(f"a server generates for {', '.join(served)}: its memory and time are not counted")
    if seconds:
        assumptions.append(
            f"for the time: {spec.mean_tokens} tokens in a row, {gpu.flops / 1e12:.0f} TFLOPS, of which "
            f"{utilisation:.0%} are reached, {gpu.bandwidth / 1e12:.2f} TB/s, and at least "
            f"{1000 * LAUNCH_SECONDS:g} ms a layer for a generated token. Not measured on a GPU"
        )
    return {
        "gpus": 0 if spec.on_cpu else gpus,
        "gib": gib,
        "fits": all(breakdown["peak"] <= available for breakdown in memory.values()),
        "memory": memory,
        "counts": counts,
        "seconds": seconds,
        "rows_per_second": {phase: counts["rows"][phase] / taken for phase, taken in seconds.items() if taken},
        "advice": advice(spec, memory, available),
        "assumptions": assumptions,
    }


def _check_cpu(spec: RecipeSpec, keys: Mapping[str, Any]) -> None:
    """Refuses what a run on the CPU refuses."""
    if spec.gpus > 1:
        raise ValueError(f"`--gpus {spec.gpus}` with `--gpu cpu`: one process trains on the CPU. Give `--gpus 1`.")
    for key in ("bf16", "fp16", "pure_bf16", "quantization_bit", "ref_model_quantization_bit"):
        if (value := getattr(spec, key)) and not (key == "bf16" and keys.get("use_cpu")):
            raise ValueError(f"`{key}: {str(value).lower()}` needs a GPU. Remove the key, or plan for a GPU.")


def count_work(spec: RecipeSpec) -> dict[str, Any]:
    """Counts of the whole recipe, with corrections as if every answer were wrong.

    Returns:
        ``rows`` (phase -> rows, each as often as it is used), ``steps`` (phase -> optimiser steps), ``generations``
        (phase -> answers), ``api_calls_at_most``, ``cache_bytes``, ``checkpoint_bytes`` (of one checkpoint).
    """
    keys, phases = spec.keys, spec.keys["clinkd_phases"]
    labelled = min(keys["pseudo_label_samples"], spec.train_rows)
    distilled = labelled if "pseudo_label" in phases else spec.train_rows
    judged = min(keys["correction_max_samples"] or spec.train_rows, spec.train_rows)
    corrected_rounds = keys["correction_rounds"] - 1 if "correct" in phases else 0
    requests = min(judged, keys["correction_max_requests"] or judged) if keys["corrector"] == "openai" else 0
    steps = {}
    if "distill" in phases:
        steps["distill"] = ceil(_steps(spec, distilled) * keys["kd_epochs"])
    if "correct" in phases:
        later_round = _steps(spec, spec.train_rows + judged)
        steps["correct"] = _steps(spec, spec.train_rows) + corrected_rounds * later_round
    used = {
        "pseudo_label": labelled,
        "distill": distilled * keys["kd_epochs"],
        "correct": spec.train_rows * (1 + corrected_rounds) + judged * corrected_rounds,
        "predict": spec.eval_rows,
    }
    return {
        "rows": {phase: used[phase] for phase in phases if phase in used},
        "steps": steps,
        "generations": {
            "pseudo_label": labelled * ("pseudo_label" in phases),
            "correct": corrected_rounds * judged * (keys["correction_outputs"] == "generate"),
            "predict": spec.eval_rows * keys["sasg_candidates"] * ("predict" in phases),
        },
        "api_calls_at_most": corrected_rounds * requests,
        "cache_bytes": _cache_bytes(spec, distilled) if spec.distils and keys["kd_cache"] == "hidden" else 0,
        "checkpoint_bytes": _checkpoint_bytes(spec) if steps else 0,
    }


def _steps(spec: RecipeSpec, rows: int) -> int:
    return ceil(rows / (spec.per_device_train_batch_size * spec.gradient_accumulation_steps * spec.gpus))


def _cache_bytes(spec: RecipeSpec, rows: int) -> int:
    """The teacher's hidden states of every supervised token, and its head once."""
    import torch

    from ..kd.teacher_cache import estimate_bytes

    dtype = torch.bfloat16 if spec.half else torch.float32
    states = estimate_bytes(rows * spec.answer_tokens, spec.teacher.hidden, dtype, samples=rows)
    return states + spec.teacher.embedding_parameters * dtype.itemsize


def _checkpoint_bytes(spec: RecipeSpec) -> int:
    """One checkpoint: the saved weights and two fp32 moments (ZeRO: also fp32 weights)."""
    trained, saved_bytes = trained_parameters(spec), 2 if spec.half and spec.zero_stage else 4
    frozen = 0 if spec.finetuning_type == "lora" else spec.dtype_bytes * (spec.student.parameters - trained)
    return frozen + saved_bytes * trained + (12 if spec.zero_stage else 8) * trained


def advice(spec: RecipeSpec, memory: dict[str, dict[str, int]], available: int) -> list[str]:
    """Lines ``phase: change (about X GiB less)``, best first, for each phase that needs over ``available`` bytes."""
    lines, per_gpu = [], "" if spec.on_cpu else " per GPU"
    for phase, breakdown in memory.items():
        if breakdown["peak"] > available:
            lines.append(f"{phase}: {(breakdown['peak'] - available) / 2**30:.1f} GiB too much{per_gpu}")
            changes = sorted(_changes(spec, phase, breakdown), reverse=True)
            lines += [f"{phase}: {text} (about {saved / 2**30:.1f} GiB less)" for saved, text in changes if saved > 0]
    return lines


def _changes(spec: RecipeSpec, phase: str, breakdown: dict[str, int]) -> list[tuple[int, str]]:
    """``(bytes saved, change)`` for one phase."""
    trains, distils, zero3 = phase in ("distill", "correct"), phase == "distill", spec.zero_stage == 3
    teacher, optimiser, generation = breakdown["teacher"], breakdown["optimiser"], breakdown["generation"]
    states = breakdown["weights"] + breakdown["gradients"] + optimiser + teacher
    batch, eval_batch = spec.per_device_train_batch_size, spec.per_device_eval_batch_size
    teacher_bits = spec.ref_model_quantization_bit
    changes = []
    if not zero3 and spec.gpus > 1 and not (spec.use_galore or spec.quantization_bit or teacher_bits):
        text = "`deepspeed: examples/deepspeed/ds_z3_config.json` shards weights, gradients and states over the GPUs"
        changes.append((states - states // spec.gpus, text))
    if zero3 and optimiser and not spec.offload_optimizer:
        text = "`offload_optimizer: {device: cpu}` in the DeepSpeed file moves the optimiser to CPU memory"
        changes.append((optimiser, text))
    if zero3 and trains:
        changes.append((states // 2, f"{2 * spec.gpus} GPUs instead of {spec.gpus}"))
    if trains and spec.finetuning_type == "full":
        saved = int(0.95 * (breakdown["gradients"] + optimiser))
        changes.append((saved, "`finetuning_type: lora` trains adapters only"))
    if teacher and teacher_bits is None and not zero3:
        changes.append((int(0.7 * teacher), "`ref_model_quantization_bit: 4` for the teacher"))
    if distils and teacher and not (teacher_bits or spec.zero_stage or spec.on_cpu):
        text = "`kd_teacher_offload: true` keeps the teacher's weights in CPU memory; distillation is slower"
        changes.append((teacher - offloaded_bytes(spec.teacher, spec), text))
    if teacher and spec.teacher.parameters > spec.student.parameters:
        saved = teacher - teacher * spec.student.parameters // spec.teacher.parameters
        changes.append((saved, "a smaller teacher: `ref_model` of the student's size"))
    if trains and batch > 1:
        accumulation = spec.gradient_accumulation_steps * batch // (batch // 2)
        text = f"`per_device_train_batch_size: {batch // 2}` with `gradient_accumulation_steps: {accumulation}`"
        changes.append((breakdown["activations"] // 2, text))
    if trains and spec.disable_gradient_checkpointing:
        changes.append((int(0.8 * breakdown["activations"]), "remove `disable_gradient_checkpointing`"))
    if generation and eval_batch > 1:
        changes.append((generation // 2, f"`per_device_eval_batch_size: {eval_batch // 2}`"))
    if generation and phase == "correct":
        changes.append((generation, "`correction_outputs: forward` generates nothing between rounds"))
    return changes


def plan_table(plan: dict[str, Any]) -> Group:
    """The plan as a rich table of memory and lines of text."""
    memory, counts = plan["memory"], plan["counts"]
    on_cpu = not plan["gpus"]
    table = WholeTable("GiB in this machine" if on_cpu else "GiB on each GPU", *memory)
    for name in COMPONENTS:
        sizes = [breakdown[name] for breakdown in memory.values()]
        if any(sizes):
            table.add_row(name, *(f"{size / 2**30:.1f}" if size else "" for size in sizes))
    peaks = [breakdown["peak"] / 2**30 for breakdown in memory.values()]
    table.add_section()
    table.add_row("peak", *(f"{peak:.1f}" for peak in peaks))
    fits = ("[green]fits[/]" if peak <= plan["gib"] else "[red]too much[/]" for peak in peaks)
    table.add_row(f"of {round(plan['gib'], 1):g}", *fits)
    lines = ["time: not estimated on the CPU"] if on_cpu else []
    if plan["seconds"]:
        times = (f"{phase} {_hours(taken)}" for phase, taken in plan["seconds"].items())
        rates = (f"{phase} {rate:.1f}" for phase, rate in plan["rows_per_second"].items())
        lines += [f"time: {_hours(sum(plan['seconds'].values()))} ({', '.join(times)})"]
        lines += [f"rows a second: {', '.join(rates)}"]
    lines += [
        f"optimiser steps: {_join_counts(counts['steps'])}",
        f"answers generated: {_join_counts(counts['generations'])}",
        f"disk: {counts['checkpoint_bytes'] / 2**30:.1f} GiB per checkpoint",
    ]
    if counts["api_calls_at_most"]:
        lines.append(f"requests to the corrector's server: at most {counts['api_calls_at_most']:,}")
    if counts["cache_bytes"]:
        lines.append(f"disk: {counts['cache_bytes'] / 2**30:.1f} GiB for the teacher cache")
    lines += [f"assumption: {line}" for line in plan["assumptions"]]
    lines += [f"[yellow]{line}[/]" for line in plan["advice"]] or [
        "The recipe fits on this machine." if on_cpu else f"The recipe fits on {counted(plan['gpus'], 'GPU')}."
    ]
    return Group(table, *lines)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 360 else f"{seconds / 60:.1f} min"


def _join_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count) or "none"
