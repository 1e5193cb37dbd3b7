# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A benchmark's cases, each in a process of its own; the JSON is written after each, and a run can go on from it."""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any


Case = dict[str, Any]


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """The options that every such benchmark has."""
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--timeout", type=float, default=1800, help="seconds a case may take")
    parser.add_argument("--json", type=Path, help="where results go")
    parser.add_argument("--resume", action="store_true", help="keep the cases that the JSON already holds")
    parser.add_argument("--case", help=argparse.SUPPRESS)


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, checked."""
    options = parser.parse_args()
    if options.resume and not options.json:
        parser.error("--resume needs --json")
    return options


def run_cases(
    cases: list[Case],
    options: argparse.Namespace,
    *,
    run: Callable[[Case, list[Case]], dict[str, Any]],
    title: Callable[[Case], str],
    again: Callable[[Case], bool] = lambda row: False,
) -> list[Case]:
    """Runs what is not known yet, with a progress bar.

    Args:
        cases: What to run, in order.
        options: With :func:`add_run_options`.
        run: Case and the results so far -> what was found.
        title: Of a case, beside the bar.
        again: Whether a known result is not to be kept.

    Returns:
        Each case with what was found.
    """
    from rich.progress import Progress

    from llamafactory_clinkd.utils.io import read_json, write_json

    done = read_json(options.json)["cases"] if options.resume and options.json.exists() else []
    known = {json.dumps({key: row[key] for key in cases[0]}): row for row in done if not again(row)} if cases else {}
    machine = {"platform": platform.platform(), "cpus": os.cpu_count(), "load_at_start": os.getloadavg()}
    results: list[Case] = []
    with Progress() as progress:
        bar = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(bar, description=title(case))
            results.append({**(known.get(json.dumps(case)) or run(case, results)), **case})
            if options.json:
                write_json(options.json, {"machine": machine, "cases": results})
            progress.advance(bar)
    return results


def run_in_process(case: Case, options: argparse.Namespace, *, python: Path, script: str) -> dict[str, Any]:
    """Runs ``script --case``, which prints its result as its last line; a failure becomes part of the result."""
    command = [str(python), script, "--case", json.dumps(case)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    try:
        child = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=options.timeout)
    except subprocess.TimeoutExpired:
        return {"failed": f"took more than {options.timeout:.0f} s"}
    if child.returncode != 0:
        return {"failed": f"exit {child.returncode}: {(child.stderr.strip().splitlines() or ['no message'])[-1]}"}
    return json.loads(child.stdout.strip().splitlines()[-1])
