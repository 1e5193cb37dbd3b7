# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Tables of results made by hand: the paper's layout, its values beside ours, spreads, and what is beyond noise."""

import csv
import io

import pytest
from scipy import stats

from llamafactory_clinkd.reproduce.statistics import Difference, beyond_chance, difference, mean_interval, spread
from llamafactory_clinkd.reproduce.table import cell, markdown
from llamafactory_clinkd.reproduce.table_rows import ALPHAS, ROWS, alpha_row
from llamafactory_clinkd.reproduce.write import csv_text, draw_figure4
from llamafactory_clinkd.utils.boxes import MODALITIES, modality_label

from .handmade import results


THREE = results(
    sft=[0.30, 0.32, 0.31],
    mcg=[0.40, 0.42, 0.41],
    bird=[0.30, 0.33, 0.31],
    sasg=[0.305, 0.326, 0.317],
    clinkd=[0.5, 0.52, 0.51],
    teacher=[0.6],
    mean_box=[0.1],
)


def lines(text):
    """The cells of each line of a Markdown table, by the first that has a word in it."""
    found = [[each.strip() for each in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert len({len(line) for line in found}) == 1
    return found


def test_table_2_stands_as_in_the_paper():
    heads, marks, *rows = lines(markdown("table2", "mini", THREE))
    assert heads[:5] == ["Model", "MCG-RoPE", "Pseudo-KD", "SASG", "Correction"]
    assert heads[5:9] == ["VG (recall@0.5)", "paper", "ROC (recall)", "paper"] and "RC (SPICE-approx)" in heads
    assert marks[0] == ":--" and set(marks[1:]) == {"--:"}
    by_name = {row[0]: row for row in rows}
    assert list(by_name)[:3] == ["Qwen2-VL, SFT", "BiRD-like: 2D-RoPE, SFT", "+ MCG-RoPE (paper: BiRD)"]
    clinkd = by_name["ClinKD"]
    assert clinkd[1:5] == ["✓"] * 4
    assert clinkd[5:7] == ["51.00 ± 1.00 [49.0, 53.0]", "67.51"]
    assert by_name["+ MCG-RoPE (paper: BiRD)"][5:7] == ["41.00 ± 1.00 [39.0, 43.0]", "64.03"]
    assert by_name["Qwen2-VL, SFT"][5:7] == ["31.00 ± 1.00 [29.0, 33.0]", "55.43"]
    assert by_name["Qwen2-VL, SFT"][-2:] == ["", "3"]
    assert by_name["*the teacher itself*"][5:7] == ["60.00 [58.0, 62.0]", "-"]
    assert by_name["+ Reflective Correction"][5:7] == ["-", "-"] and by_name["+ Reflective Correction"][-1] == "0"


def test_the_verdict_names_what_is_beyond_noise():
    by_name = {row[0]: row[-2] for row in lines(markdown("table2", "mini", THREE))}
    assert by_name["+ MCG-RoPE (paper: BiRD)"] == "**VG +10.00**, **Average +2.50**"
    assert by_name["BiRD-like: 2D-RoPE, SFT"] == "none"
    assert by_name["+ SASG (paper: BiRD)"] == "**VG +0.60**, **Average +0.15**"
    assert by_name["*the teacher itself*"] == "**VG +29.00**, **Average +7.25**"
    assert by_name["*mean box, blind*"] == "**VG -21.00**, **Average -5.25**"
    one = results(sft=[0.3], mcg=[0.4])
    assert {row[0]: row[-2] for row in lines(markdown("table2", "mini", one))}["+ MCG-RoPE (paper: BiRD)"] == (
        "one seed: not known"
    )


def test_what_chance_may_have_made_among_many_is_not_bold():
    weak = results(sft=[0.30, 0.32, 0.31], mcg=[0.325, 0.345, 0.335], bird=[0.31, 0.32, 0.3])
    text = markdown("table2", "mini", weak)
    assert stats.ttest_ind([30, 32, 31], [32.5, 34.5, 33.5], equal_var=False).pvalue == pytest.approx(0.038, abs=1e-3)
    assert {row[0]: row[-2] for row in lines(text)}["+ MCG-RoPE (paper: BiRD)"] == "VG +2.50, Average +0.62"
    assert "- 10 differences were tested, of which chance alone would put about 0.5 beyond noise." in text
    assert "were tested" not in markdown("table2", "mini", results(sft=[0.3], mcg=[0.4]))


def test_a_table_says_of_what_scale_it_is():
    mini, paper = (markdown(table, scale, THREE) for table, scale in (("table2", "mini"), ("figure4", "paper")))
    assert mini.startswith("### Table 2, mini scale\n\nOurs are of small models on other data than the paper's")
    assert paper.startswith("### Figure 4, paper scale\n")
    assert [row[-1] for row in lines(mini) if row[0] == "*SFT on noise instead of images*"] == ["0"]
    assert [row[-1] for row in lines(markdown("table2", "mini", {})) if "teacher" in row[0]] == ["0"]


def test_notes_of_the_metrics_are_passed_on():
    text = markdown("table2", "mini", THREE)
    assert "- made by hand" in text and "three seeds" in text


def test_the_table_says_whether_it_points_better_than_without_looking():
    seen = results(clinkd=[0.5, 0.52, 0.51], mean_box=[0.1], blind=[0.1, 0.13, 0.1])
    text = markdown("table2", "mini", seen)
    p_box, p_blind = (
        stats.ttest_1samp([50, 52, 51], 10).pvalue,
        stats.ttest_ind([50, 52, 51], [10, 13, 10], equal_var=False).pvalue,
    )
    assert f"- VG of ClinKD minus that of mean box, blind: +41.00 (p = {p_box:.2g})." in text
    assert f"- VG of ClinKD minus that of SFT on noise instead of images: +40.00 (p = {p_blind:.2g})." in text
    assert "+40.00 (one seed: not known)" in markdown("table2", "mini", results(clinkd=[0.5], blind=[0.1]))
    assert "minus that of" not in markdown("table2", "mini", results(clinkd=[0.5]))


def test_the_table_says_where_runs_started_from_different_models():
    mixed = results(sft=[0.3, 0.32], mcg=[0.4])
    for number, result in enumerate([*mixed["sft"].values(), *mixed["mcg"].values()]):
        result["inputs"] = {"models/base": "f00d" if number < 2 else "beef"}
    assert "started from different builds of models/base (" in markdown("table2", "mini", mixed)
    mixed["mcg"][1]["inputs"] = {"models/base": "f00d", "models/teacher": "cafe"}  # the others had no teacher
    assert "different builds" not in markdown("table2", "mini", mixed)


def test_table_1_has_both_test_sets_at_paper_scale_only():
    mini, paper = lines(markdown("table1", "mini", THREE)), lines(markdown("table1", "paper", THREE))
    assert [row[1] for row in mini[2:]] == ["miniature"] * 3
    assert [row[1] for row in paper[2:]] == ["Med-GRIT-Test30k"] * 4 + ["LLaVA-Med-qa0.2k"] * 3
    clinkd = next(row for row in paper if row[0] == "ClinKD" and row[1] == "LLaVA-Med-qa0.2k")
    assert clinkd[2:10] == ["-", "-", "-", "-", "-", "-", "-", "13.24"]


def test_table_3_has_each_modality_ours_and_the_papers_in_turn():
    heads, _, *rows = lines(markdown("table3", "mini", THREE))
    assert heads == ["Task", "Metric", "Method", "CT", "MR", "X-ray", "PET", "Endoscopy", "Dermoscopy", "Fundus",
                     "Ultrasound", "Average"]  # fmt: skip
    assert [modality_label(name) for name in MODALITIES] == heads[3:-1]
    tasks = [row[0] for row in rows if row[0]]
    assert sorted(set(tasks), key=tasks.index) == ["VG", "ROC", "RC", "MIA", "Average"]
    ours = next(number for number, row in enumerate(rows) if row[:3] == ["VG", "recall@0.5", "ClinKD"])
    assert rows[ours][3:] == ["46.00 ± 1.00", "56.00 ± 1.00", "-", "-", "-", "-", "-", "-", "51.00 ± 1.00"]
    assert rows[ours + 1][2:6] == ["*paper: ClinKD*", "*65.52*", "*52.23*", "*48.56*"]
    average = next(row for row in rows if row[0] == "Average" and row[2] == "ClinKD")
    assert average[4].endswith(" ± 0.25") and average[-1] == "-"
    assert float(average[4].split()[0]) == pytest.approx((56 + 55 + 30 + 17.5) / 4, abs=0.0051)


def test_csv_has_every_seed_and_the_means():
    found = list(csv.DictReader(io.StringIO(csv_text("table2", "mini", THREE))))
    mcg = [row for row in found if row["row"] == "mcg" and row["task"] == "VG"]
    assert [(row["modality"], row["seed"]) for row in mcg][:4] == [
        ("all", "1"),
        ("ct", "1"),
        ("mr", "1"),
        ("all", "2"),
    ]
    mean = mcg[-1]
    assert (mean["seed"], float(mean["value"]), float(mean["std"])) == ("mean", pytest.approx(41), pytest.approx(1))
    assert (float(mean["paper"]), float(mean["difference"])) == (64.03, pytest.approx(10)) and float(mean["p"]) < 0.01
    paper_only = [row for row in found if row["row"] == "pseudo_kd"]
    assert [row["paper"] for row in paper_only] == ["66.33", "79.52", "67.21", "64.32", "69.35"]
    assert not any(row["value"] for row in paper_only)
    table3 = list(csv.DictReader(io.StringIO(csv_text("table3", "mini", THREE))))
    assert {row["paper"] for row in table3 if row["row"] == "vkd"} == {"63.93", "76.0", "64.15", "61.42"}


def test_a_task_that_a_row_has_not_is_a_dash():
    found = results(sft=[0.3, 0.4, 0.5], mean_box=[0.2])
    del found["mean_box"][1]["metrics"]["tasks"]["MIA"]
    found["mean_box"][1]["metrics"]["average_of"].remove("MIA")  # the mean of three tasks is not the paper's average
    row = {row[0]: row for row in lines(markdown("table2", "mini", found))}["*mean box, blind*"]
    assert row[5:].count("-") == 7  # five of the paper's, MIA and the average
    assert cell("table2", ROWS["mean_box"], "MIA", found).spread is None


def test_welch_is_what_scipy_has():
    row, other = {1: 1.0, 2: 2.0, 3: 4.0}, {1: 0.5, 2: 0.7, 3: 0.6}
    found = difference(row, other)
    assert found.value == pytest.approx(7 / 3 - 0.6)
    assert found.p == pytest.approx(stats.ttest_ind([1, 2, 4], [0.5, 0.7, 0.6], equal_var=False).pvalue)
    assert not found.beyond_noise


def test_pairs_need_less_where_one_model_makes_both():
    row, other = {1: 10.5, 2: 20.6, 3: 30.4}, {1: 10.0, 2: 20.0, 3: 30.0, 4: 99.0}
    assert difference(row, other, "paired").beyond_noise and not difference(row, other).beyond_noise
    assert difference(row, other, "paired").value == pytest.approx(0.5)


def test_a_fixed_row_against_seeds():
    assert difference({1: 5.0}, {1: 1.0, 2: 1.1, 3: 0.9}, "fixed").beyond_noise
    assert not difference({1: 1.05}, {1: 1.0, 2: 1.1, 3: 0.9}, "fixed").beyond_noise


def test_many_differences_are_taken_together_as_benjamini_and_hochberg_do():
    p_values = [0.04, 0.001, None, 0.02, 0.7, 0.03, 0.012]
    ordered = sorted(p for p in p_values if p is not None)
    passing = [p for rank, p in enumerate(ordered, 1) if p <= 0.05 * rank / len(ordered)]
    expected = [p is not None and p <= max(passing) for p in p_values]
    found = beyond_chance([Difference(1.0, p) for p in p_values])
    assert found == expected and found == [True, True, False, True, False, True, True]
    assert beyond_chance([]) == [] and beyond_chance([Difference(1.0, None)]) == [False]
    assert beyond_chance([Difference(1.0, p) for p in (0.04, 0.5, 0.9)]) == [False] * 3


@pytest.mark.parametrize(("row", "expected"), [({1: 2.0, 2: 2.0}, True), ({1: 1.0, 2: 1.0}, False)])
def test_without_any_spread_only_equality_is_no_difference(row, expected):
    assert difference(row, {1: 1.0, 2: 1.0}).beyond_noise is expected


def test_one_seed_tells_no_noise_and_none_no_difference():
    assert difference({1: 2.0}, {1: 1.0, 2: 1.0}).beyond_noise is None
    assert difference({}, {1: 1.0}) is None and spread([]) is None and mean_interval([]) is None
    assert spread([2.0]).std is None and mean_interval([(1, 3), (2, 6)]) == (1.5, 4.5)


def test_the_numbers_of_figure_4_stand_in_the_order_of_alpha():
    rows = lines(markdown("figure4", "mini", THREE))
    named = [float(row[0].split("=")[1].split(",")[0]) for row in rows if row[0].startswith("alpha = ")]
    assert tuple(named) == ALPHAS
    assert "alpha = 1, as in ClinKD (+ Pseudo-KD)" in [row[0] for row in rows]
    assert "+ Pseudo-KD (paper: BiRD)" in [row[0] for row in lines(markdown("table2", "mini", THREE))]
    paper = [row[0] for row in lines(markdown("figure4", "paper", THREE))]
    assert "alpha = 0.5, as in ClinKD (+ Pseudo-KD)" in paper and "alpha = 1" in paper


def test_on_policy_rows_are_compared_with_off_policy_distillation():
    found = results(kd_off_policy=[0.3, 0.32, 0.31], kd_mixed=[0.4, 0.42, 0.41], sft=[0.9, 0.9, 0.9])
    heads, _, *rows = lines(markdown("on_policy", "mini", found))
    assert heads[-2] == "Beyond noise against off-policy: the data's answers" and "paper" not in heads
    by_name = {row[0]: row[-2] for row in rows}
    assert by_name["mixed: half of the batches sampled"] == "**VG +10.00**, **Average +2.50**"


def test_figure_4_is_drawn_of_what_is_there(tmp_path):
    from PIL import Image

    found = results(sft=[0.3], **{alpha_row(alpha, "mini"): [0.3 + alpha / 10, 0.31] for alpha in ALPHAS[:4]})
    path = draw_figure4(found, "mini", tmp_path / "a" / "figure4.png")
    with Image.open(path) as image:
        assert image.size == (1050, 675)
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_figure4(results(sft=[0.3]), "mini", tmp_path / "b.png")
