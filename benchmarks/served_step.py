# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

r"""A distillation step whose teacher is behind vLLM, against one whose teacher runs in the process.

    CLINKD_VLLM_PYTHON=~/vllm/bin/python python benchmarks/served_step.py --json docs/benchmarks/served_step.json

Random Qwen2-VL models with Qwen's vocabulary, fp32, full training, forward KL; one epoch, a process for each method.
The server scores all rows before the first step: seconds a row, the server on the same cores. Steps then read these
scores from the disk. Medians over all steps but each run's first.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=4, help="B")
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a run, after one that warms up")
    parser.add_argument("--side", type=int, default=224, help="width and height of an image; 224 is 64 tokens")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--top-k", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=2, help="runs of each method, which take turns")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--small-vocabulary", action="store_true", help="1,024 tokens, to see that it works")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(run_case(json.loads(options.case))))
        return
    sys.path.insert(0, str(ROOT / "tests"))
    from vllm_server import vllm_server

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = build(folder, options)
        server = ("--enable-scale-out", "--max-logprobs", str(options.top_k))
        server += ("--no-enable-prefix-caching", "--mm-processor-cache-gb", "0")  # each run scores the same rows
        runs: dict[str, list[dict[str, Any]]] = {"live": [], "served": []}
        with vllm_server(folder / "teacher", folder, *server) as url:
            for _ in range(options.repeats):
                for method, found in runs.items():
                    found.append(run(method, folder, url, options))
                    print(method, json.dumps(found[-1]), flush=True)
    table = summary(runs, options.rows)
    print(json.dumps(table, indent=1))
    if options.json:
        hidden = ("json", "case")
        settings = {key: value for key, value in vars(options).items() if key not in hidden}
        result = {"settings": settings | {"parameters": parameters}, "table": table, "runs": runs}
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def build(folder: Path, options: argparse.Namespace) -> int:
    """Models and data below ``folder``, with the tests' builders; returns the parameters of a model."""
    from PIL import Image
    from safetensors import safe_open
    from small_run import drawn_rows
    from tiny_models import build_tiny_qwen2vl

    from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt

    rows = drawn_rows(folder / "data", options.rows * (options.steps + 1))
    for row in rows:
        path = folder / "data" / row["image"]
        with Image.open(path) as image:
            image.resize((options.side, options.side)).save(path)
    texts = [text for row in rows for text in row["turns"][0]] if options.small_vocabulary else None
    for seed, name in enumerate(("student", "teacher")):
        build_tiny_qwen2vl(folder / name, hidden_size=options.hidden, layers=options.layers, seed=seed, texts=texts)
    write_sharegpt(folder / "data" / "train.json", rows)
    write_dataset_info(folder / "data", {"train": dataset_info_entry("train.json")})
    with safe_open(folder / "student" / "model.safetensors", "pt") as weights:
        return sum(weights.get_tensor(name).numel() for name in weights.keys())


def run(method: str, folder: Path, url: str, options: argparse.Namespace) -> dict[str, Any]:
    """One run in a process of its own."""
    case = {"method": method, "folder": str(folder), "url": url, "rows": options.rows, "top_k": options.top_k}
    case["threads"] = options.threads
    done = subprocess.run(
        [sys.executable, __file__, "--case", json.dumps(case)],
        env={**os.environ, "OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{method} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of each step after the first, of their live teacher, and of each row that the server scored."""
    import torch
    from llamafactory.train.tuner import run_exp
    from on_policy_step_methods import Watch

    from llamafactory_clinkd.kd import served_teacher, teacher

    torch.set_num_threads(case["threads"])
    watch, scoring = Watch(), {"seconds": 0.0, "rows": 0}
    teacher.Teacher.hidden = watch.timed("teacher", teacher.Teacher.hidden)
    stock = served_teacher.ServedTeacher.score_rows

    def score_rows(self: Any, keys: Any, **options: Any) -> None:
        began = time.perf_counter()
        stock(self, keys, **options)
        scoring.update(seconds=time.perf_counter() - began, rows=len(keys))

    served_teacher.ServedTeacher.score_rows = score_rows
    folder = Path(case["folder"])
    source = {"kd_teacher_base_url": case["url"], "kd_teacher_top_k": case["top_k"]}
    with tempfile.TemporaryDirectory() as output:
        keys = {
            "model_name_or_path": str(folder / "student"), "stage": "sft", "do_train": True, "finetuning_type": "full",
            "use_clinkd": True, "clinkd_phases": "distill", "rope_variant": "mrope", "image_square": False,
            "kd_divergence": "forward_kl", "kd_temperature": 1.0, "kd_epochs": 1, "dataset_dir": str(folder / "data"),
            "dataset": "train", "template": "qwen2_vl", "cutoff_len": 4096, "output_dir": output,
            "overwrite_cache": True, "logging_steps": 1, "save_strategy": "no",
            "per_device_train_batch_size": case["rows"], "gradient_accumulation_steps": 1, "learning_rate": 1e-6,
            "report_to": "none", "disable_tqdm": True, "disable_gradient_checkpointing": True,
            "preprocessing_num_workers": 1, "use_cpu": True,
            **({"ref_model": str(folder / "teacher")} if case["method"] == "live" else source),
        }  # fmt: skip
        run_exp(keys, [watch])
    steps = [{key: step[key] for key in ("step", "teacher")} for step in watch.steps]
    return {"steps": steps, "scoring": scoring}


def summary(runs: dict[str, list[dict[str, Any]]], rows: int) -> dict[str, Any]:
    """Medians in seconds: a step, its teacher, a scored row, and a step of the first epoch with its rows' scoring."""

    def median(method: str, part: str) -> float:
        return statistics.median(step[part] for each in runs[method] for step in each["steps"])

    scored = statistics.median(each["scoring"]["seconds"] / each["scoring"]["rows"] for each in runs["served"])
    live, cached = median("live", "step"), median("served", "step")
    table = {
        "live_step": live, "live_teacher": median("live", "teacher"), "served_row": scored, "served_step": cached,
        "served_step_first_epoch": cached + rows * scored,
    }  # fmt: skip
    return {key: round(value, 4) for key, value in table.items()}


if __name__ == "__main__":
    main()
