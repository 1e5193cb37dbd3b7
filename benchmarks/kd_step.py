# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

r"""One whole training step (forward and backward): distilling against stock's fine-tuning, time and peak memory.

    python benchmarks/kd_step.py --json kd_step.json
    python benchmarks/kd_step.py --rows 1 --lengths 512 1024 2048 4096 --shares 0.05 0.25 1 --methods sft ours cached \
        bound --json kd_scaling.json --plot kd_scaling.png
    python benchmarks/kd_step.py --device cuda --dtype bf16 --shape 2b

The first is the shape of the table: B = 2, L = 1024, the last 50 tokens supervised, a random 6-layer Qwen2-VL and a
teacher of the same shape, the head trained. ``--shares`` takes the supervised tokens as a share of L instead. Every
case runs in a process of its own; the JSON is written after each, and ``--resume`` keeps the cases in it. A case that
needs more memory than is free is left out and says so.
"""

import argparse
import itertools
import json
import sys
from pathlib import Path
from typing import Any

from cases import add_run_options, parse, run_cases, run_in_process


KEYS = ("method", "length", "answer", "rows", "dtype", "head", "shape", "device", "threads", "repeats")
WITHOUT_HEAD_SAVING = ("authors", "sft", "bound")  # their work does not depend on what is supervised
TABLE = ("authors", "sft", "sft_in_head", "ours", "cached", "bound", "bound_products")


def main() -> None:
    options = parse_options()
    if options.case:
        from kd_step_methods import run_case

        print(json.dumps(run_case(json.loads(options.case))))
        return
    run_all(options)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(TABLE), choices=TABLE)
    parser.add_argument("--rows", type=int, default=2, help="B")
    parser.add_argument("--lengths", nargs="+", type=int, default=[1024], help="L")
    parser.add_argument("--answer", type=int, default=50, help="supervised tokens a row")
    parser.add_argument("--shares", nargs="+", type=float, help="supervised share of L instead of --answer")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--head", default="trained", choices=["trained", "frozen"])
    parser.add_argument("--shape", default="small", choices=["tiny", "small", "2b"])
    parser.add_argument("--repeats", type=int, default=3, help="timed steps after one that warms up")
    parser.add_argument("--plot", type=Path, help="time and memory over L, one line a method and share")
    add_run_options(parser)
    return parse(parser)


def cases_of(options: argparse.Namespace) -> list[dict[str, Any]]:
    shared = (options.rows, options.dtype, options.head, options.shape, options.device, options.threads)
    cases = []
    for length in options.lengths:
        answers = [round(share * length) for share in options.shares] if options.shares else [options.answer]
        for answer, method in itertools.product(answers, options.methods):
            answer = min(answer, length - 1)  # the first token is never predicted
            cases.append(dict(zip(KEYS, (method, length, answer, *shared, options.repeats), strict=True)))
    return cases


def run_all(options: argparse.Namespace) -> None:
    from rich.console import Console

    results = run_cases(
        cases_of(options),
        options,
        run=lambda case, found: same_work(case, found) or run_if_it_fits(case, options),
        title=lambda case: f"{case['method']}, L = {case['length']}, {case['answer']} supervised",
        again=lambda row: "failed" in row,
    )
    console = Console(width=110)  # the same tables in a log file
    for length, answer in dict.fromkeys((row["length"], row["answer"]) for row in results):
        picked = [row for row in results if (row["length"], row["answer"]) == (length, answer)]
        console.print(table(f"B = {options.rows}, L = {length}, {answer} supervised, {options.dtype}", picked))
    if options.plot:
        plot(results, options.plot)


def same_work(case: dict[str, Any], results: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The result of the same step at another number of supervised tokens, where that number changes nothing."""
    if case["method"] not in WITHOUT_HEAD_SAVING:
        return None
    same = ({**row, "answer": case["answer"]} for row in results if "seconds" in row)
    return next((row for row in same if all(row[key] == case[key] for key in KEYS)), None)


def run_if_it_fits(case: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Runs one case; too little memory for it becomes part of the result."""
    needed = least_bytes(case)
    if case["device"] == "cpu" and needed > free_bytes():
        return {"failed": f"left out: needs at least {needed / 2**30:.0f} GiB, {free_bytes() / 2**30:.0f} are free"}
    return run_in_process(case, options, python=Path(sys.executable), script=__file__)


def least_bytes(case: dict[str, Any]) -> int:
    """A floor of what a case takes: full logits in fp32 with their softmax and gradient, and the models."""
    logits = case["rows"] * case["length"] * 151936 * 4
    return {"sft": 3, "authors": 5}.get(case["method"], 0) * logits + 2 * 2**30


def free_bytes() -> int:
    """Memory that can be had without swapping."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable; memory can be measured on Linux only.")


def table(title: str, results: list[dict[str, Any]]) -> Any:
    """Seconds and peak of a step, absolute and as shares of stock's fine-tuning in the same run."""
    from kd_step_methods import METHODS
    from rich.table import Table

    stock = next((row for row in results if row["method"] == "sft" and "seconds" in row), None)
    grid = Table(title=title)
    for column in ("step", "s", "CPU s", "peak GiB", "time / SFT", "memory / SFT"):
        grid.add_column(column, justify="left" if column == "step" else "right", no_wrap=True)
    for row in results:
        name = METHODS[row["method"]].title
        if "failed" in row:
            grid.add_row(name, row["failed"][:60])
            continue
        ratios = ("", "")
        if stock:
            ratios = (f"{row['seconds'] / stock['seconds']:.2f}", f"{row['peak_mib'] / stock['peak_mib']:.2f}")
        grid.add_row(
            name, f"{row['seconds']:.2f}", f"{row['cpu_seconds']:.2f}", f"{row['peak_mib'] / 1024:.2f}", *ratios
        )
    return grid


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Seconds and peak over L; stock's fine-tuning does not depend on the supervised share and is drawn once."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    colours = {"authors": "tab:red", "sft": "black", "sft_in_head": "tab:green", "ours": "tab:blue"}
    colours |= {"cached": "tab:orange", "bound": "tab:gray", "bound_products": "tab:brown"}
    measured = [row for row in results if "seconds" in row]
    lengths = sorted({row["length"] for row in measured})
    share_of = {(row["length"], row["answer"]): round(100 * row["answer"] / row["length"]) for row in measured}
    shares = sorted(set(share_of.values()))
    styles = dict(zip(shares, itertools.cycle(("-", "--", ":", "-.")), strict=False))
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.5), constrained_layout=True)
    for axis, key, unit in (
        (axes[0], "seconds", "seconds a step"),
        (axes[1], "peak_mib", "peak above the start, MiB"),
    ):
        for method, share in itertools.product(colours, shares):
            if method in WITHOUT_HEAD_SAVING and share != shares[0]:
                continue
            line = {row["length"]: row[key] for row in measured
                    if row["method"] == method and share_of[row["length"], row["answer"]] == share}  # fmt: skip
            if line:
                label = method if method in WITHOUT_HEAD_SAVING else f"{method}, {share} % supervised"
                x = [length for length in lengths if length in line]
                axis.plot(x, [line[length] for length in x], styles[share], color=colours[method], marker="o", ms=3,
                          label=label)  # fmt: skip
        axis.set(
            xscale="log", yscale="log", xlabel="L, tokens a row", ylabel=unit, xticks=lengths, xticklabels=lengths
        )
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"Plot: {path}")


if __name__ == "__main__":
    main()
