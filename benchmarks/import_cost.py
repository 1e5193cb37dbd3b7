# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What the plugin adds to ``import torch``: the entry point's own time, each time in a fresh process.

``python benchmarks/import_cost.py`` prints the processor time of importing ``llamafactory_clinkd.attach`` and calling
``autoload()`` right after torch was imported, which is what torch does at the end of its own import.
"""

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer


PROGRAM = """
import time
import torch
start = time.process_time()
from llamafactory_clinkd.attach import autoload
autoload()
print(1000 * (time.process_time() - start))
"""


def entry_point_ms(processes: int) -> list[float]:
    """Milliseconds of processor time in each of ``processes`` fresh interpreters; bytecode is cached before."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"  # so that the call that is timed is the first
    times = [
        float(
            subprocess.run(
                [sys.executable, "-c", PROGRAM], env=environment, check=True, capture_output=True, text=True
            ).stdout.split()[-1]
        )
        for _ in range(processes + 1)
    ]
    return times[1:]


def main(processes: int = 15, json_path: Annotated[Path | None, typer.Option("--json")] = None) -> None:
    """Prints minimum, median and maximum in milliseconds."""
    times = entry_point_ms(processes)
    result = {"processes": processes, "min_ms": min(times), "median_ms": statistics.median(times)}
    result["max_ms"] = max(times)
    print("entry point: " + ", ".join(f"{key} {value:.1f}" for key, value in result.items() if key != "processes"))
    if json_path:
        json_path.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
