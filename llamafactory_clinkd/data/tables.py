# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The tables that `clinkd data` prints."""

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from .check import Check
from .convert import Conversion
from .problems import ERRORS, REASONS, WARNINGS


def conversion_table(conversion: Conversion) -> Table:
    """Counts of rows, tasks, modalities and reject reasons."""
    table = Table("", "rows", title=escape(str(conversion.path)))
    rows = {
        "in": conversion.rows_in,
        "converted": conversion.converted,
        "rejected": conversion.rejected,
        "out": conversion.rows_out,
    }
    reasons = {f"[red]{reason}[/]: {escape(REASONS[reason])}": count for reason, count in conversion.reasons.items()}
    tasks = {f"task {escape(task)}": count for task, count in conversion.tasks.items()}
    modalities = {f"modality {escape(modality)}": count for modality, count in conversion.modalities.items()}
    for section in (rows, tasks, modalities, reasons):
        for label, count in section.items():
            table.add_row(label, f"{count:,}")
        table.add_section()
    return table


def check_table(result: Check) -> Table | str:
    """Each problem with its count and the first row that has it."""
    title = f"{escape(result.path)}: {result.rows:,} rows, {result.images:,} images"
    if not result.counts:
        return f"{title}, no problems."
    table = Table("", "problem", "count", "first", title=title)
    for code, count in result.counts.most_common():
        level = "[red]error[/]" if code in ERRORS else "[yellow]warning[/]"
        first = result.examples[code][0]
        example = escape(f"row {first['row']}: {first['detail'][:100]}")
        table.add_row(level, f"{code}: {escape((ERRORS | WARNINGS)[code])}", f"{count:,}", example)
    return table


def modality_table(counts: dict[str, Any], dataset: Path) -> Table:
    """Turns by modality and task, with each modality's share: the numbers of Figure A1."""
    tasks = list(counts["tasks"])
    table = Table("modality", *tasks, "turns", "share", title=f"{escape(str(dataset))}: {counts['rows']:,} rows")
    for modality, count in counts["modalities"].items():
        cells = [f"{counts['modality_tasks'][modality].get(task, 0):,}" for task in tasks]
        table.add_row(escape(modality), *cells, f"{count:,}", f"{count / counts['turns']:.1%}")
    table.add_section()
    table.add_row("all", *(f"{counts['tasks'][task]:,}" for task in tasks), f"{counts['turns']:,}", "100.0%")
    return table


def detail_table(counts: dict[str, Any]) -> Table:
    """Lengths, boxes per answer, image sizes."""
    table = Table("", "", title="Per turn and per image")
    for label in ("question_words", "answer_words"):
        quantiles = counts[f"{label}_quantiles"]
        table.add_row(label.replace("_", " "), ", ".join(f"{q}%: {value}" for q, value in quantiles.items()))
    boxes = counts["boxes_per_answer"]
    table.add_row("boxes per answer", ", ".join(f"{number}: {count:,}" for number, count in boxes.items()))
    sizes = list(counts["image_sizes"].items())
    more = f" and {len(sizes) - 8} more" if len(sizes) > 8 else ""
    table.add_row("image sizes", ", ".join(f"{size}: {count:,}" for size, count in sizes[:8]) + more)
    table.add_row("images", f"{counts['images']:,}, of which {counts['images_unread']:,} do not open")
    return table
