# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The tables that `clinkd data` prints."""

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from .check import Check
from .convert import Conversion
from .image_check import ERRORS, WARNINGS
from .rejects import REASONS


def conversion_table(done: Conversion) -> Table:
    """Counts of a conversion: rows, tasks, modalities, reasons."""
    table = Table("", "rows", title=escape(str(done.path)))
    rows = {"in": done.rows_in, "converted": done.converted, "rejected": done.rejected, "out": done.rows_out}
    reasons = {f"[red]{reason}[/]: {escape(REASONS[reason])}": count for reason, count in done.reasons.items()}
    tasks = {f"task {escape(task)}": count for task, count in done.tasks.items()}
    modalities = {f"modality {escape(modality)}": count for modality, count in done.modalities.items()}
    for section in (rows, tasks, modalities, reasons):
        for label, count in section.items():
            table.add_row(label, f"{count:,}")
        table.add_section()
    return table


def check_table(found: Check) -> Table | str:
    """Each code with its meaning, its count and the first row that has it."""
    title = f"{escape(found.path)}: {found.rows:,} rows, {found.images:,} images"
    if not found.counts:
        return f"{title}, no finding."
    table = Table("", "finding", "count", "first", title=title)
    for code, count in found.counts.most_common():
        level = "[red]error[/]" if code in ERRORS else "[yellow]warning[/]"
        first = found.examples[code][0]
        example = escape(f"row {first['row']}: {first['detail'][:100]}")
        table.add_row(level, f"{code}: {escape((ERRORS | WARNINGS)[code])}", f"{count:,}", example)
    return table


def modality_table(counted: dict[str, Any], dataset: Path) -> Table:
    """Turns by modality and task, with each modality's share: the numbers of Figure A1."""
    tasks = list(counted["tasks"])
    table = Table("modality", *tasks, "turns", "share", title=f"{escape(str(dataset))}: {counted['rows']:,} rows")
    for modality, count in counted["modalities"].items():
        cells = [f"{counted['modality_tasks'][modality].get(task, 0):,}" for task in tasks]
        table.add_row(escape(modality), *cells, f"{count:,}", f"{count / counted['turns']:.1%}")
    table.add_section()
    table.add_row("all", *(f"{counted['tasks'][task]:,}" for task in tasks), f"{counted['turns']:,}", "100.0%")
    return table


def detail_table(counted: dict[str, Any]) -> Table:
    """Lengths, boxes per answer, image sizes."""
    table = Table("", "", title="Per turn and per image")
    for label in ("question_words", "answer_words"):
        quantiles = counted[f"{label}_quantiles"]
        table.add_row(label.replace("_", " "), ", ".join(f"{q}%: {value}" for q, value in quantiles.items()))
    boxes = counted["boxes_per_answer"]
    table.add_row("boxes per answer", ", ".join(f"{number}: {count:,}" for number, count in boxes.items()))
    sizes = list(counted["image_sizes"].items())
    more = f" and {len(sizes) - 8} more" if len(sizes) > 8 else ""
    table.add_row("image sizes", ", ".join(f"{size}: {count:,}" for size, count in sizes[:8]) + more)
    table.add_row("images", f"{counted['images']:,}, of which {counted['images_unread']:,} do not open")
    return table
