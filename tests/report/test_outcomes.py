# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Best and worst answers, labels taken for others, comparisons, and the page's sections about them."""

import pytest

from llamafactory_clinkd.evaluate import evaluate_file, evaluate_predictions, java
from llamafactory_clinkd.report import build_report, outcomes
from llamafactory_clinkd.report.load import load_runs
from llamafactory_clinkd.report.outcomes import NO_LABEL, OTHER_LABELS, comparisons, confusion, row_quality
from llamafactory_clinkd.utils.io import write_json, write_jsonl

from .page_reader import Page
from .run_folder import make_run


BOX = "<box>(100,100),(300,300)</box>"


def run_of(folder, rows, metrics=None):
    write_jsonl(folder / "clinkd" / "predictions.jsonl", rows)
    if metrics is not None:
        write_json(folder / "clinkd" / "metrics.json", metrics)
    return folder


def roc(truth, response, number=0):
    columns = {"task": "ROC", "question": f"What is this? {number}", "annotation": truth, "response": response}
    return {"id": "1", "image": f"ct_{number}.png", **columns}


def vqa(number, question, answer, response, kind):
    columns = {"question": question, "annotation": answer, "response": response, "answer_type": kind, "organ": "CHEST"}
    return {"id": str(number), "image": f"ct_{number}.png", "task": "VQA", **columns}


@pytest.mark.parametrize(
    ("row", "quality"),
    [
        ({"task": "VG", "annotation": BOX, "response": "<box>(100,100),(300,200)</box>"}, 0.5),
        ({"task": "VG", "annotation": BOX, "response": "nowhere"}, 0.0),
        ({"task": "ROC", "annotation": "left kidney", "response": "The left kidney."}, 1.0),
        ({"task": "RC", "annotation": f"liver lesion {BOX}", "response": "liver"}, 2 / 3),
        ({"task": "VQA", "annotation": "yes", "response": "Yes, it is.", "answer_type": "CLOSED"}, 1.0),
        ({"task": "VQA", "annotation": "lung", "annotations": ["lung", "chest"], "response": "chest"}, 1.0),
    ],
)
def test_quality_of_one_answer(row, quality):
    assert row_quality(row) == pytest.approx(quality)


def test_labels_taken_for_others(tmp_path):
    rows = [roc(f"organ {n}", f"organ {n}", n) for n in range(9) for _ in range(3 if n < 8 else 1)]
    rows += [roc("left kidney", "It is the left kidney"), roc("kidney", "left kidney"), roc("kidney", "a kidney")]
    rows += [roc("organ 0", "organ 1"), roc("organ 0", "no idea"), roc("organ 0", "kidney")]
    found = confusion(load_runs([run_of(tmp_path / "run", rows)])[0])
    assert found["labels"][-2:] == [OTHER_LABELS, NO_LABEL] and found["labels"][0] == "organ 0"
    counts = {
        label: dict(zip(found["labels"], row, strict=True)) | {"all": total} for label, total, row in found["rows"]
    }
    first = counts["organ 0"]
    assert (first["all"], first["organ 0"], first["organ 1"], first[OTHER_LABELS], first[NO_LABEL]) == (6, 3, 1, 1, 1)
    assert sum(row["all"] for row in counts.values()) == len(rows)


def test_a_longer_label_is_not_taken_for_one_that_it_contains(tmp_path):
    rows = [roc("kidney", "right side"), roc("left kidney", "left kidney"), roc("liver", "left kidney")]
    found = confusion(load_runs([run_of(tmp_path / "run", rows)])[0])
    columns = found["labels"]
    liver = dict(zip(columns, next(row for label, _, row in found["rows"] if label == "liver"), strict=True))
    assert liver["left kidney"] == 1 and liver["kidney"] == 0


def test_runs_are_compared_with_the_first_and_other_questions_are_named(tmp_path):
    folders = [run_of(tmp_path / name, [roc("Liver", text, n) for n in range(6)]) for name, text in
               (("a", "spleen"), ("b", "liver"))]  # fmt: skip
    folders.append(run_of(tmp_path / "c", [roc("Heart", "heart")]))
    better, other = comparisons(load_runs(folders))
    assert better["name"] == "b minus a" and better["differences"][0]["difference"] == 1
    assert "of 1 rows and 6 to compare them with, 0 have" in other["problem"]
    parsed = Page(build_report(folders, tmp_path / "r.html").read_text(encoding="utf-8"))
    assert (
        parsed.faults == []
        and "b minus a" in parsed.text
        and "+100.00" in parsed.text
        and "Not compared" in parsed.text
    )


def test_one_meteor_scores_all_comparisons(tmp_path, monkeypatch):
    outside, users = java._meteor_users, []

    def compare(*_, **__):
        users.append(java._meteor_users - outside)
        return ({"differences": []},)

    monkeypatch.setattr(outcomes, "compare_predictions", compare)
    comparisons(load_runs([run_of(tmp_path / name, [roc("Liver", "liver")]) for name in "abc"]))
    assert users == [1, 1]
    assert java._meteor_users == outside


