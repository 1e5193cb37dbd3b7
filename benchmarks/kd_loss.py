# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

r"""The distillation loss against dense and against peers: peak memory, time, and gradient error in fp64 terms.

    python benchmarks/kd_loss.py --peers-python PEERS/bin/python --json kd_loss.json

Every case runs in a process of its own. The peers live in an environment of theirs, because LLaMA-Factory pins an old
TRL:

    python -m venv PEERS
    PEERS/bin/pip install torch==2.14.1 trl==1.16.0 liger-kernel==0.8.5 torchtune==0.6.1 torchao==0.10.0 \
        nvidia-modelopt==0.47.0

A peer that cannot be imported is shown as missing with its reason. The JSON is written after every case; with
``--resume`` the cases in it are not run again.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from cases import add_run_options, parse, run_cases, run_in_process


KEYS = ("method", "rows", "dtype", "head", "device", "threads", "vocabulary", "errors")


def main() -> None:
    options = parse_options()
    if options.case:
        from kd_loss_methods import run_case

        print(json.dumps(run_case(json.loads(options.case))))
        return
    run_all(options)


def parse_options() -> argparse.Namespace:
    from kd_loss_methods import METHODS, VOCABULARY

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers-python", type=Path, help="python of the environment that holds the peers")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--rows", nargs="+", type=int, default=[512, 2048], help="tokens; every second one is ignored")
    parser.add_argument("--dtypes", nargs="+", default=["fp32", "bf16"], choices=["fp32", "bf16"])
    parser.add_argument("--heads", nargs="+", default=["frozen", "trained"], choices=["frozen", "trained"])
    parser.add_argument("--error-rows", type=int, default=512, help="compare gradients up to this many rows; 0: never")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    add_run_options(parser)
    return parse(parser)


def run_all(options: argparse.Namespace) -> None:
    from rich.console import Console

    grid = itertools.product(options.rows, options.dtypes, options.heads, options.methods)
    cases = [
        dict(zip(KEYS, (method, rows, dtype, head, *shared, 0 < rows <= options.error_rows), strict=True))
        for rows, dtype, head, method in grid
        for shared in [(options.device, options.threads, options.vocabulary)]
    ]
    results = run_cases(
        cases,
        options,
        run=lambda case, _: run_where_it_can(case, options),
        title=lambda case: f"{case['method']}, {case['rows']} {case['dtype']} {case['head']}",
    )
    console = Console(width=110)  # the same tables in a log file
    for rows, dtype, head in itertools.product(options.rows, options.dtypes, options.heads):
        picked = [r for r in results if (r["rows"], r["dtype"], r["head"]) == (rows, dtype, head)]
        console.print(table(f"{rows} tokens, {dtype}, head {head}", picked))


def run_where_it_can(case: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Runs one case in the environment it needs."""
    from kd_loss_methods import METHODS

    python = options.peers_python if METHODS[case["method"]].peer else Path(sys.executable)
    if python is None:
        return {"missing": "--peers-python was not given"}
    return run_in_process(case, options, python=python, script=__file__)


def table(title: str, results: list[dict[str, Any]]) -> Any:
    """Peak MiB above the start, wall and CPU seconds of forward and backward, gradient errors relative to fp64."""
    from rich.table import Table

    grid = Table(title=title)
    for column in ("method", "peak MiB", "s", "CPU s", "error, random", "error, late", "head error, late"):
        grid.add_column(column, justify="left" if column == "method" else "right")
    for row in results:
        reason = row.get("missing") or row.get("failed")
        if reason:
            grid.add_row(row["method"], "missing" if "missing" in row else "failed", "", "", reason[:60])
            continue
        errors = (row.get(key) for key in ("error_random", "error_late", "head_error_late"))
        shown = ("" if error is None else f"{error:.1e}" for error in errors)
        cost = (f"{row['peak_mib']:.0f}", f"{row['seconds']:.1f}", f"{row['cpu_seconds']:.1f}")
        grid.add_row(row["method"], *cost, *shown)
    return grid


if __name__ == "__main__":
    main()
