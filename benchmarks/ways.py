# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What a benchmark of two ways that take turns prints and writes; the first way is the one to compare with."""

import argparse
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence

import torch
from memory import Measured
from rich.console import Console
from rich.table import Table


def report(
    measured: Mapping[str, Sequence[Measured]], options: argparse.Namespace, *, heads: tuple[str, str, str], equal: str
) -> None:
    """Prints the medians of each way and writes them to ``options.json``.

    Args:
        measured: Way -> its timed calls.
        options: Has ``json``, a path or None, and ``device``; all others are written as settings.
        heads: Title of the table, name of the ways, name of the first way's time.
        equal: What of both ways is equal to the last bit; empty if it is not.
    """
    title, kind, first_name = heads
    rows = {
        name: {
            key: statistics.median(getattr(each, key) for each in found)
            for key in ("seconds", "cpu_seconds", "peak_mib")
        }
        for name, found in measured.items()
    }
    first = next(iter(rows.values()))
    table = Table(title=title)
    for column in (kind, "s", "CPU s", "peak GiB", f"time / {first_name}"):
        table.add_column(column, justify="left" if column == kind else "right")
    for name, row in rows.items():
        cells = row["seconds"], row["cpu_seconds"], row["peak_mib"] / 1024, row["seconds"] / first["seconds"]
        table.add_row(name, *(f"{value:.2f}" for value in cells))
    Console(width=110).print(table, f"{equal} of both are equal." if equal else "The two ways are NOT equal.")
    if options.json:
        written = {
            "settings": {key: value for key, value in vars(options).items() if key != "json"},
            "machine": {"platform": platform.platform(), "cpus": os.cpu_count(), "torch": torch.__version__},
            "device_name": torch.cuda.get_device_name() if options.device == "cuda" else None,
            "equal": bool(equal),
            "rows": rows,
        }
        options.json.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