def test_a_page_and_the_terminal_give_the_same_comparison(tmp_path):
    folders = []
    for name, right in (("base", 5), ("run", 9), ("third", 12)):
        rows = [vqa(n, f"Is it a CT? {n}", "yes", "yes" if n < right else "no", "CLOSED") for n in range(14)]
        rows += [vqa(20 + n, f"Which? {n}", "lung", "lung" if n % 5 < right / 4 else "no", "OPEN") for n in range(14)]
        folders.append(run_of(tmp_path / name, rows))
    files = [folder / "clinkd" / "predictions.jsonl" for folder in folders]
    alone = evaluate_file(files[1])
    printed = evaluate_file(files[1], against=files[0])
    view = comparisons(load_runs(folders[:2]))[0]
    assert {key: printed["comparison"][key] for key in ("differences", "resamples", "seed", "comparisons")} == {
        key: view[key] for key in ("differences", "resamples", "seed", "comparisons")
    }
    assert [each["task"] for each in view["differences"]] == ["VQA", "VQA, closed", "VQA, open"]
    closed = view["differences"][1]
    assert (closed["difference"], closed["n"]) == (pytest.approx(4 / 14), 14)
    assert closed["ci"][0] < 4 / 14 < closed["ci"][1] and 0 < closed["p"] < 1
    assert {key: printed[key] for key in alone} == alone  # also with all intervals
    pages = comparisons(load_runs(folders))
    entries = sorted((each for page in pages for each in page["differences"]), key=lambda each: each["p"])
    assert [page["comparisons"] for page in pages] == [6, 6]
    assert entries[0]["p_holm"] == pytest.approx(min(1, 6 * entries[0]["p"]))


def test_vqa_selection_and_recall_curve_are_shown(tmp_path):
    rows = [vqa(1, "Is it a CT?", "yes", "no", "CLOSED"), vqa(2, "Which organ?", "lung", "the lung", "OPEN")]
    boxes = [BOX, "<box>(500,500),(600,600)</box>"]
    columns = {"task": "VG", "question": "Where?", "annotation": BOX, "response": BOX, "candidates": boxes[::-1]}
    rows += [{"id": "3", "image": f"ct_{n}.png", **columns} for n in (3, 4)]
    folder = run_of(tmp_path / "run", rows, evaluate_predictions(rows))
    text = build_report([folder], tmp_path / "r.html").read_text(encoding="utf-8")
    parsed = Page(text)
    assert parsed.faults == [] and "What selection is worth" in parsed.text and "best of n" in parsed.text
    assert "Visual question answering" in parsed.text and "organ CHEST" in parsed.text and 'id="recall-curve-' in text
    assert {card[0][1]["data-task"] for card in parsed.cards} == {"VG", "VQA"}


def test_two_runs_of_equal_caption_scores_both_have_their_name(tmp_path):
    folders = [make_run(tmp_path / name, questions=12, images=3) for name in ("one", "two")]
    text = build_report(folders, tmp_path / "r.html").read_text(encoding="utf-8")
    table = text[text.index('aria-label="Caption metrics"') :]
    table = table[: table.index("</table>")]
    assert [name in table for name in ("one</th>", "two</th>")] == [True, True]


def test_best_and_worst_answers_are_cards_of_their_own(page):
    cards = [card[0][1] for card in Page(page).cards if card[0][1]["data-task"] == "VG"]
    picks = [card["data-choice"] for card in cards]
    assert picks.count("best") == picks.count("worst") == 3
    answers = {
        pick: {card["data-answer"] for card in cards if card["data-choice"] == pick} for pick in ("best", "worst")
    }
    # The sample, which is taken first, depends on the pictures' paths, and may leave fewer than three right ones.
    assert "right" in answers["best"] and answers["worst"] == {"wrong"}


def test_no_answer_is_best_with_a_score_of_0_and_scores_below_the_blind_answers_are_named(tmp_path):
    rows = [vqa(n, f"Which organ? {n}", "lung", "lung" if n == 0 else "heart", "OPEN") for n in range(20)]
    rows += [roc("liver", "spleen", n) for n in range(20)]
    blind = {"blind_VQA": {"macro": 0.3394, "task": "VQA"}, "blind_ROC": {"macro": 0.0, "task": "ROC"}}
    metrics = evaluate_predictions(rows, resamples=50) | {"baselines": blind}
    parsed = Page(build_report([run_of(tmp_path / "run", rows, metrics)], tmp_path / "r.html").read_text("utf-8"))
    assert "Below the blind answers, which use no image: VQA 5.00 < 33.94." in parsed.text
    assert all(card[0][1]["data-answer"] != "wrong" for card in parsed.cards if card[0][1]["data-choice"] == "best")
    chosen = {card[0][1]["data-choice"] for card in parsed.cards if card[0][1]["data-task"] == "ROC"}
    assert chosen == {"sample", "worst"}


def test_no_picture_waits_for_the_reader_to_scroll(page):
    assert 'loading="lazy"' not in page
