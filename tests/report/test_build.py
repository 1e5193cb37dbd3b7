# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The page as a whole: what is in it, what it reports as missing, and that it is self-contained."""

import json
import re
import shutil
import time
from collections import Counter

import pytest

from llamafactory_clinkd.evaluate import evaluate_predictions
from llamafactory_clinkd.report import build_report
from llamafactory_clinkd.report.build import EXAMPLES_OF_TASK, SEED, duration
from llamafactory_clinkd.report.examples import EXTREMES
from llamafactory_clinkd.report.excerpts import sample_rows
from llamafactory_clinkd.report.outcomes import row_quality
from llamafactory_clinkd.utils.boxes import TASKS, parse_boxes
from llamafactory_clinkd.utils.io import read_json, read_jsonl, write_json, write_jsonl

from .page_reader import Page
from .run_folder import make_run, phases, prediction


def build(run_dirs, tmp_path) -> Page:
    return Page(build_report(run_dirs, tmp_path / "report.html").read_text(encoding="utf-8"))


def test_page_is_well_formed_and_self_contained(page):
    parsed = Page(page)
    assert parsed.faults == []
    assert parsed.outward() == []
    targets = [attrs["href"][1:] for tag, attrs in parsed.elements if tag == "a"]
    assert len(targets) > 8 and set(targets) <= set(parsed.ids)
    assert "contains images and text of your data" in parsed.text


def test_every_image_has_an_alternative_text_and_every_figure_a_label(page):
    parsed = Page(page)
    images = [attrs for tag, attrs in parsed.elements if tag == "img"]
    figures = [attrs for tag, attrs in parsed.elements if tag == "svg" and "aria-hidden" not in attrs]
    assert len(images) > 20 and all(attrs["alt"] for attrs in images)
    assert len(figures) > 12 and all(attrs["role"] == "img" and attrs["aria-label"] for attrs in figures)


def test_headings_descend_one_level_at_a_time(page):
    levels = [int(tag[1]) for tag, _ in Page(page).elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:], strict=False))


def test_every_example_has_the_boxes_of_its_question(page, run_dir):
    rows = read_jsonl(run_dir / "clinkd" / "predictions.jsonl")
    paths = {path_of(box) for row in rows for text in ("question", "annotation", "response") for box in
             parse_boxes(row[text])}  # fmt: skip
    parsed = Page(page)
    rest = [row for task in TASKS for row in without_sample([row for row in rows if row["task"] == task], task)]
    good = Counter(row["task"] for row in rest if row_quality(row) > 0)  # the others are no best answers
    assert Counter((card[0][1]["data-task"], card[0][1]["data-choice"]) for card in parsed.cards) == Counter(
        {
            (task, choice): count
            for task in TASKS
            for choice, count in (
                ("sample", EXAMPLES_OF_TASK),
                ("best", min(EXTREMES, good[task])),
                ("worst", EXTREMES),
            )
        }
    )
    for card in parsed.cards:
        task = card[0][1]["data-task"]
        drawn = [
            (attrs["class"].split()[1], attrs["d"]) for tag, attrs in card if attrs.get("class", "")[:7] == "outline"
        ]
        kinds = sorted(kind for kind, _ in drawn)
        assert kinds == {"VG": ["predicted", "true"], "ROC": ["query"], "RC": ["query"], "MIA": []}[task]
        assert {path for _, path in drawn} <= paths
        assert sum(attrs.get("class") == "halo" for _, attrs in card) == len(drawn)
        assert sum(tag == "img" for tag, _ in card) == 1


def without_sample(rows, task):
    """The rows of a task that are left for the best and worst; the sample depends on the images' paths."""
    chosen = sample_rows(rows, EXAMPLES_OF_TASK, group=lambda row: row["modality"], seed=f"{SEED} {task}")
    return [row for row in rows if row not in chosen]


