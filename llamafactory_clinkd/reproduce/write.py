# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Writes a table as Markdown and CSV, and figure 4 as a picture, of all results that are there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..utils.io import write_text
from .figure import draw_figure4
from .long_form import csv_text
from .results import find_result
from .row_recipes import Plan, folder_of, run_folder
from .table import markdown
from .table_rows import REFERENCE


def collect(plans: Sequence[Plan], folders: Sequence[Path]) -> dict[str, dict[int, dict[str, Any]]]:
    """Row -> seed -> result, of the runs whose results are those of the present recipes."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for plan in plans:
        result = find_result(plan, folders)
        if result is not None:
            found.setdefault(plan.row.name, {})[plan.seed] = result
    return found


def write_report(what: str, plans: Sequence[Plan], directory: Path) -> Path | None:
    """Writes ``<what>.html``: the report that compares the runs of the first seed that are on this machine.

    Returns:
        The page; None where no run is.
    """
    from ..report import build_report

    first = min(plan.seed for plan in plans)
    folders = [run_folder(plan, directory) for plan in plans if plan.seed == first and not plan.row.computed]
    here = [folder for folder in folders if (folder / "clinkd" / "metrics.json").is_file()]
    target = directory / folder_of(plans[0].scale, plans[0].part) / f"{what}.html"
    return build_report(here, target) if here else None


def write_tables(
    what: str, plans: Sequence[Plan], directory: Path, folders: Sequence[Path], console: Console
) -> list[Path]:
    """Writes ``<what>.md``, ``<what>.csv`` and for figure 4 ``<what>.png`` beside the runs, and prints the Markdown.

    Args:
        what: The table.
        plans: All its runs.
        directory: The folder in the place of ``runs/reproduce``.
        folders: Where results are looked for.
        console: Where the table is printed.

    Returns:
        The files; none where there is no result yet.
    """
    results, scale = collect(plans, folders), plans[0].scale
    if not results:
        console.print("There is no result yet, so there is no table.")
        return []
    target = directory / folder_of(scale, plans[0].part) / what
    text = markdown(what, scale, results)
    written = [target.with_suffix(".md"), target.with_suffix(".csv")]
    for path, content in zip(written, (text, csv_text(what, scale, results)), strict=True):
        write_text(path, content)
    if what == "figure4" and results.keys() - {REFERENCE}:
        written.append(draw_figure4(results, target.with_suffix(".png")))
    console.print(text, markup=False, soft_wrap=True, highlight=False)
    console.print(f"Written: {', '.join(map(str, written))}", soft_wrap=True)
    return written
