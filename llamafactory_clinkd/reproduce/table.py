# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The paper's tables in Markdown from results, with the paper's values beside ours."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..evaluate.paper_tables import MED_GRIT
from ..evaluate.score_table import format_percent, metric_name
from ..utils.boxes import MODALITIES, TASKS, modality_label
from .results import modality_score, score, score_interval
from .statistics import Difference, Spread, Test, beyond_chance, difference, mean_interval, spread
from .table_rows import (
    BASE_ALPHA,
    METHODS_OF_PAPER,
    REFERENCE,
    REFERENCES,
    ROWS,
    TEST_SETS,
    Row,
    paper_modalities,
    paper_scores,
    rows_of,
)


COLUMNS = (*TASKS, "Average")
Results = Mapping[str, Mapping[int, dict[str, Any]]]
"""Row -> seed -> result; a row that no seed changes has the first seed's key."""


class Cell(NamedTuple):
    """A row's score on one task."""

    spread: Spread | None  # over seeds; None without a result
    interval: tuple[float, float] | None  # 95 % interval over test rows, mean over seeds
    difference: Difference | None  # to the reference row; None for that row itself
    paper: float | None  # what the paper printed


def cell(table: str, row: Row, task: str, results: Results) -> Cell:
    """One cell of table 1 or 2."""
    base = REFERENCES.get(table, REFERENCE)
    mine, reference = results.get(row.name, {}), results.get(base, {})
    intervals = [found for result in mine.values() if (found := score_interval(result, task)) is not None]
    compared = row.name != base and row.name not in TEST_SETS
    scores, others = _scores(mine, task), _scores(reference, task)
    return Cell(
        spread=spread(list(scores.values())),
        interval=mean_interval(intervals),
        difference=difference(scores, others, _test(row, base)) if compared else None,
        paper=(paper_scores(table, row.name) or {}).get(task),
    )


def _test(row: Row, base: str = REFERENCE) -> Test:
    return "fixed" if not row.seeded else "paired" if row.uses == base else "welch"


