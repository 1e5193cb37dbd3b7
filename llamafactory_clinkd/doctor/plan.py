# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd doctor --plan``: memory, disk and counts of a recipe before a GPU is rented.

Pure arithmetic over a recipe's keys and the models' configurations: no GPU, no LLaMA-Factory, no download.
"""

from collections.abc import Mapping
from typing import Any

from .phase_costs import PARTS, advice, counts_of, memory_of_phases
from .recipe_spec import Facts, facts_of


__all__ = ["PARTS", "Facts", "facts_of", "make_plan", "plan_table"]


def make_plan(keys: Mapping[str, Any], *, gpus: int, gib: float, **options: Any) -> dict[str, Any]:
    """The plan of a recipe.

    Args:
        keys: The recipe's keys.
        gpus: Number of GPUs.
        gib: Memory of each, GiB.
        **options: See :func:`.facts.facts_of`.

    Returns:
        JSON-able: ``gpus``, ``gib``, ``fits``, ``memory`` (phase -> part -> bytes, with ``peak``), ``counts``,
        ``advice`` (lines; empty if it fits) and ``assumptions`` (lines).

    Raises:
        ValueError: If the recipe cannot be planned; the message says what to change.
    """
    facts = facts_of(keys, gpus=gpus, **options)
    memory = memory_of_phases(facts)
    available = int(gib * 2**30)
    assumptions = [
        f"every row has {facts.row_tokens} tokens, an image {facts.image_tokens} of them, an answer "
        f"{facts.answer_tokens} on average and at most {facts.new_tokens}",
        "every answer is wrong and is corrected (the most that can be)",
    ]
    if facts.rows_are_assumed:
        assumptions.append(
            f"{facts.train_rows} training and {facts.eval_rows} evaluation rows: the paper's numbers where the "
            "recipe's data is not on this machine"
        )
    return {
        "gpus": gpus,
        "gib": gib,
        "fits": all(parts["peak"] <= available for parts in memory.values()),
        "memory": memory,
        "counts": counts_of(facts),
        "advice": advice(facts, memory, available),
        "assumptions": assumptions,
    }


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
