# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Two sets of answers: the differences, their p values, and what is not compared."""

import random

import numpy as np
import pytest
from rich.console import Console

from llamafactory_clinkd.evaluate import compare_predictions, comparison_table, evaluate_file
from llamafactory_clinkd.utils.io import write_jsonl


def answers(skill, *, seed=0, patients=40, folder="data"):
    """Labels of 5 slices of each patient, in two modalities; a model knows a patient's organ or does not."""
    rows = []
    for patient in range(patients):
        name = "ct_00" if patient % 2 else "mr_t1"
        known = random.Random(f"{seed} {patient}").random() < skill
        for number in range(5):
            luck = random.Random(f"{seed} {patient} {number}").random() < 0.2
            image = f"{folder}/{name}--SET--case_{patient}--x_{number:04}.png"
            rows.append({
                "image": image, "task": "ROC", "question": f"What is this? {number}", "annotation": "Liver",
                "response": "liver" if known or luck else "spleen",
            })  # fmt: skip
    return rows


def roc(comparison, modality=None):
    return next(each for each in comparison["differences"] if (each["task"], each["modality"]) == ("ROC", modality))


def test_differences_are_of_the_same_rows_whatever_their_order():
    better, worse = answers(0.9, seed=1), answers(0.3, seed=2)
    comparison, mine, theirs = compare_predictions(better, random.Random(0).sample(worse, len(worse)), resamples=2000)
    found = roc(comparison)
    assert found["difference"] == mine["tasks"]["ROC"]["macro"] - theirs["tasks"]["ROC"]["macro"] > 0.3
    low, high = found["ci"]
    assert 0 < low < found["difference"] < high and found["p"] < 0.01
    assert comparison["resampled_by"] == "patient" and comparison["clusters"] == 40
    assert {each["modality"] for each in comparison["differences"]} == {None, "ct", "mr"} and comparison[
        "comparisons"
    ] == 3
    assert found["p"] <= found["p_holm"] <= 3 * found["p"] + 1e-12


def test_the_interval_is_that_of_the_differences_of_each_patient():
    """With equally many slices of every patient, the macro is the mean over patients: drawn here by themselves."""
    first, second = answers(0.6, seed=3), answers(0.5, seed=4)
    found = roc(compare_predictions(first, second, resamples=4000)[0], "ct")
    right = np.array(
        [[row["response"] == "liver" for row in rows if "ct_00" in row["image"]] for rows in (first, second)]
    )
    means = (right[0] * 1.0 - right[1]).reshape(20, 5).mean(axis=1)
    assert found["difference"] == pytest.approx(means.mean())
    draws = np.random.default_rng(9).choice(means, (20_000, 20)).mean(axis=1) - means.mean()
    expanded = 2.093 / 1.96 * np.sqrt(20 / 19)  # t of 19 degrees of freedom over z, and the variance's own factor
    low, high = (means.mean() + expanded * np.quantile(draws, tail) for tail in (0.025, 0.975))
    assert found["ci"] == pytest.approx([low, high], abs=0.03)


def test_equal_answers_do_not_differ():
    found = roc(compare_predictions(answers(0.5), answers(0.5), resamples=200)[0])
    assert found["difference"] == 0 and found["ci"] == [0, 0] and found["p"] == 1 and found["p_holm"] == 1


def test_holm_among_many_comparisons():
    from llamafactory_clinkd.evaluate.compare import _add_holm

    entries = [{"p": p} for p in (0.01, 0.04, 0.03, 0.005)]
    _add_holm(entries)
    assert [each["p_holm"] for each in entries] == pytest.approx([0.03, 0.06, 0.06, 0.02])  # R's p.adjust, "holm"


@pytest.mark.parametrize(
    ("others", "matching"),
    [
        (answers(0.5, patients=30), "200 rows and 150 to compare them with, 150 have"),
        ([row | {"annotation": "Heart"} for row in answers(0.5)], "200 to compare them with, 0 have"),
        ([*answers(0.5)[:-1], answers(0.5)[0]], "200 to compare them with, 199 have"),
    ],
)
def test_other_questions_are_refused_with_how_many_match(others, matching):
    with pytest.raises(ValueError, match=matching):
        compare_predictions(answers(0.5), others, resamples=10)


def test_images_of_another_folder_are_matched_by_name_where_names_are_unique():
    moved = answers(0.2, folder="/elsewhere/pictures")
    assert roc(compare_predictions(answers(0.8), moved, resamples=50)[0])["n"] == 200
    twice = [row | {"image": f"{folder}/1.png"} for folder, row in zip("ab", answers(0.5)[:1] * 2, strict=True)]
    with pytest.raises(ValueError, match="0 have the same image"):
        compare_predictions(twice, [row | {"image": f"x{row['image']}"} for row in twice], resamples=50)


def test_file_against_file_and_the_table(tmp_path):
    for name, rows in (("a", answers(0.9, seed=1)), ("b", answers(0.3, seed=2))):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    metrics = evaluate_file(tmp_path / "a.jsonl", against=tmp_path / "b.jsonl")
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(comparison_table(metrics["comparison"], ("a", "b")))
    text = " ".join(console.export_text().split())
    assert "corrected for 3 comparisons (Holm)" in text and "40 clusters (patient)" in text and "ROC (recall)" in text
