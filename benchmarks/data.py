# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""How long `clinkd data convert` and `clinkd data check` take, and how much memory, as a data set grows.

Usage: python benchmarks/data.py [--rows 10000 270000] [--workers 2] [--json FILE]

The data set has the shape of Med-GRIT-270k: multi-line JSON, one `<img>` tag a row, the four tasks in turn, 60,000
images to 270,000 rows. Images are 64 x 64 PNGs, hard links to 97 different ones: what is measured is opening and
decoding them, not the disk. Each command runs as a user runs it, in a process of its own. CPU seconds are those of
that process and its workers, and change less than seconds with what else the machine does; memory is the sum of their
resident sets (pages that they share count for each), sampled 20 times a second.
"""

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from PIL import Image
from rich.console import Console
from rich.table import Table


ROWS_TO_IMAGES = 60_000 / 270_000
PREFIXES = (
    "ct_00",
    "mr_t1",
    "x_ray",
    "pet_00",
    "endoscopy_00",
    "dermoscopy_00",
    "fundus_photography",
    "ultrasound_00",
)
COMMAND = "import sys; from llamafactory_clinkd.data.cli import app; app(sys.argv[1:])"


def generate(folder: Path, rows: int) -> int:
    """Writes ``grit.json`` and its images; returns the number of images."""
    rng = random.Random(0)
    images = max(1, round(rows * ROWS_TO_IMAGES))
    names = [
        f"{PREFIXES[number % 8]}--set_{number % 30}--case_{number // 10:05d}--x_{number % 10:04d}"
        for number in range(images)
    ]
    originals = []
    for number in range(97):
        originals.append(folder / f"original_{number}.png")
        Image.frombytes("L", (64, 64), rng.randbytes(64 * 64)).save(originals[-1])
    for number, name in enumerate(names):
        os.link(originals[number % 97], folder / f"{name}.png")

    with open(folder / "grit.json", "w", encoding="utf-8") as f:
        f.write("[")
        for number in range(rows):
            name = names[number % images]
            x, y = rng.randrange(500), rng.randrange(500)
            box = f"<box>({x},{y}),({x + rng.randrange(1, 400)},{y + rng.randrange(1, 400)})</box>"
            question, answer = (
                (f"Where is the structure {number} located in the image?", f"The <ref>left hip</ref>{box} is there."),
                (f"What anatomical structure {number} is present at the {box}?", "Sacrum"),
                (f"Can you describe the content within the {box}?", f"View {number} shows a large bone at the base."),
                ("What can you interpret from the overall image?", f"View {number} shows liver, spleen and kidneys."),
            )[number % 4]
            turns = [
                {"from": "human", "value": f"<img>/x/{name}.png</img>\n{question}"},
                {"from": "gpt", "value": answer},
            ]
            f.write((",\n" if number else "") + json.dumps({"id": name, "conversations": turns}, indent=1))
        f.write("]")
    return images


def measure(name: str, *arguments: object) -> dict[str, float]:
    """Seconds, CPU seconds and peak MiB of one command, under ``name``.

    Raises:
        RuntimeError: If the command fails.
    """
    command = [sys.executable, "-c", COMMAND, *map(str, arguments)]
    start, cpu, peak = time.perf_counter(), _cpu_of_children(), 0
    child = psutil.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while child.poll() is None:
        peak = max(peak, _resident(child))
        time.sleep(0.05)
    seconds = time.perf_counter() - start
    if child.returncode:
        raise RuntimeError(f"{arguments[0]} failed:\n{child.stdout.read()}")
    return {f"{name}_s": seconds, f"{name}_cpu_s": _cpu_of_children() - cpu, f"{name}_mib": peak / 2**20}


def _cpu_of_children() -> float:
    """CPU seconds of every process that has ended among this one's children and theirs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _resident(process: psutil.Process) -> int:
    total = 0
    try:
        for member in [process, *process.children(recursive=True)]:
            total += member.memory_info().rss
    except psutil.NoSuchProcess:
        return total  # it ended while it was being looked at
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 270_000])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    arguments = parser.parse_args()

    results = []
    for rows in arguments.rows:
        folder = Path(tempfile.mkdtemp(prefix="clinkd-bench-"))
        try:
            images = generate(folder, rows)
            size = (folder / "grit.json").stat().st_size
            check = ("check", folder / "out" / "grit.json", "--image-folder", folder, "--workers", arguments.workers)
            result = {"rows": rows, "images": images, "source_mib": size / 2**20}
            result |= measure("convert", "convert", folder / "grit.json", folder / "out")
            result |= measure("check", *check)
            result |= measure("check_again", *check)
        finally:
            shutil.rmtree(folder)
        results.append(result)

    load, cores = os.getloadavg()[0], os.cpu_count()
    title = f"clinkd data, {arguments.workers} workers, {cores} cores, load average at the end {load:.1f}"
    table = Table("", *(f"{result['rows']:,} rows" for result in results), "growth", title=title)
    first, last = results[0], results[-1]
    for key in results[0]:
        growth = f"x {last[key] / first[key]:.1f}" if first[key] else ""
        digits = 0 if key in ("rows", "images") else 1
        table.add_row(key.replace("_", " "), *(f"{result[key]:,.{digits}f}" for result in results), growth)
    Console().print(table)
    if arguments.json:
        summary = {"workers": arguments.workers, "cores": cores, "load_average": load, "results": results}
        arguments.json.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