def path_of(box) -> str:
    return f"M{box.x1:g} {box.y1:g}H{box.x2:g}V{box.y2:g}H{box.x1:g}Z"


def test_scores_stand_beside_the_papers_with_the_difference(page, run_dir):
    metrics = read_json(run_dir / "clinkd" / "metrics.json")
    text = Page(page).text
    for task, paper in (("VG", 67.51), ("ROC", 82.35), ("RC", 70.56)):
        value = 100 * metrics["tasks"][task]["macro"]
        assert f"{value:.2f}" in text
        assert (f"{value - paper:+.2f}".replace("-", "−") in text) == (task != "RC")
    assert metrics["tasks"]["RC"]["metric"] == "SPICE-approx (rules)" and text.count("SPICE-approx (rules)") >= 3
    assert "71.53" in text and "9.80" in text and "med_grit_test" in text
    assert "demo-clip (random weights)" in text


def test_the_papers_numbers_stand_beside_its_own_test_data_only(run_dir, tmp_path):
    other = make_run(tmp_path / "other", questions=12, images=3, test_data="mine_test")
    for runs in ([other], [run_dir, other]):
        parsed = build(runs, tmp_path)
        text = " ".join(parsed.text.split())
        assert parsed.faults == [] and "The paper’s numbers are not shown" in text and "med_grit" in text
        for absent in ("compared with the paper", "How to read the difference", "71.53", "Table 3", "BiRD", "diamond"):
            assert absent not in text.replace("mBMR (BiRD)", ""), absent
        assert 'class="diamond"' not in parsed.source


def test_stages_without_a_run_have_rows_with_intervals(tmp_path):
    folder = write_run(tmp_path / "run", [prediction(n, [""], 0, 1.0) for n in range(8)])
    metrics = read_json(folder / "clinkd" / "metrics.json")
    stages = {"the teacher": {"VG": {"macro": 0.518, "ci": [0.43, 0.62]}, "ROC": {"macro": 0.718, "ci": None}}}
    write_json(folder / "clinkd" / "metrics.json", metrics | {"stages": stages})
    parsed = build([folder], tmp_path)
    row = next(row for row in main_table(parsed) if row[0] == "the teacher")
    assert parsed.faults == [] and row[1:4] == ["51.8043.0–62.0", "71.80", "–"]


def test_blind_answers_name_their_rows_and_equal_ones_are_there_once(tmp_path):
    entry = {"macro": 0.5, "task": "ROC"}
    rows = [prediction(n, [""], 0, 1.0) for n in range(8)]
    sources = ("10 rows of a", "10 rows of a", "20 rows of b", None)
    folders = [write_run(tmp_path / name, rows, blind_ROC=entry) for name in "wxyz"]
    for folder, source in zip(folders, sources, strict=True):
        metrics = read_json(folder / "clinkd" / "metrics.json")
        write_json(folder / "clinkd" / "metrics.json", metrics | ({"baselines_from": source} if source else {}))
    heads = [row[0] for row in main_table(build(folders, tmp_path)) if row[0].startswith("blind")]
    named = ("10 rows of a", "20 rows of b", "training rows that are not recorded")
    assert heads == [f"blind answersfrom {each}beside {run}" for each, run in zip(named, "wyz", strict=True)]


def test_blind_answers_of_all_tasks_are_one_row(tmp_path):
    rows = [prediction(n, [""], 0, 1.0) for n in range(8)]
    blind = {f"blind_{task}": {"macro": number / 8, "task": task} for number, task in enumerate(("VG", "ROC", "RC"))}
    table = main_table(build([write_run(tmp_path / "run", rows, **blind)], tmp_path))
    assert [row[1:] for row in table if row[0].startswith("blind")] == [["0.00", "12.50", "25.00", "–", "–"]]