def _scores(results: Mapping[int, dict[str, Any]], task: str) -> dict[int, float]:
    found = {seed: score(result, task) for seed, result in results.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def markdown(table: str, scale: str, results: Results) -> str:
    """A table of the paper with ours, and what its columns mean."""
    if table == "table3":
        return modalities_table(scale, results)
    return methods_table(table, scale, results)


def methods_table(table: str, scale: str, results: Results) -> str:
    """Tables 1 and 2, the numbers behind figure 4, and the table of on-policy distillation."""
    rows, base, printed = rows_of(table, scale), REFERENCES.get(table, REFERENCE), bool(METHODS_OF_PAPER[table])
    metrics = _metric_names(results)
    heads = ["Model"]
    heads += {"table1": ["Test data"], "table2": ["MCG-RoPE", "Pseudo-KD", "SASG", "Correction"]}.get(table, [])
    for task in COLUMNS:
        heads.append(f"{task} ({metrics[task]})" if task in metrics else task)
        heads += ["paper"] * printed
    heads += [f"Beyond noise against {ROWS[base].title}", "Seeds"]
    table_cells = {row.name: {task: cell(table, row, task, results) for task in COLUMNS} for row in rows}
    tested = [each for cells in table_cells.values() for each in _differences(cells).values() if each.p is not None]
    strong = {id(each) for each, stays in zip(tested, beyond_chance(tested), strict=True) if stays}
    lines = []
    for row in rows:
        cells = table_cells[row.name]
        line = [_title(table, row, scale)]
        if table == "table1":
            line.append(TEST_SETS.get(row.name, MED_GRIT if scale == "paper" else "miniature"))
        elif table == "table2":
            line += ["✓" if part in row.parts else "✗" for part in ("mcg", "kd", "sasg", "correction")]
        for found in cells.values():
            line.append(_ours(found))
            if printed:
                line.append(format_percent(found.paper))
        count = len(results.get(row.name, {}))
        lines.append([*line, _verdict(cells, strong), "any" if count and not row.seeded else str(count)])
    return "\n".join([*_heading(table, scale), *_pipes(heads, lines), "", *_notes(table, results, len(tested))]) + "\n"


def modalities_table(scale: str, results: Results) -> str:
    """Table 3: for each task its score in each modality, ours and the paper's in turn."""
    metrics = _metric_names(results)
    heads = ["Task", "Metric", "Method", *map(modality_label, MODALITIES), "Average"]
    lines = []
    for task in COLUMNS:
        for row in rows_of("table3", scale):
            mine = results.get(row.name, {})
            values = [[modality_score(result, task, name) for result in mine.values()] for name in MODALITIES]
            values.append([None if task == "Average" else score(result, task) for result in mine.values()])
            spreads = [spread([value for value in column if value is not None]) for column in values]
            lines.append([task, metrics.get(task, "-"), f"{row.title}", *map(_spread, spreads)])
            printed = paper_modalities(task, row.name)
            if printed is not None:
                name = METHODS_OF_PAPER["table3"][row.name]
                lines.append(
                    ["", "", f"*paper: {name}*", *(f"*{format_percent(value)}*" for value in printed.values())]
                )
    return "\n".join([*_heading("table3", scale), *_pipes(heads, lines), "", *_notes("table3", results)]) + "\n"


def _heading(table: str, scale: str) -> list[str]:
    name = "On-policy distillation" if table == "on_policy" else f"{table[:-1].capitalize()} {table[-1]}"
    title = f"### {name}, {scale} scale"
    note = {
        "paper": "Ours beside what the paper printed.",
        "mini": "Ours are of small models on other data than the paper's: compare rows with rows, not with the paper.",
    }
    return [title, "", note[scale], ""]


def _title(table: str, row: Row, scale: str) -> str:
    printed = METHODS_OF_PAPER[table].get(row.name)
    title = f"*{row.title}*" if row.sanity else row.title
    if table == "figure4" and row.name == "pseudo_kd":
        return f"alpha = {BASE_ALPHA[scale]:g}, as in ClinKD ({title})"
    return f"{title} (paper: {printed})" if printed and printed not in row.title else title


def _metric_names(results: Results) -> dict[str, str]:
    """Task -> the metric's name in the results: SPICE-approx keeps its own, with its parser."""
    found = [result["metrics"] for seeds in results.values() for result in seeds.values()]
    return {task: metric_name(found, task) for metrics in found for task in metrics["tasks"]}


def _ours(found: Cell) -> str:
    text = _spread(found.spread)
    return text if found.interval is None else f"{text} [{found.interval[0]:.1f}, {found.interval[1]:.1f}]"


def _spread(found: Spread | None) -> str:
    if found is None:
        return "-"
    return f"{found.mean:.2f}" if found.std is None else f"{found.mean:.2f} ± {found.std:.2f}"


def _differences(cells: Mapping[str, Cell]) -> dict[str, Difference]:
    return {task: each.difference for task, each in cells.items() if each.difference is not None}


def _verdict(cells: Mapping[str, Cell], strong: set[int]) -> str:
    """Which differences to the reference are beyond noise, each with its sign; bold if its ``id`` is in ``strong``."""
    differences = _differences(cells)
    if not differences:
        return ""
    if all(each.beyond_noise is None for each in differences.values()):
        return "one seed: not known"
    texts = [
        f"**{task} {each.value:+.2f}**" if id(each) in strong else f"{task} {each.value:+.2f}"
        for task, each in differences.items()
        if each.beyond_noise
    ]
    return ", ".join(texts) or "none"


def _notes(table: str, results: Results, tested: int = 0) -> list[str]:
    notes = [
        "Scores in percent: mean ± sample standard deviation over seeds"
        + ("." if table == "table3" else " [95 % bootstrap interval over the test rows, mean over seeds].")
    ]
    if table != "table3":
        notes.append(
            "Beyond noise: p < 0.05 of a two-sided t-test over seeds (Welch's; paired where both rows predict with "
            "the same trained models; one-sample for a row that no seed changes), each task by itself. With three "
            "seeds such a test sees large differences only."
        )
    if tested:
        notes.append(
            f"{tested} differences were tested, of which chance alone would put about {0.05 * tested:.1f} beyond "
            "noise. **Bold** ones stay so when all are taken together (Benjamini and Hochberg, 5 %)."
        )
    if table == "table2":
        notes += _sanity(results)
    found = [result for seeds in results.values() for result in seeds.values()]
    if differing := _differing_inputs(found):
        notes.append(
            f"The runs started from different builds of {', '.join(differing)} (`inputs` in the results): "
            "a difference between runs of different builds is not the method's alone."
        )
    notes += sorted({note for result in found for note in result["metrics"].get("notes") or []})
    return [f"- {note}" for note in notes]


def _differing_inputs(found: Sequence[dict[str, Any]]) -> list[str]:
    """Names of data and models whose hash differs between results."""
    hashes: dict[str, set[str]] = {}
    for result in found:
        for name, sha256 in result.get("inputs", {}).items():
            hashes.setdefault(name, set()).add(sha256)
    return sorted(name for name, different in hashes.items() if len(different) > 1)


def _sanity(results: Results) -> list[str]:
    """VG of ClinKD against baselines that see no image."""
    notes, pointing = [], _scores(results.get("clinkd", {}), "VG")
    for name in ("mean_box", "blind"):
        found = difference(_scores(results.get(name, {}), "VG"), pointing, _test(ROWS[name]))
        if found is not None:
            known = "one seed: not known" if found.p is None else f"p = {found.p:.2g}"
            notes.append(
                f"VG of {ROWS['clinkd'].title} minus that of {ROWS[name].title}: {-found.value:+.2f} ({known})."
            )
    return notes


def _pipes(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> list[str]:
    marks = [":--" if number == 0 else "--:" for number in range(len(heads))]
    return [f"| {' | '.join(line)} |" for line in (heads, marks, *lines)]
