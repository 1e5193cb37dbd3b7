# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Writes a table of all finished runs as Markdown and CSV, and figure 4 as an image."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ..utils.boxes import MODALITIES
from ..utils.io import write_text
from .results import find_result, modality_score, score, score_interval
from .row_recipes import Plan, run_folder
from .table import COLUMNS, Results, cell, markdown
from .table_rows import ALPHAS, REFERENCE, ROWS, alpha_row, paper_modalities, paper_scores, rows_of


def collect(plans: Sequence[Plan], folders: Sequence[Path]) -> dict[str, dict[int, dict[str, Any]]]:
    """Row -> seed -> result, of the runs whose results match the present recipes."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for plan in plans:
        result = find_result(plan, folders)
        if result is not None:
            found.setdefault(plan.row.name, {})[plan.seed] = result
    return found


def write_report(what: str, plans: Sequence[Plan], directory: Path) -> Path | None:
    """Writes ``<what>.html``, which compares this machine's runs of the first seed; returns None without any."""
    from ..report import build_report

    first = min(plan.seed for plan in plans)
    folders = [run_folder(plan, directory) for plan in plans if plan.seed == first and not plan.row.computed]
    here = [folder for folder in folders if (folder / "clinkd" / "metrics.json").is_file()]
    target = directory / plans[0].scale / f"{what}.html"
    return build_report(here, target) if here else None


def write_tables(
    what: str, plans: Sequence[Plan], directory: Path, folders: Sequence[Path], console: Console
) -> list[Path]:
    """Writes ``<what>.md``, ``.csv`` and for figure 4 ``.png``, and prints the Markdown; returns the files."""
    results, scale = collect(plans, folders), plans[0].scale
    if not results:
        console.print("No result yet, so no table.")
        return []
    target = directory / scale / what
    text = markdown(what, scale, results)
    written = [target.with_suffix(".md"), target.with_suffix(".csv")]
    for path, content in zip(written, (text, csv_text(what, scale, results)), strict=True):
        write_text(path, content)
    if what == "figure4" and results.keys() - {REFERENCE}:
        written.append(draw_figure4(results, scale, target.with_suffix(".png")))
    console.print(text, markup=False, soft_wrap=True, highlight=False)
    console.print(f"Written: {', '.join(map(str, written))}", soft_wrap=True)
    return written


def draw_figure4(results: Results, scale: str, path: Path) -> Path:
    """Draws mean and standard deviation over seeds for each task; a dotted line shows the row without distillation."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    drawn = 0
    for number, task in enumerate(COLUMNS):
        spreads = {alpha: cell("figure4", ROWS[alpha_row(alpha, scale)], task, results).spread for alpha in ALPHAS}
        points = [(alpha, found) for alpha, found in spreads.items() if found is not None]
        if not points:
            continue
        drawn += 1
        x, y = [alpha for alpha, _ in points], [found.mean for _, found in points]
        error = [found.std or 0.0 for _, found in points]
        width = 2.5 if task == "Average" else 1.2
        axes.errorbar(x, y, error, label=task, color=f"C{number}", linewidth=width, marker="o", capsize=3)
        if (reference := cell("figure4", ROWS[REFERENCE], task, results).spread) is not None:
            axes.axhline(reference.mean, color=f"C{number}", linewidth=0.8, linestyle=":")
    if not drawn:
        raise ValueError("No value of alpha has a result yet: nothing to draw.")
    axes.set_xlabel("α of Eq. 16")
    axes.set_ylabel("score, %")
    axes.set_title("Pseudo-KD at several α (dotted: SFT without distillation)", fontsize=10)
    axes.legend(fontsize=8, ncols=len(COLUMNS), loc="upper center", bbox_to_anchor=(0.5, -0.14))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    return path


HEADS = (
    "table", "row", "task", "modality", "seed", "value", "std", "low", "high", "paper", "difference", "p",
)  # fmt: skip


def csv_text(table: str, scale: str, results: Results) -> str:
    """The content of the CSV file; values in percent, ``seed`` is ``mean`` in a line over the seeds."""
    out = io.StringIO()
    writer = csv.DictWriter(out, HEADS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows_of(table, scale):
        for task in COLUMNS:
            here = {"table": table, "row": row.name, "task": task, "modality": "all"}
            for seed, result in sorted(results.get(row.name, {}).items()):
                low, high = score_interval(result, task) or ("", "")
                value = score(result, task)
                if value is not None:
                    writer.writerow({**here, "seed": seed, "value": value, "low": low, "high": high})
                for modality in MODALITIES:
                    part = modality_score(result, task, modality)
                    if part is not None:
                        writer.writerow({**here, "modality": modality, "seed": seed, "value": part})
            _write_mean(writer, here, table, row, task, results)
    return out.getvalue()


def _write_mean(writer: csv.DictWriter, here: dict, table: str, row, task: str, results: Results) -> None:
    found = cell(table, row, task, results)
    printed = paper_modalities(task, row.name) if table == "table3" else None
    paper = printed["average"] if printed else (paper_scores(table, row.name) or {}).get(task)
    if found.spread is None and paper is None:
        return
    line = {**here, "seed": "mean", "paper": "" if paper is None else paper}
    if found.spread is not None:
        line |= {"value": found.spread.mean, "std": "" if found.spread.std is None else found.spread.std}
    if found.interval is not None:
        line |= {"low": found.interval[0], "high": found.interval[1]}
    if found.difference is not None:
        p = found.difference.p
        line |= {"difference": found.difference.value, "p": "" if p is None else p}
    writer.writerow(line)
