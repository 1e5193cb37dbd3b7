# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One process against two, phase by phase, and what a training step sends: counted, measured, and worked out for more.

    python benchmarks/scaling.py --json scaling.json

A small Qwen2-VL (demo sizes, its own vocabulary) runs pseudo-labels, distillation, correction rounds and prediction
over drawn images, each process on one thread. The traffic of a step is read from the loopback interface's counter, as
the difference of a longer and a shorter training. Other programs' traffic counts too; as root, a network namespace of
its own keeps it out:

    unshare --net bash -c 'ip link set lo up; python benchmarks/scaling.py --json scaling.json'

The formulas are explained in ``docs/scaling.md``.
"""

import argparse
import importlib.util
import json
import math
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from miniature.models import ModelSize, build_demo_models
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt
from llamafactory_clinkd.utils.io import read_json, write_json


PHASES = ["pseudo_label", "distill", "correct", "predict"]
WINDOW = 4


class Sizes(NamedTuple):
    """What the traffic depends on, in parameters.

    Attributes:
        student: All of the student's.
        trainable: Those of them that are trained.
        teacher: The teacher's.
        teacher_head: Those of the teacher's head, which ZeRO-3 gathers a second time, for the loss.
    """

    student: float
    trainable: float
    teacher: float
    teacher_head: float


def traffic(
    engine: str, sizes: Sizes, processes: int, *, accumulation: int, weight_bytes: int = 2, grad_bytes: int = 2
) -> float:
    """Bytes that one process sends in one optimizer step of phase ``distill``, by ring collectives.

    Args:
        engine: ``ddp``, ``zero2`` or ``zero3``.
        sizes: Of the models.
        processes: GPUs.
        accumulation: Micro-batches a step.
        weight_bytes: Bytes a weight.
        grad_bytes: Bytes a gradient.
    """
    share = (processes - 1) / processes  # what a ring's reduce-scatter or all-gather sends of the whole
    gradients = sizes.trainable * grad_bytes
    if engine == "ddp":
        return share * 2 * gradients
    if engine == "zero2":
        return share * (accumulation * gradients + sizes.trainable * weight_bytes)
    gathered = 2 * sizes.student + sizes.teacher + sizes.teacher_head  # forward, backward; the teacher has no backward
    return share * accumulation * (gathered * weight_bytes + gradients)


def token_traffic(parameters: float, processes: int, weight_bytes: int = 2) -> float:
    """Bytes that one process sends for each generated token where ZeRO-3 or FSDP partitions the model."""
    return (processes - 1) / processes * parameters * weight_bytes


def build(folder: Path, rows: int) -> dict[str, Path]:
    """Models and data."""
    rng = random.Random(0)
    data = []
    (folder / "data").mkdir(parents=True)
    for index in range(rows + rows // 2):
        x, y = rng.randrange(80), rng.randrange(80)
        image = Image.new("RGB", (112, 112), (index % 255, 30, 60))
        ImageDraw.Draw(image).rectangle([x, y, x + 30, y + 30], fill=(250, 250, 250))
        image.save(folder / "data" / f"ct_{index:04d}.png")
        box = f"<box>({x * 8},{y * 8}),({x * 8 + 240},{y * 8 + 240})</box>"
        turn = ["Where is the square located in the image?", f"<ref>square</ref>{box}"]
        data.append({"id": f"ct_{index:04d}", "task": "VG", "image": f"ct_{index:04d}.png", "turns": [turn]})
    write_sharegpt(folder / "data" / "train.json", data[:rows])
    write_sharegpt(folder / "data" / "test.json", data[rows:])
    entries = {name: dataset_info_entry(f"{name}.json") for name in ("train", "test")}
    write_dataset_info(folder / "data", entries)
    texts = [text for row in data for text in row["turns"][0]]
    return build_demo_models(folder, texts, base=ModelSize(256, 4), teacher=ModelSize(320, 5))


def run(folder: Path, name: str, models: dict[str, Path], processes: int, **changes: Any) -> dict[str, Any]:
    """Runs a recipe; seconds of each phase, bytes over loopback, steps of ``distill``."""
    keys = {
        "model_name_or_path": str(models["base"]), "ref_model": str(models["teacher"]), "stage": "sft",
        "do_train": True, "finetuning_type": "full", "use_clinkd": True, "clinkd_phases": ",".join(PHASES),
        "kd_epochs": 1, "correction_rounds": 2, "correction_similarity": "lexical", "sasg_scorer": "logprob",
        "dataset_dir": str(folder / "data"), "dataset": "train", "eval_dataset": "test", "template": "qwen2_vl",
        "cutoff_len": 512, "max_new_tokens": 12, "output_dir": str(folder / name), "overwrite_cache": True,
        "logging_steps": 1, "save_strategy": "no", "per_device_train_batch_size": 1, "learning_rate": 1e-4,
        "gradient_accumulation_steps": WINDOW // processes, "per_device_eval_batch_size": 4, "report_to": "none",
        "disable_tqdm": True, **changes,
    }  # fmt: skip
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(keys))
    launcher = Path(importlib.util.find_spec("llamafactory").submodule_search_locations[0]) / "launcher.py"
    torchrun = [] if processes == 1 else ["-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    Console().print(f"running {name} ...")
    before = loopback_bytes()
    done = subprocess.run(
        [sys.executable, *torchrun, str(launcher), str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{path} failed:\n{done.stderr[-3000:]}")
    phases = read_json(folder / name / "clinkd" / "state.json")["phases"]
    state = folder / name / ("clinkd/distill" if len(phases) > 1 else ".") / "trainer_state.json"
    return {
        "seconds": {phase: record["seconds"] for phase, record in phases.items()},
        "sent": loopback_bytes() - before,
        "steps": read_json(state)["global_step"],
    }


def loopback_bytes() -> int:
    """What the loopback interface of this network namespace has sent so far."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])  # the first of the columns "Transmit"
    raise OSError("/proc/net/dev has no lo: traffic can be measured on Linux only.")


