# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Stored candidates ranked again by ``clinkd select`` with the demo's scorer: seconds, CPU seconds and peak memory.

    python benchmarks/selection_rank.py [--rows 30000] [--json FILE]

The rows are the demo's test questions, repeated; four questions share an image file, as in the demo. The candidates of
a row are its ground truth and the answers of other rows of its task.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

import llamafactory_clinkd


DEMO = Path(llamafactory_clinkd.__file__).parent / "demo"
ROWS_PER_IMAGE = 4


def write_predictions(folder: Path, rows: int, candidates: int) -> Path:
    """``predictions.jsonl`` with ``rows`` rows, and their images beside it."""
    source = json.loads((DEMO / "data" / "demo_test.json").read_text())
    by_task: dict[str, list[str]] = {}
    for row in source:
        by_task.setdefault(row["task"], []).append(row["messages"][1]["content"])
    path = folder / "predictions.jsonl"
    with path.open("w") as file:
        for number in range(rows):
            row = source[number % len(source)]
            image = f"image_{number // ROWS_PER_IMAGE:05d}.png"
            if number % ROWS_PER_IMAGE == 0:
                shutil.copyfile(DEMO / "data" / row["images"][0], folder / image)
            question, answer = (message["content"] for message in row["messages"])
            others = by_task[row["task"]]
            texts = [answer, *(others[(number + k) % len(others)] for k in range(1, candidates))]
            record = {
                "key": f"{number}:{row['id']}",
                "id": row["id"],
                "image": image,
                "question": question.removeprefix("<image>"),
                "annotation": answer,
                "task": row["task"],
                "modality": row["modality"],
                "candidates": [{"text": text, "logprob": -0.1 * (k + 1)} for k, text in enumerate(texts)],
                "response": answer,
            }
            file.write(json.dumps(record) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=30000)
    parser.add_argument("--candidates", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    report = {
        "machine": f"{platform.machine()}, {arguments.threads} CPU threads, torch {torch.__version__}",
        "rows": arguments.rows,
        "images": -(-arguments.rows // ROWS_PER_IMAGE),
        "candidates": arguments.candidates,
        "load_before": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        predictions = write_predictions(folder, arguments.rows, arguments.candidates)
        command = [sys.executable, "-m", "llamafactory_clinkd", "select", str(predictions), "--image-dir", str(folder)]
        command += ["--scorer", str(DEMO / "models" / "scorer"), "--output", str(folder / "ranked.jsonl")]
        environment = os.environ | {"OMP_NUM_THREADS": str(arguments.threads)}
        began = time.perf_counter()
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        report["seconds"] = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        report |= {"cpu_seconds": used.ru_utime + used.ru_stime, "peak_mib": used.ru_maxrss / 1024}
        with (folder / "ranked.jsonl").open() as file:
            ranked = [json.loads(line) for line in file]
        scores = [each["score"] for row in ranked for each in row["candidates"]]
        report |= {"ranked_rows": len(ranked), "without_score": sum(score is None for score in scores)}
    print(json.dumps(report, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
