# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Writes the table of GPUs in README.md from the plan of one recipe for each kind of machine.

What the rows share is what ``clinkd init`` writes; the first row is its recipe for that GPU.

``python docs/write_hardware.py`` writes the table; ``tests/test_docs.py`` compares it.
"""

from pathlib import Path
from typing import Any

from llamafactory_clinkd.doctor.new_recipe import FIXED
from llamafactory_clinkd.doctor.plan import make_plan
from llamafactory_clinkd.utils.gpus import GPUS


README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- docs/write_hardware.py -->\n", "<!-- end -->"
ROWS = (10_000, 1_000)
BASE = FIXED | {"clinkd_phases": "distill,correct,predict", "gradient_accumulation_steps": 8}
TWO, SEVEN, LARGE = (f"Qwen/Qwen2-VL-{size}-Instruct" for size in ("2B", "7B", "72B"))
ZERO3 = {"zero_optimization": {"stage": 3}}
MACHINES: list[tuple[str, int, str, dict[str, Any]]] = [
    ("4090", 1, "LoRA, teacher in 4 bits", {"model_name_or_path": TWO, "ref_model": SEVEN, "finetuning_type": "lora",
     "ref_model_quantization_bit": 4, "per_device_train_batch_size": 8, "per_device_eval_batch_size": 8,
     "gradient_accumulation_steps": 2}),
    ("4090", 1, "LoRA over 4 bits, both", {"model_name_or_path": SEVEN, "ref_model": SEVEN, "finetuning_type": "lora",
     "quantization_bit": 4, "ref_model_quantization_bit": 4, "per_device_train_batch_size": 1,
     "per_device_eval_batch_size": 1}),
    ("a100-80", 1, "full fine-tuning", {"model_name_or_path": TWO, "ref_model": SEVEN, "finetuning_type": "full",
     "per_device_train_batch_size": 4, "per_device_eval_batch_size": 8}),
    ("a100-80", 1, "LoRA, teacher in 4 bits", {"model_name_or_path": SEVEN, "ref_model": LARGE, "finetuning_type":
     "lora", "ref_model_quantization_bit": 4, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 4}),
    ("a100-80", 8, "full fine-tuning, ZeRO-3", {"model_name_or_path": SEVEN, "ref_model": LARGE, "finetuning_type":
     "full", "deepspeed": ZERO3, "per_device_train_batch_size": 2, "per_device_eval_batch_size": 4}),
]  # fmt: skip


def hardware_table() -> str:
    """The table as Markdown: one row for each machine and recipe."""
    lines = ["| GPUs | student | teacher | settings | peak GiB | hours | of these, distillation |"]
    lines.append("|" + "---|" * 7)
    for name, gpus, settings, keys in MACHINES:
        card = GPUS[name]
        plan = make_plan(BASE | keys, gpus=gpus, gib=card.gib, gpu=card, rows=ROWS)
        if not plan["fits"]:
            raise ValueError(f"{settings} does not fit on {gpus} x {name}: {plan['advice'][:2]}")
        peak = max(parts["peak"] for parts in plan["memory"].values()) / 2**30
        hours = [sum(plan["seconds"].values()) / 3600, plan["seconds"]["distill"] / 3600]
        models = (keys[key].split("/")[-1].removesuffix("-Instruct") for key in ("model_name_or_path", "ref_model"))
        machine = f"{gpus} x {round(card.gib + 0.5)} GB ({name})"
        lines.append(f"| {' | '.join([machine, *models, settings, f'{peak:.0f}', *(f'{h:.1f}' for h in hours)])} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    README.write_text(text[:start] + hardware_table() + text[end:], encoding="utf-8")
