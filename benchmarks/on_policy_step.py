# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

r"""Whole on-policy steps: this package inside LLaMA-Factory against TRL's DistillationTrainer, time and peak memory.

    python benchmarks/on_policy_step.py --trl /path/to/venv/bin/python --json on_policy_step.json

TRL 1.12 or newer lives in a venv of its own. Both train the same random Qwen2-VL (V = 151936, frozen vision tower) on
the same prompts, images and teacher, fp32, one rollout a prompt, generalised Jensen-Shannon divergence at beta 0.5.
A method runs in a process of its own; they take turns, and medians over all steps but each run's first count. Random
models never write an end token, so that every rollout has the full length.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any


HERE = Path(__file__).resolve().parent
PARTS = ("step", "rollout", "teacher", "rest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trl", type=Path, help="Python of a venv with TRL; without it only ours runs")
    parser.add_argument("--rows", type=int, default=4, help="B")
    parser.add_argument("--new-tokens", type=int, default=50, help="length of a rollout")
    parser.add_argument("--side", type=int, default=448, help="width and height of an image; 448 is 256 tokens")
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a run, after one that warms up")
    parser.add_argument("--repeats", type=int, default=2, help="runs of each method")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder), options)
        pythons = {"ours": Path(sys.executable)} | ({"TRL": options.trl} if options.trl else {})
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
        for _ in range(options.repeats):
            for name, python in pythons.items():
                runs[name].append(run(python, name, Path(folder), options))
                print(name, json.dumps(runs[name][-1]), flush=True)
    table = {name: summary(found) for name, found in runs.items()}
    for name, row in table.items():
        print(f"{name:5}", " ".join(f"{key} {value}" for key, value in row.items()))
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key not in ("json", "trl")}
        options.json.write_text(json.dumps({"settings": settings, "table": table, "runs": runs}, indent=1) + "\n")


def build(folder: Path, options: argparse.Namespace) -> None:
    """Models and data below ``folder``, with the tests' builders."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from PIL import Image
    from small_run import drawn_rows
    from tiny_models import build_tiny_qwen2vl

    from llamafactory_clinkd.data.sharegpt import dataset_info_entry, write_dataset_info, write_sharegpt

    for seed, name in enumerate(("student", "teacher")):
        build_tiny_qwen2vl(folder / name, hidden_size=options.hidden, layers=options.layers, seed=seed)
    rows = drawn_rows(folder / "data", options.rows * (options.steps + 1))
    for row in rows:
        path = folder / "data" / row["image"]
        with Image.open(path) as image:
            image.resize((options.side, options.side)).save(path)
    write_sharegpt(folder / "data" / "train.json", rows)
    write_dataset_info(folder / "data", {"train": dataset_info_entry("train.json")})


def run(python: Path, name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One run of a method in its own process."""
    case = {"method": name, "folder": str(folder), **{k: v for k, v in vars(options).items() if isinstance(v, int)}}
    env = os.environ | {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
    command = [str(python), str(HERE / "on_policy_step_methods.py"), json.dumps(case)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{name} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over all timed steps; the largest peak."""
    medians = {
        part: round(statistics.median(step[part] for each in runs for step in each["steps"]), 3) for part in PARTS
    }
    return medians | {"peak_mib": max(each["peak_mib"] for each in runs), "version": runs[0]["version"]}


if __name__ == "__main__":
    main()