def test_bare_run_reports_what_is_missing_and_invents_nothing(tmp_path):
    (tmp_path / "bare" / "clinkd").mkdir(parents=True)
    parsed = build([tmp_path / "bare"], tmp_path)
    assert parsed.faults == [] and parsed.cards == []
    for name in ("state.json", "metrics.json", "predictions.jsonl", "pseudo_labels.jsonl"):
        assert f"clinkd/{name} does not exist" in parsed.text
    for sentence in ("corrections has no round", "No training phase wrote a log", "no attention maps", "not recorded"):
        assert sentence in parsed.text
    assert not any(tag == "img" for tag, _ in parsed.elements)


def test_unreadable_parts_are_named_with_the_reason(run_dir, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(run_dir, folder)
    (folder / "clinkd" / "metrics.json").write_text("{", encoding="utf-8")
    (folder / "clinkd" / "predictions.jsonl").write_text("nonsense\n", encoding="utf-8")
    (folder / "clinkd" / "corrections" / "round-2.summary.json").unlink()
    (folder / "clinkd" / "attention" / "torn.png").write_bytes(b"\x89PNG")
    text = build([folder], tmp_path).text
    assert "metrics.json cannot be read" in text
    assert "predictions.jsonl, line 1: not a JSON object" in text
    assert "Round 2 has no summary" in text
    assert "torn.png cannot be read as an image" in text


def test_missing_image_is_reported_in_its_example_and_the_boxes_are_named(tmp_path):
    folder = tmp_path / "run"
    rows = [prediction(0, [str(tmp_path / "ct_gone.png")], 0, 1.0)]
    write_jsonl(folder / "clinkd" / "predictions.jsonl", rows)
    parsed = build([folder], tmp_path)
    assert "ct_gone.png was not found: name its folder with --image-dir. Boxes: true box (" in parsed.text
    assert len(parsed.cards) == 1


def test_text_of_the_data_cannot_become_markup(tmp_path):
    hostile = "<script>alert(1)</script><img src=https://elsewhere/x.png>"
    row = {**prediction(3, [""], 0, 1.0), "question": hostile, "response": hostile, "annotation": hostile,
           "modality": hostile, "scorer": hostile, "candidates": [{"text": hostile, "score": 1.0}] * 2}  # fmt: skip
    folder = tmp_path / "run"
    write_jsonl(folder / "clinkd" / "predictions.jsonl", [row, prediction(0, ["$x_1$_<b>.png"], 0, 1.0)])
    write_json(folder / "clinkd" / "state.json", {"format": 1, "phases": {hostile: {"inputs": {hostile: hostile}}}})
    parsed = build([folder], tmp_path)
    assert parsed.outward() == [] and parsed.faults == []
    assert [tag for tag, _ in parsed.elements].count("script") == 1
    assert hostile in parsed.text


def test_malformed_rows_and_fields_do_not_end_the_report(tmp_path):
    good = prediction(0, [""], 0, 1.0)
    rows = [{**good, "candidates": [None, {"text": 3}, {"text": "x", "score": "high", "rank": "a"}]}, {"id": 1},
            {**good, "candidates": "none", "image": 7, "response": None}, {**good, "id": [1]}]  # fmt: skip
    folder = tmp_path / "run"
    write_jsonl(folder / "clinkd" / "predictions.jsonl", rows)
    write_json(folder / "clinkd" / "metrics.json", {"tasks": {"VG": {}}, "baselines": {"mean_box": None}})
    write_json(folder / "clinkd" / "state.json", {"phases": {"distill": {"status": "started"}, "odd": 3}})
    write_jsonl(folder / "clinkd" / "corrections" / "round-1.jsonl", [{"status": "corrected"}, {"status": "rejected"}])
    parsed = build([folder], tmp_path)
    assert parsed.faults == [] and len(parsed.cards) >= 2


def test_comparison_shows_runs_side_by_side_with_the_alpha_sweep(sweep_dirs, tmp_path):
    parsed = build(sweep_dirs, tmp_path)
    assert parsed.faults == [] and parsed.outward() == []
    assert "Scores over alpha" in parsed.text and "differ in no other recorded key" in parsed.text
    vg = [card for card in parsed.cards if card[0][1]["data-task"] == "VG"]
    assert len(vg) == EXAMPLES_OF_TASK + 2 * EXTREMES
    for card in vg:
        assert sum("predicted" in attrs.get("class", "").split() for _, attrs in card) == len(sweep_dirs)
    assert all(name in parsed.text for name in ("demo", "weak", "strong"))


def test_no_sweep_between_runs_of_one_alpha(run_dir, tmp_path):
    shutil.copytree(run_dir, tmp_path / "again")
    parsed = build([run_dir, tmp_path / "again"], tmp_path)
    assert "Scores over alpha" not in parsed.text
    assert "The runs differ in no recorded key" in parsed.text


def test_the_same_run_gives_the_same_page(run_dir, page, tmp_path):
    again = build_report([run_dir], tmp_path / "report.html").read_text(encoding="utf-8")
    dates = re.compile(r"written \d{4}-\d\d-\d\d \d\d:\d\d UTC")
    assert dates.sub("", again) == dates.sub("", page)


@pytest.mark.slow
def test_thirty_thousand_predictions_make_a_page_below_ten_megabytes(run_dir, tmp_path):
    folder = tmp_path / "large"
    shutil.copytree(run_dir, folder)
    rows = read_jsonl(run_dir / "clinkd" / "predictions.jsonl")
    many = [{**rows[number % len(rows)], "id": f"{number}"} for number in range(30_000)]
    write_jsonl(folder / "clinkd" / "predictions.jsonl", many)
    write_jsonl(folder / "clinkd" / "pseudo_labels.jsonl", [{**row, "pseudo_label": row["response"]} for row in many])
    metrics = json.loads((folder / "clinkd" / "metrics.json").read_text(encoding="utf-8"))
    metrics["problems"] = [{"row": n, "reason": "no ground truth", "outcome": "left out"} for n in range(5_000)]
    write_json(folder / "clinkd" / "metrics.json", metrics)
    start = time.monotonic()
    out = build_report([folder], tmp_path / "report.html")
    print(f"30,000 predictions: {time.monotonic() - start:.1f} s, {out.stat().st_size / 1e6:.2f} MB")
    assert out.stat().st_size < 10e6
    parsed = Page(out.read_text(encoding="utf-8"))
    assert len(parsed.cards) == 4 * (EXAMPLES_OF_TASK + 2 * EXTREMES) and "30,000 answers read" in parsed.text


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder `clinkd`"):
        build_report([tmp_path], tmp_path / "report.html")
    with pytest.raises(ValueError, match="No run was given"):
        build_report([], tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (42.4, "42 s"),
        (59.9, "1 min 00 s"),
        (425, "7 min 05 s"),
        (7620, "2 h 07 min"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.slow
def test_evaluated_captions_are_shown(tmp_path):
    folder = make_run(tmp_path / "small", questions=16, images=4, captions=True)
    mia = read_json(folder / "clinkd" / "metrics.json")["tasks"]["MIA"]
    parsed = build([folder], tmp_path)
    assert parsed.faults == []
    for key in ("bleu_1", "rouge_l", "cider"):
        assert f"{100 * mia[key]:.2f}" in parsed.text


def vqa_row(number: int, **changes) -> dict:
    answer = ("yes", "left lung")[number % 2]
    question = ("Is it normal?", "Where is the lesion?")[number % 2]
    row = {"id": number, "image": f"{number}.png", "question": question, "annotation": answer, "response": answer,
           "task": "VQA", "modality": "x", "candidates": []}  # fmt: skip
    return row | changes


def main_table(parsed: Page) -> list[list[str]]:
    """The texts of the cells of the table of all methods."""
    table = re.search(r"<caption>Scores in percent.*?</table>", parsed.source, re.DOTALL)[0]
    cells = [re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL) for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)]
    return [[re.sub(r"<[^>]*>", "", cell).strip() for cell in row] for row in cells]


def write_run(folder, rows, **baselines):
    metrics = evaluate_predictions(rows, resamples=50, parser="rules") | {"baselines": baselines}
    write_json(folder / "clinkd" / "metrics.json", metrics)
    write_jsonl(folder / "clinkd" / "predictions.jsonl", rows)
    return folder


def test_a_run_of_vqa_alone_has_its_scores_and_nothing_of_other_tasks(tmp_path):
    blind = {
        "blind_VQA": {"macro": 0.25, "task": "VQA", "n": 8, "closed": 4, "closed_accuracy": 0.25, "open_recall": None}
    }
    first = write_run(tmp_path / "first", [vqa_row(number) for number in range(8)], **blind)
    second = write_run(tmp_path / "second", [vqa_row(number, response="No.") for number in range(8)])
    for runs in ([first], [first, second]):
        parsed = build(runs, tmp_path)
        assert parsed.faults == []
        assert {card[0][1]["data-task"] for card in parsed.cards} == {"VQA"}
        assert not {"modalities", "modalities-title"} & set(parsed.ids)
        for absent in ("SPICE", "mBMR", "BiRD", "difference from ClinKD", "Table 3", "four tasks"):
            assert absent not in parsed.text, absent
    head, *rows = main_table(parsed)
    assert head == ["method", "VQA, closedaccuracy", "VQA, openrecall"]
    assert rows == [
        ["first", "100.00", "100.00"],
        ["second", "0.00", "0.00"],
        ["blind answersfrom training rows that are not recorded", "25.00", "–"],
    ]


def test_vqa_beside_the_papers_tasks_has_columns_of_its_own(tmp_path):
    rows = [vqa_row(number) for number in range(8)] + [prediction(0, [""], 0, 1.0)]
    folder = write_run(tmp_path / "run", rows)
    write_json(folder / "clinkd" / "state.json", {"format": 1, "phases": phases(0.5)})
    parsed = build([folder], tmp_path)
    head, own, *_, clinkd = main_table(parsed)
    assert head[-3:] == ["Average", "VQA, closedaccuracy", "VQA, openrecall"] and "mean of VG" in parsed.text
    assert own[-2:] == ["100.00", "100.00"] and clinkd[-3:] == ["71.53", "–", "–"]
    assert "set-ups, not how well the method was reproduced. The average is" in " ".join(parsed.text.split())


def test_training_data_that_only_the_recipe_names(tmp_path):
    folder = tmp_path / "run"
    predict = {"status": "finished", "inputs": {"dataset": ["mine_train"], "data_files": {"mine_test": "ab"}}}
    write_json(folder / "clinkd" / "state.json", {"format": 1, "phases": {"predict": predict}})
    assert "mine_train in the recipe; this folder has no training phase" in build([folder], tmp_path).text


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("VG", {}),
        ("ROC", {"modality": None}),
        ("RC", {"response": ""}),
        ("MIA", {"task": None, "answer_type": "OPEN"}),
        ("VQA", {"response": None, "modality": None}),
        ("MIXED", {}),
    ],
)
def test_one_row_makes_a_page(task, changes, tmp_path):
    row = vqa_row(0) if task in ("VQA", "MIXED") else prediction(("VG", "ROC", "RC", "MIA").index(task), [""], 0, 1.0)
    folder = tmp_path / "run"
    write_jsonl(folder / "clinkd" / "predictions.jsonl", [row | changes])
    write_jsonl(folder / "clinkd" / "pseudo_labels.jsonl", [row | {"task": task, "pseudo_label": "x"} | changes])
    parsed = build([folder], tmp_path)
    assert parsed.faults == [] and len(parsed.cards) == 1
    shown = changes.get("task", task) or "None"
    assert "Training rows that the teacher labelled by task" in parsed.source and f">{shown}</" in parsed.source
