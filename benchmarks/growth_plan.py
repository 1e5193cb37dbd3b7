# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A 7B student under a 72B teacher on 8 to 64 GPUs of 80 GB, on paper: memory, FLOPs, traffic, hours, disk.

    python benchmarks/growth_plan.py --json plan.json
    python benchmarks/growth_plan.py --write        # the tables of docs/scaling.md

Memory, hours and disk are those of `clinkd doctor --plan`, bytes sent those of `benchmarks/scaling.py`.
"""

import argparse
import json
from math import ceil
from pathlib import Path
from typing import Any

from scaling import Sizes, token_traffic, traffic

from llamafactory_clinkd.doctor.duration import GATHER_BANDWIDTH, forward_flops, training_flops
from llamafactory_clinkd.doctor.memory import trained_parameters
from llamafactory_clinkd.doctor.model_shape import SIZES, ModelShape
from llamafactory_clinkd.doctor.plan import make_plan
from llamafactory_clinkd.doctor.recipe_spec import PSEUDO_LABEL_BEAMS, RecipeSpec, read_spec
from llamafactory_clinkd.utils.gpus import GPUS, UTILISATION


DOC = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
BEGIN, END = "<!-- benchmarks/growth_plan.py -->\n", "<!-- end -->"
CARD, COUNTS = "a100-80", (8, 16, 32, 64)
ROWS = (240_000, 30_000)  # training and test rows of the paper
WINDOW = 64  # rows of an optimizer step, on any number of GPUs
NODE, BETWEEN = 8, 50e9  # GPUs of a node, and bytes a second that a GPU sends to other nodes: assumptions
BUCKET = 25 * 2**20  # bytes of a gradient bucket of DDP, torch's default
ZERO2_BUCKET = 5e8  # elements of a bucket of ZeRO-2, DeepSpeed's default
VISION_BLOCKS = 32  # of every Qwen2-VL
ENGINES: dict[str, dict[str, Any]] = {
    "ZeRO-3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
    "ZeRO-2, teacher in 4 bits": {
        "deepspeed": {"zero_optimization": {"stage": 2}}, "ref_model_quantization_bit": 4,
    },
    "ZeRO-2": {"deepspeed": {"zero_optimization": {"stage": 2}}},
    "DDP, LoRA, teacher in 4 bits": {"finetuning_type": "lora", "ref_model_quantization_bit": 4},
}  # fmt: skip


def recipe(engine: str, gpus: int) -> dict[str, Any]:
    """The recipe's keys: the paper's phases, one row a GPU and micro-batch."""
    student, teacher = (f"Qwen/Qwen2-VL-{size}-Instruct" for size in ("7B", "72B"))
    return {
        "use_clinkd": True, "clinkd_phases": "pseudo_label,distill,correct,predict", "bf16": True,
        "model_name_or_path": student, "ref_model": teacher, "finetuning_type": "full", "cutoff_len": 2048,
        "image_max_pixels": 262144, "rope_variant": "mrope", "max_new_tokens": 256, "kd_cache": "hidden",
        "per_device_train_batch_size": 1, "gradient_accumulation_steps": WINDOW // gpus,
        "per_device_eval_batch_size": 4, **ENGINES[engine],
    }  # fmt: skip


def collectives(engine: str, spec: RecipeSpec, *, with_teacher: bool) -> int:
    """Collectives of one optimizer step.

    DDP has one for each bucket of gradients; ZeRO-2 one for each bucket, micro-batch and, at the end, bucket of
    weights. ZeRO-3 gathers each block (decoder layer, block of the vision tower, embedding, projector, head) in the
    forward and the backward pass, the teacher's in the forward pass and its head once more for the loss, and scatters
    each trained block's gradients, in every micro-batch.
    """
    trained, accumulation = trained_parameters(spec), spec.gradient_accumulation_steps
    if engine == "ddp":
        return ceil(2 * trained / BUCKET)
    if engine == "zero2":
        return (accumulation + 1) * ceil(trained / ZERO2_BUCKET)
    gathered = 2 * blocks(spec.student) + (blocks(spec.teacher) + 1 if with_teacher else 0)
    return accumulation * (gathered + spec.student.layers + 3)


def blocks(shape: ModelShape) -> int:
    """What ZeRO-3 gathers one after the other in a forward pass."""
    return shape.layers + VISION_BLOCKS + 3


def token_flops(shape: ModelShape, spec: RecipeSpec) -> float:
    """FLOPs of one generated token of one beam: all weights of the decoder, and attention over the row so far."""
    return 2 * (shape.layers * shape.layer_parameters + shape.embedding_parameters) + (
        4 * spec.mean_tokens * shape.hidden * shape.layers
    )


def phase_row(engine: str, phase: str, spec: RecipeSpec, plan: dict[str, Any]) -> dict[str, Any]:
    """One phase of one machine: bytes, FLOPs and messages of one GPU."""
    counts, n = plan["counts"], spec.gpus
    kind = {3: "zero3", 2: "zero2", 0: "ddp"}[spec.zero_stage]
    distils, student = phase == "distill", spec.student
    flops = bytes_sent = messages = 0.0
    if steps := counts["steps"].get(phase):
        rows = spec.per_device_train_batch_size * spec.gradient_accumulation_steps
        flops += steps * rows * training_flops(spec, with_teacher=distils)
        if distils:  # `kd_cache: hidden`: from the second epoch on the teacher's hidden states are read
            epochs = spec.keys["kd_epochs"]
            flops -= steps * rows * forward_flops(spec.teacher, spec, head_tokens=0) * (1 - 1 / epochs)
        sizes = Sizes(
            student.parameters, trained_parameters(spec), spec.teacher.parameters if distils else 0,
            spec.teacher.embedding_parameters if distils else 0,
        )  # fmt: skip
        bytes_sent = traffic(kind, sizes, n, accumulation=spec.gradient_accumulation_steps)
        messages = collectives(kind, spec, with_teacher=distils) * (n - 1) * (2 if kind == "ddp" else 1)
    answers = counts["generations"].get(phase, 0)
    model = spec.teacher if phase == "pseudo_label" else student
    token_bytes = token_messages = forwards = 0.0
    if answers:
        beams = {"pseudo_label": PSEUDO_LABEL_BEAMS, "predict": spec.keys["sasg_candidates"]}.get(phase, 1)
        share = answers / (spec.keys["sasg_candidates"] if phase == "predict" else 1) / n
        tokens = spec.answer_tokens * token_flops(model, spec)
        flops += share * (forward_flops(model, spec, head_tokens=1) + beams * tokens)
        forwards = ceil(share / spec.per_device_eval_batch_size) * spec.answer_tokens
        if kind == "zero3":
            token_bytes, token_messages = token_traffic(model.parameters, n), blocks(model) * (n - 1)
    total = (steps or 0) * bytes_sent + forwards * token_bytes
    return {
        "engine": engine, "gpus": n, "phase": phase, "peak_bytes": plan["memory"][phase]["peak"],
        "fits": plan["memory"][phase]["peak"] <= int(plan["gib"] * 2**30), "flops": flops, "steps": steps or 0,
        "step_bytes": bytes_sent, "step_messages": int(messages), "token_bytes": token_bytes,
        "token_messages": int(token_messages), "hours": plan["seconds"][phase] / 3600,
        "hours_sending": total / (GATHER_BANDWIDTH if n <= NODE else BETWEEN) / 3600,
        "disk_bytes": counts["checkpoint_bytes"] * bool(steps) + counts["cache_bytes"] * distils,
    }  # fmt: skip


def plan_rows(engines: list[str] | None = None) -> list[dict[str, Any]]:
    """Every phase on every number of GPUs, for each engine."""
    found, card = [], GPUS[CARD]
    for engine in engines or ENGINES:
        for gpus in COUNTS:
            keys = recipe(engine, gpus)
            plan = make_plan(keys, gpus=gpus, gib=card.gib, gpu=card, rows=ROWS)
            spec = read_spec(keys, gpus=gpus, rows=ROWS)
            found += [phase_row(engine, phase, spec, plan) for phase in plan["memory"]]
    return found


def tables(rows: list[dict[str, Any]]) -> str:
    """Markdown: each phase under ZeRO-3, and distillation under the other engines."""
    head = (
        "| {} | GPUs | peak GiB of {:g} | PFLOPs a GPU | GB sent a step | messages a step | GB a token | messages a "
        "token | hours | hours to send | disk GiB |\n|{}\n"
    )
    gib = GPUS[CARD].gib

    def line(row: dict[str, Any], name: str) -> str:
        def size(value: float, unit: float = 1e9, digits: int = 1) -> str:
            return f"{value / unit:,.{digits}f}" if value else ""

        peak = f"{row['peak_bytes'] / 2**30:.1f}" + ("" if row["fits"] else ", **does not fit**")
        cells = [
            name, str(row["gpus"]), peak, size(row["flops"], 1e15, 0), size(row["step_bytes"]),
            size(row["step_messages"], 1, 0), size(row["token_bytes"]), size(row["token_messages"], 1, 0),
            f"{row['hours']:.1f}", f"{row['hours_sending']:.1f}", size(row["disk_bytes"], 2**30, 0),
        ]  # fmt: skip
        return f"| {' | '.join(cells)} |\n"

    first = head.format("phase, ZeRO-3", gib, "---|" * 11)
    first += "".join(line(row, f"`{row['phase']}`") for row in by_phase(rows, "ZeRO-3"))
    second = head.format("`distill` with", gib, "---|" * 11)
    second += "".join(
        line(row, row["engine"]) for row in rows if row["engine"] != "ZeRO-3" and row["phase"] == "distill"
    )
    return f"{first}\n{second}"


def by_phase(rows: list[dict[str, Any]], engine: str) -> list[dict[str, Any]]:
    """The rows of an engine, a phase's numbers of GPUs together."""
    phases = list(dict.fromkeys(row["phase"] for row in rows))
    return sorted((row for row in rows if row["engine"] == engine), key=lambda row: phases.index(row["phase"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    parser.add_argument("--write", action="store_true", help="write the tables of docs/scaling.md")
    arguments = parser.parse_args()
    rows = plan_rows()
    print(tables(rows))
    if arguments.json:
        summary = {"gpu": CARD, "utilisation": UTILISATION, "window": WINDOW, "rows": ROWS, "sizes": list(SIZES)}
        arguments.json.write_text(json.dumps(summary | {"plan": rows}, indent=1) + "\n", encoding="utf-8")
    if arguments.write:
        text = DOC.read_text(encoding="utf-8")
        start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        DOC.write_text(text[:start] + tables(rows) + text[end:], encoding="utf-8")


if __name__ == "__main__":
    main()
