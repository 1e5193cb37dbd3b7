# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A plan on the terminal."""

from typing import Any

from .phase_costs import PARTS


def plan_table(plan: dict[str, Any]) -> Any:
    """The plan as rich tables and lines."""
    from rich.console import Group
    from rich.table import Table

    memory = plan["memory"]
    table = Table("GiB on each GPU", *memory)
    for name in PARTS:
        if any(parts[name] for parts in memory.values()):
            table.add_row(name, *(f"{parts[name] / 2**30:.1f}" if parts[name] else "" for parts in memory.values()))
    table.add_section()
    table.add_row("peak", *(f"{parts['peak'] / 2**30:.1f}" for parts in memory.values()))
    fits = [parts["peak"] <= plan["gib"] * 2**30 for parts in memory.values()]
    table.add_row(f"of {plan['gib']:g}", *("[green]fits[/]" if each else "[red]too much[/]" for each in fits))
    counts = plan["counts"]
    lines = [f"optimiser steps: {_named(counts['steps'])}", f"answers generated: {_named(counts['generations'])}"]
    lines.append(f"requests to the corrector's server: at most {counts['api_calls_at_most']:,}")
    lines.append(f"disk: {counts['checkpoint_bytes'] / 2**30:.1f} GiB a checkpoint")
    if counts["cache_bytes"]:
        lines.append(f"disk: {counts['cache_bytes'] / 2**30:.1f} GiB for the teacher cache")
    lines += [f"assumed: {line}" for line in plan["assumptions"]]
    lines += [f"[yellow]{line}[/]" for line in plan["advice"]] or [f"It fits on {plan['gpus']} GPUs."]
    return Group(table, *lines)


def _named(numbers: dict[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in numbers.items() if number) or "none"