def count_parameters(folder: Path) -> dict[str, int]:
    """Parameters of a saved model: all, those outside the vision tower, and the head."""
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", framework="pt") as file:
        sizes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    count = {name: math.prod(shape) for name, shape in sizes.items()}
    head = next(size for name, size in count.items() if "embed_tokens" in name)
    return {
        "all": sum(count.values()),
        "language": sum(size for name, size in count.items() if "visual" not in name),
        "head": head,
    }


def measure(rows: int) -> dict[str, Any]:
    """Runs everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = build(folder, rows)
        single, double = (run(folder, f"whole-{n}", models, n) for n in (1, 2))
        short, long = (
            run(folder, f"distill-{epochs}", models, 2, clinkd_phases="distill", kd_epochs=epochs) for epochs in (1, 3)
        )
        student, teacher = count_parameters(models["base"]), count_parameters(models["teacher"])
    sizes = Sizes(student["all"], student["language"], teacher["all"], teacher["head"])
    steps = long["steps"] - short["steps"]
    return {
        "rows": rows,
        "parameters": sizes._asdict(),
        "seconds": {"1": single["seconds"], "2": double["seconds"]},
        "step_bytes": {
            "measured_a_process": (long["sent"] - short["sent"]) / steps / 2,
            "counted_a_process": traffic("ddp", sizes, 2, accumulation=WINDOW // 2, grad_bytes=4),
            "steps": steps,
        },
    }


def tables(found: dict[str, Any]) -> list[Table]:
    """What was measured, and the formulas for a 2B student under a 7B teacher."""
    phases = Table(
        "phase", "1 process, s", "2 processes, s", "ratio", title="Seconds by phase, model loading included"
    )
    one, two = found["seconds"]["1"], found["seconds"]["2"]
    for phase in PHASES:
        phases.add_row(phase, f"{one[phase]:.1f}", f"{two[phase]:.1f}", f"{one[phase] / two[phase]:.2f}x")
    step = found["step_bytes"]
    sent = Table("sent by a process in a step", "MB", title=f"DDP, 2 processes, fp32, over {step['steps']} steps")
    sent.add_row("counted from the parameters", f"{step['counted_a_process'] / 1e6:.2f}")
    sent.add_row("measured on loopback", f"{step['measured_a_process'] / 1e6:.2f}")
    planned = Table(
        "engine", "8 GPUs", "64 GPUs", "512 GPUs", title="GB sent by a GPU in a step (2B student, 7B teacher)"
    )
    paper = Sizes(2.21e9, 1.54e9, 8.29e9, 152064 * 3584)
    for engine in ("ddp", "zero2", "zero3"):
        planned.add_row(engine, *(f"{traffic(engine, paper, n, accumulation=8) / 1e9:.1f}" for n in (8, 64, 512)))
    planned.add_row("zero3, a token", *(f"{token_traffic(paper.student, n) / 1e9:.1f}" for n in (8, 64, 512)))
    return [phases, sent, planned]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=96, help="training rows; half as many test rows")
    parser.add_argument("--json", type=Path, help="where to write the numbers")
    arguments = parser.parse_args()
    found = measure(arguments.rows)
    for table in tables(found):
        Console().print(table)
    if arguments.json:
        write_json(arguments.json, found)


if __name__ == "__main__":
    main()
