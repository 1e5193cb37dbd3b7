# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``--dry-run``: the estimated time, memory and disk of the runs of a table."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from rich.console import Group
from rich.text import Text

from ..doctor.plan import make_plan
from ..utils.console import WholeTable
from .prepare import BLIND_SUFFIX
from .row_recipes import DEMO, Plan, local_keys
from .write import collect


ASSUMED = (
    "~: estimated for A100s at 40 % of their peak, every answer corrected (docs/planning.md). Peak is that of the "
    "fullest GPU, where every row is as long as `cutoff_len`. Disk is one checkpoint; each run also leaves its model."
)


class Cost(NamedTuple):
    """The cost of one run."""

    hours: float | None = None  # None if it cannot be estimated
    measured: bool = False  # whether the hours are those of finished runs of the same row
    peak_gib: float | None = None  # of the fullest GPU; None if it cannot be planned
    disk_gib: float | None = None  # its largest checkpoint
    steps: int = 0  # optimiser steps
    answers: int = 0  # answers generated
    note: str = ""  # why a figure is unknown, or advice where it does not fit


def measured_seconds(plans: Sequence[Plan], folders: Sequence[Path]) -> dict[str, float]:
    """Row -> mean seconds of its finished runs."""
    results = collect(plans, folders)
    return {row: fmean(result["seconds"] for result in seeds.values()) for row, seeds in results.items()}


def cost_of(plan: Plan, directory: Path, seconds: float | None, *, gpus: int, gib: float) -> Cost:
    """The cost of a run."""
    if plan.row.computed:
        return Cost(hours=0.0, measured=True)
    on_cpu = plan.scale == "mini"
    hours = None if seconds is None else seconds / 3600
    keys = local_keys(plan, directory)
    if on_cpu:  # the run's own copy may not be written yet
        keys["dataset_dir"] = str(DEMO / "data")
        keys |= {key: keys[key].removesuffix(BLIND_SUFFIX) for key in ("dataset", "eval_dataset")}
    if plan.source is not None:  # same shape as the model that it is trained from
        keys["model_name_or_path"] = local_keys(plan.source, directory)["model_name_or_path"]
    try:
        planned = make_plan(keys, gpus=1 if on_cpu else gpus, gib=gib, on_cpu=on_cpu)
    except ValueError as error:
        return Cost(hours=hours, measured=hours is not None, note=str(error))
    counts = planned["counts"]
    if hours is None and not on_cpu:
        hours = sum(planned["seconds"].values()) / 3600
    return Cost(
        hours=hours,
        measured=seconds is not None,
        peak_gib=max(parts["peak"] for parts in planned["memory"].values()) / 2**30,
        disk_gib=counts["checkpoint_bytes"] / 2**30,
        steps=sum(counts["steps"].values()),
        answers=sum(counts["generations"].values()),
        note="; ".join(planned["advice"][:1]),
    )


def cost_table(costs: Sequence[tuple[Plan, Cost]], title: str) -> Group:
    """The costs as a rich table with a line for each row of the paper's table, their sum over all seeds, and notes."""
    table = WholeTable(title=title)
    table.add_column("run")
    for head in ("hours", "peak GiB", "disk GiB", "steps", "answers"):
        table.add_column(head, justify="right", no_wrap=True)
    seeds = Counter(plan.row.name for plan, _ in costs)
    first: dict[str, tuple[Plan, Cost]] = {}
    for plan, cost in costs:
        first.setdefault(plan.row.name, (plan, cost))
    for name, (plan, cost) in first.items():
        hours = "?" if cost.hours is None else f"{cost.hours:.2f}" if cost.measured else f"~{cost.hours:.1f}"
        peak = "" if cost.peak_gib is None else f"{cost.peak_gib:.1f}"
        disk = "" if cost.disk_gib is None else f"{cost.disk_gib:.1f}"
        label = f"{name} x {seeds[name]}" if plan.row.seeded else name
        table.add_row(label, hours, peak, disk, f"{cost.steps:,}", f"{cost.answers:,}")
    known = [cost.hours for _, cost in costs if cost.hours is not None]
    table.add_section()
    table.add_row(f"{len(costs)} runs", f"{sum(known):.1f}" if len(known) == len(costs) else f"> {sum(known):.1f}")
    rows: dict[str, list[str]] = {}
    for plan, cost in costs:
        if cost.note and plan.row.name not in rows.setdefault(cost.note, []):
            rows[cost.note].append(plan.row.name)
    notes = [f"{', '.join(names)}: {note}" for note, names in rows.items()]
    if any(not cost.measured and cost.hours is not None for _, cost in costs):
        notes.append(ASSUMED)
    return Group(table, *map(Text, notes))
