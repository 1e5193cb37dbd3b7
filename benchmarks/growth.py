# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Seconds and memory of reading and continuing the files of a run, at 100,000 to 10 million rows. No model.

    python benchmarks/growth.py --json growth.json                        # about 4 GB of disk, half an hour
    python benchmarks/growth.py --rows 1000 --cases generation progress

Each case writes synthetic files for all rows but a few, and then runs, in a process of its own, what the same command
runs over them when it continues. Memory is private memory above that at the start, sampled 50 times a second; pages of
mapped files, which the system takes back when it needs them, are not counted.
"""

import argparse
import gc
import json
import os
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from growth_cases import CASES
from rich.console import Console
from rich.table import Table


def private_bytes() -> int:
    """Memory of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no RssAnon: memory can be measured on Linux only.")


def measured(work: Callable[[Path, int], Any], folder: Path, rows: int) -> dict[str, Any]:
    """Runs ``work`` in this process, after a run over 100 rows that imports what it needs."""
    make = next(make for make, works, _ in CASES.values() if work in works)
    with tempfile.TemporaryDirectory() as small:
        make(Path(small), 100)
        work(Path(small), 100)
    gc.collect()
    done = threading.Event()
    start_bytes = peak = private_bytes()

    def sample() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, private_bytes())

    thread = threading.Thread(target=sample)
    thread.start()
    start, cpu = time.perf_counter(), time.process_time()
    try:
        found = work(folder, rows)
    finally:
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        done.set()
        thread.join()
    mib = (peak - start_bytes) / 2**20
    name = work.__name__.removeprefix("run_")
    return {"work": name, "rows": rows, "seconds": seconds, "cpu_s": cpu, "mib": mib, "found": str(found)}


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """The JSON-able result of a function in a forked process, which has all imports and none of the memory."""
    reads, writes = os.pipe()
    if not (process := os.fork()):
        code = 1
        try:
            os.write(writes, json.dumps(function(*arguments)).encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    os.close(writes)
    with os.fdopen(reads) as pipe:
        found = pipe.read()
    if os.waitpid(process, 0)[1]:
        raise RuntimeError(f"{function.__name__}{arguments} failed")
    return json.loads(found)


def measure(case: str, rows: int, parent: Path | None) -> list[dict[str, Any]]:
    """One case at one size, each part in a process of its own."""
    folder = Path(tempfile.mkdtemp(prefix="clinkd-growth-", dir=parent))
    results = []
    try:
        make, works, _ = CASES[case]
        in_child(make, folder, rows)
        for work in works:
            results.append(in_child(measured, work, folder, rows) | {"case": case})
            print(results[-1], flush=True)
    finally:
        shutil.rmtree(folder)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--folder", type=Path, help="where the files are written (default: the temporary folder)")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    arguments = parser.parse_args()
    for make, works, _ in (CASES[case] for case in arguments.cases):  # imports what they need
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder), 100)
            for work in works:
                work(Path(folder), 100)
    gc.collect()
    gc.freeze()

    results = []
    for case in arguments.cases:
        for rows in sorted({min(rows, CASES[case][2]) for rows in arguments.rows}):
            results += measure(case, rows, arguments.folder)
            if arguments.json:
                arguments.json.write_text(json.dumps({"cores": os.cpu_count(), "results": results}, indent=1) + "\n")
    table = Table("what", "rows", "s", "CPU s", "MiB", "bytes a row")
    for r in results:
        bytes_a_row = f"{r['mib'] * 2**20 / r['rows']:.0f}"
        table.add_row(
            r["work"], f"{r['rows']:,}", f"{r['seconds']:.1f}", f"{r['cpu_s']:.1f}", f"{r['mib']:.0f}", bytes_a_row
        )
    Console().print(table)


if __name__ == "__main__":
    main()
