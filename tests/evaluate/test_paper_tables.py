# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import os
import re
from pathlib import Path

import pytest

from llamafactory_clinkd.evaluate.paper_tables import QA, TABLE_1, TABLE_2, TABLE_3
from llamafactory_clinkd.utils.boxes import MODALITIES


PAPER = Path(os.environ.get("CLINKD_SHARED", Path(__file__).parents[3] / "shared"), "paper", "clinkd.txt")


def inconsistencies(tolerance: float = 0.011) -> list[str]:
    """The averages of the tables that differ from the mean of their own row by more than rounding, one line each."""
    found = []
    for number, table in (("1", TABLE_1), ("2", TABLE_2)):
        for key, (*values, average) in table.items():
            if average is not None and abs(sum(values) / 4 - average) > tolerance:
                found.append(f"Table {number}, {key}: {average} printed, mean {sum(values) / 4:.2f}")
    for task, methods in TABLE_3.items():
        for method, row in methods.items():
            values = [value for name, value in row.items() if name != "average" and value is not None]
            mean = sum(values) / len(values)
            if row["average"] is not None and abs(mean - row["average"]) > tolerance:
                found.append(f"Table 3, {task}, {method}: {row['average']} printed, mean {mean:.2f}")
    return found


def test_the_printed_averages_that_do_not_follow_from_their_rows():
    """Three, all within 0.6 points; every other average is the mean of its row, a check of the transcription."""
    assert inconsistencies() == [
        "Table 2, ('Qwen2-VL', False, False, False): 61.37 printed, mean 60.84",
        "Table 3, VG, ClinKD: 67.51 printed, mean 67.65",
        "Table 3, MIA, ClinKD: 65.69 printed, mean 65.30",
    ]


def test_the_tables_agree_with_each_other():
    rows = {"BiRD": ("BiRD", False, False, False), "BiRD + MCG-RoPE": ("BiRD", True, False, False)}
    rows.update({"BiRD + Pseudo-KD": ("BiRD", False, True, False), "ClinKD": ("ClinKD", True, True, True)})
    for method, key in rows.items():
        averages = tuple(TABLE_3[task][method]["average"] for task in ("VG", "ROC", "RC", "MIA"))
        assert averages == TABLE_2[key][:4]
    for (data, model), values in TABLE_1.items():
        if data != QA and model != "LLaVA-Med":
            assert values == TABLE_2[rows[model]]


def test_the_column_averages_of_table_3():
    """The mean over the tasks; the paper's one other figure, BiRD on CT, is printed a point too high."""
    off = []
    for method, averages in TABLE_3["Average"].items():
        for modality in MODALITIES:
            values = [TABLE_3[task][method][modality] for task in ("VG", "ROC", "RC", "MIA")]
            values = [value for value in values if value is not None]
            if abs(sum(values) / len(values) - averages[modality]) > 0.011:
                off.append((method, modality))
    assert off == [("BiRD", "ct")]


@pytest.mark.skipif(not PAPER.exists(), reason="the paper's text is not here (set CLINKD_SHARED)")
def test_table_3_figure_by_figure_against_the_paper():
    text = PAPER.read_text()
    text = re.sub(r"<[^>]*>", "", text[text.index("Task\tMetric\tMethod") : text.index("Table 3. Comparison")])
    lines = [line for line in text.splitlines() if "BiRD [14]" in line or "ClinKD (Ours)" in line]
    printed = []
    for line in lines:
        cells = re.split(r"BiRD \[14\](?: \+[^\t]*)?|ClinKD \(Ours\)", line)[1].split("\t")[1:]
        printed.append([None if cell.strip() == "-" else float(cell.split("±")[0]) for cell in cells])
    ours = [list(row.values()) for methods in TABLE_3.values() for row in methods.values()]
    assert ours == printed
