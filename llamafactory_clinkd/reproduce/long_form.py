# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Results as CSV: a line for each row, task, modality and seed, and a line over the seeds; for other programs."""

import csv
import io

from ..utils.boxes import MODALITIES
from .results import modality_score, score, score_interval
from .table import COLUMNS, Results, cell
from .table_rows import paper_modalities, paper_scores, rows_of


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
