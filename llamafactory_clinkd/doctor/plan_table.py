# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The plan of :mod:`.plan` for the terminal."""

from typing import Any

from .memory import COMPONENTS


def plan_table(plan: dict[str, Any]) -> Any:
    """The plan as a rich table of memory and lines of text."""
    from rich.console import Group
    from rich.table import Table

    memory, counts = plan["memory"], plan["counts"]
    table = Table("GiB on each GPU", *memory)
    for name in COMPONENTS:
        sizes = [breakdown[name] for breakdown in memory.values()]
        if any(sizes):
            table.add_row(name, *(f"{size / 2**30:.1f}" if size else "" for size in sizes))
    peaks = [breakdown["peak"] / 2**30 for breakdown in memory.values()]
    table.add_section()
    table.add_row("peak", *(f"{peak:.1f}" for peak in peaks))
    fits = ("[green]fits[/]" if peak <= plan["gib"] else "[red]too much[/]" for peak in peaks)
    table.add_row(f"of {plan['gib']:g}", *fits)
    lines = []
    if plan["seconds"]:
        times = (f"{phase} {_hours(taken)}" for phase, taken in plan["seconds"].items())
        rates = (f"{phase} {rate:.1f}" for phase, rate in plan["rows_per_second"].items())
        lines += [f"time: {_hours(sum(plan['seconds'].values()))} ({', '.join(times)})"]
        lines += [f"rows a second: {', '.join(rates)}"]
    lines += [
        f"optimiser steps: {_join_counts(counts['steps'])}",
        f"answers generated: {_join_counts(counts['generations'])}",
        f"requests to the corrector's server: at most {counts['api_calls_at_most']:,}",
        f"disk: {counts['checkpoint_bytes'] / 2**30:.1f} GiB per checkpoint",
    ]
    if counts["cache_bytes"]:
        lines.append(f"disk: {counts['cache_bytes'] / 2**30:.1f} GiB for the teacher cache")
    lines += [f"assumption: {line}" for line in plan["assumptions"]]
    lines += [f"[yellow]{line}[/]" for line in plan["advice"]] or [f"The recipe fits on {plan['gpus']} GPU(s)."]
    return Group(table, *lines)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 360 else f"{seconds / 60:.1f} min"


def _join_counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count) or "none"
