# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Parts of ``gpu_proof.py`` that no other benchmark has; prints one JSON line: case -> figures."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from kd_step_methods import build_model
from memory import measure


LENGTH = {"tiny": 64, "2b": 1024}


def batch(shape: str, device: str) -> dict[str, torch.Tensor]:
    """One row of random tokens."""
    ids = torch.randint(0, 150000, (1, LENGTH[shape]), generator=torch.Generator().manual_seed(0)).to(device)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def attention(device: str, shape: str) -> dict[str, Any]:
    """Forward and backward with each implementation."""
    found = {}
    for name in ("sdpa", "flash_attention_2"):
        model = build_model(shape, torch.bfloat16, device, "frozen")
        try:
            model.set_attn_implementation(name)
        except (ImportError, ValueError) as error:
            found[name] = {"missing": str(error).splitlines()[0][:200]}
            continue

        def step(model=model) -> float:
            loss = model(**batch(shape, device), use_cache=False).logits.float().square().mean()
            loss.backward()
            return loss.item()

        step()
        result = measure(step, device)
        found[name] = {"seconds": result.seconds, "peak_mib": result.peak_mib, "loss": result.value}
    return found


def quantised(device: str, shape: str) -> dict[str, Any]:
    """Size of a teacher, time of its forward pass, and how far its first choices agree with bf16."""
    from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

    found, choices = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        build_model(shape, torch.bfloat16, "cpu", "frozen").save_pretrained(folder)
        configs = {
            "bf16": None,
            "8 bit": BitsAndBytesConfig(load_in_8bit=True),
            "4 bit": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16),
        }
        for name, config in configs.items():
            options = {} if config is None else {"quantization_config": config}
            model = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=torch.bfloat16, device_map={"": device}, **options
            ).eval()
            with torch.no_grad():
                model(**batch(shape, device))
                result = measure(lambda model=model: model(**batch(shape, device)).logits.argmax(-1), device)
            choices[name] = result.value
            size = sum(each.numel() * each.element_size() for each in model.parameters()) / 2**20
            agreement = (choices["bf16"] == result.value).float().mean().item()
            found[name] = {"seconds": result.seconds, "weights_mib": size, "agreement": agreement}
            del model
    return found


def offloaded(device: str, shape: str) -> dict[str, Any]:
    """The device's memory for a forward pass of a teacher on it, and of one in the machine's memory."""
    from accelerate import Accelerator

    from llamafactory_clinkd.kd.teacher import OffloadedTeacher, Teacher

    found, positions = {}, torch.arange(LENGTH[shape] - 8, LENGTH[shape], device=device)
    for name, kind in (("on the device", Teacher), ("offloaded", OffloadedTeacher)):
        accelerator = Accelerator(cpu=device == "cpu")
        torch.manual_seed(0)  # the same weights for both
        model = build_model(shape, torch.bfloat16, "cpu", "frozen").eval().requires_grad_(False)

        def load_and_run(kind=kind, model=model, accelerator=accelerator) -> float:
            teacher = kind(model, same_positions=True)
            teacher.prepare(accelerator)
            return float(teacher.hidden(batch(shape, device), positions).float().norm())

        result = measure(load_and_run, device)
        found[name] = {"seconds": result.seconds, "peak_mib": result.peak_mib, "norm": result.value}
        del model
    return found


def procedure(device: str, shape: str) -> dict[str, Any]:
    """The five phases on the demo's models in bf16 (fp32 on CPU), through LLaMA-Factory's command."""
    import llamafactory_clinkd

    demo = Path(llamafactory_clinkd.__file__).parent / "demo"
    few = shape == "tiny"
    with tempfile.TemporaryDirectory() as output:
        keys = {
            "model_name_or_path": demo / "models" / "base", "ref_model": demo / "models" / "teacher",
            "sasg_scorer": demo / "models" / "scorer", "dataset_dir": demo / "data", "output_dir": output,
            "bf16": device == "cuda", "pseudo_label_samples": 16 if few else 1320, "kd_epochs": 1,
            "max_samples": 16 if few else 1320, "correction_max_samples": 8,
        }  # fmt: skip
        command = [
            sys.executable,
            "-c",
            "from llamafactory.cli import main; main()",
            "train",
            demo / "clinkd_demo.yaml",
        ]
        command += [f"{key}={value}" for key, value in keys.items()]
        result = measure(lambda: subprocess.run(list(map(str, command)), capture_output=True, text=True), "cpu")
        if result.value.returncode != 0:
            raise SystemExit((result.value.stderr.strip().splitlines() or ["no message"])[-1])
        tasks = json.loads((Path(output) / "clinkd" / "metrics.json").read_text())["tasks"]
    return {"demo": {"seconds": result.seconds, **{task: entry["macro"] for task, entry in tasks.items()}}}


if __name__ == "__main__":
    _, on, size, part = sys.argv
    print(json.dumps(globals()[part](on, size)))
