# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""How long `clinkd evaluate` takes over 30,000 predictions and how much memory, and the same for the report's page.

    python benchmarks/evaluation.py [--rows 30000] [--json FILE]

Predictions of the four tasks in equal parts over the paper's modalities; every answer and every caption is another one
(of about 16 words for RC, 48 for MIA), a third of the answers is wrong. Each command runs as a user runs it, in a
process of its own. Java (the tokenizer and METEOR) is counted apart: the seconds while a Java program was alive, and
its memory. Memory is the resident set, sampled 20 times a second.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from llamafactory_clinkd.utils.boxes import MODALITIES, format_box
from llamafactory_clinkd.utils.io import write_json, write_jsonl


ORGANS = "liver spleen sacrum pancreas aorta stomach kidney bladder heart trachea rib hip femur lung brain".split()
FINDINGS = "mass cyst nodule fracture effusion lesion calcification hernia edema stenosis".split()
WORDS = "small large round oval irregular bright dark dense diffuse focal thin thick smooth sharp blurred mild".split()
NO_ROC = ("pet", "fundus")  # as in Table 3


def sentence(rng: random.Random) -> str:
    """About 16 words."""
    side, first, second = rng.choice(["left", "right"]), *rng.sample(ORGANS, 2)
    a, b = rng.sample(WORDS, 2)
    return (
        f"There is a {a} and {b} {rng.choice(FINDINGS)} of {rng.randrange(1000)} mm in the {side} {first} near the "
        f"{second}."
    )


def prediction(number: int) -> dict[str, object]:
    """A row of predictions.jsonl."""
    rng = random.Random(number)
    task = ("VG", "ROC", "RC", "MIA")[number % 4]
    modality = rng.choice([name for name in MODALITIES if task != "ROC" or name not in NO_ROC])
    right, organ = rng.random() < 2 / 3, rng.choice(ORGANS)
    x, y = rng.randrange(500), rng.randrange(500)
    box = (x, y, x + rng.randrange(100, 400), y + rng.randrange(100, 400))
    guess = box if right else tuple(value // 2 for value in box)
    question, annotation, response = {
        "VG": (f"Where is the {organ} located in the image?", format_box(box), format_box(guess)),
        "ROC": (f"What is present at the {format_box(box)}?", organ, organ if right else rng.choice(ORGANS)),
        "RC": (f"Can you describe the content within the {format_box(box)}?", sentence(rng), sentence(rng)),
        "MIA": (
            "What can you interpret from the overall image?",
            *(" ".join(sentence(rng) for _ in "123") for _ in "12"),
        ),
    }[task]
    return {
        "id": f"{modality}_{number}", "image": f"{modality}_{number}.png", "question": question,
        "annotation": annotation, "response": response, "task": task, "modality": modality,
        "candidates": [{"text": response, "score": 1.0}],
    }  # fmt: skip


def measure(*arguments: object) -> dict[str, float]:
    """Seconds, seconds with Java, and peak MiB without and with Java of one `clinkd` command.

    Raises:
        RuntimeError: If the command fails.
    """
    command = [sys.executable, "-c", "from llamafactory_clinkd.cli import main; main()", *map(str, arguments)]
    seconds, java_seconds, peak, java_peak = time.perf_counter(), 0.0, 0, 0
    child = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = seconds
    while child.poll() is None:
        own, java = _resident(child)
        now = time.perf_counter()
        java_seconds += (now - last) * (java > 0)
        last, peak, java_peak = now, max(peak, own), max(java_peak, java)
        time.sleep(0.05)
    seconds = time.perf_counter() - seconds
    if child.returncode:
        raise RuntimeError(f"clinkd {' '.join(map(str, arguments))} ended with {child.returncode}.")
    return {
        "s": seconds, "java_s": java_seconds, "without_java_s": seconds - java_seconds, "mib": peak / 2**20,
        "java_mib": java_peak / 2**20,
    }  # fmt: skip


def _resident(process: psutil.Process) -> tuple[int, int]:
    """Bytes of the command and its Python workers, and of its Java programs."""
    own = java = 0
    try:
        for member in [process, *process.children(recursive=True)]:
            size = member.memory_info().rss
            if member.name() == "java":
                java += size
            else:
                own += size
    except psutil.NoSuchProcess:
        return own, java  # it ended while it was being looked at
    return own, java


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory(prefix="clinkd-bench-") as name:
        home = Path(name) / "run" / "clinkd"
        write_jsonl(home / "predictions.jsonl", [prediction(number) for number in range(arguments.rows)])
        results = {"evaluate": measure("evaluate", home / "predictions.jsonl", "--json", home / "metrics.json")}
        results["report"] = measure("report", home.parent)
        metrics = json.loads((home / "metrics.json").read_text(encoding="utf-8"))
        page = (home / "report.html").stat().st_size

    load, cores = os.getloadavg()[0], os.cpu_count()
    table = Table(
        "", *results, title=f"{arguments.rows:,} predictions, {cores} cores, load average at the end {load:.1f}"
    )
    for key in results["evaluate"]:
        table.add_row(key.replace("_", " "), *(f"{result[key]:,.1f}" for result in results.values()))
    console = Console()
    console.print(table)
    macros = {task: round(100 * found["macro"], 2) for task, found in metrics["tasks"].items()}
    console.print(f"page: {page / 2**20:.1f} MiB; {macros}; {metrics['tasks']['RC']['metric']}")
    if arguments.json:
        write_json(
            arguments.json,
            {
                "rows": arguments.rows,
                "cores": cores,
                "load_average": load,
                "page_bytes": page,
                "macro": macros,
                **results,
            },
        )


if __name__ == "__main__":
    main()
