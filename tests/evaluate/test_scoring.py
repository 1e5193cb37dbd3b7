# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json
import random
import subprocess
import sys

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from llamafactory_clinkd.evaluate import captions, evaluate_file, evaluate_predictions, metrics_table, progress_bar
from llamafactory_clinkd.evaluate.predictions import WRONG
from llamafactory_clinkd.utils.boxes import MODALITIES

from .test_predictions import malformed_lines


BOX = "<box>(100,100),(200,200)</box>"
MISS = "(700,700),(800,800)"


def vg(modality, response, annotation=BOX):
    return {"image": f"{modality}_1.png", "question": "Where is it?", "annotation": annotation, "response": response}


def roc(modality, response):
    return {"image": f"{modality}_1.png", "question": f"What is {BOX}?", "annotation": "Sacrum", "response": response}


def rc(modality, response):
    text = "The lesion is small and it lies in the liver."
    return {"image": f"{modality}_1.png", "question": f"Describe {BOX}.", "annotation": text, "response": response}


def mia(modality, response):
    text = "A CT of the abdomen with the liver."
    return {"image": f"{modality}_1.png", "question": "What can you see?", "annotation": text, "response": response}


@pytest.fixture
def no_java(monkeypatch):
    pytest.importorskip("pycocoevalcap", reason="needs the extra 'eval'")
    monkeypatch.setattr(captions, "java_command", lambda: None)


def test_a_task_score_is_the_mean_over_modalities_present():
    rows = [vg("ct", BOX), vg("ct", MISS), vg("ct", MISS), vg("mr", BOX), vg("mr", MISS, BOX + BOX)]
    metrics = evaluate_predictions(rows)
    task = metrics["tasks"]["VG"]
    assert task["metric"] == "recall@0.5"
    assert task["modalities"]["ct"]["value"] == pytest.approx(1 / 3)
    assert task["modalities"]["mr"]["value"] == pytest.approx(1 / 3)  # of targets, not of rows
    assert (task["modalities"]["mr"]["n"], task["modalities"]["mr"]["targets"]) == (2, 3)
    assert (task["n"], task["targets"]) == (5, 6)
    assert task["macro"] == metrics["average"] == pytest.approx(1 / 3)


def test_released_protocol_counts_absent_modalities_as_zero_and_unknown_ones_not_at_all():
    rows = [roc("ct", "sacrum"), roc("x", "sacrum"), roc("martian", "sacrum")]
    present, released = (evaluate_predictions(rows, protocol=name)["tasks"]["ROC"] for name in ("present", "released"))
    assert present["macro"] == 1
    assert released["macro"] == 2 * (1 / (1 + 1e-8)) / 8
    assert released["ci"] is None
    assert set(present["modalities"]) == set(released["modalities"]) == {"ct", "x", "other"}


def test_all_four_tasks_and_their_average(no_java):
    rows = [
        vg("ct", BOX),
        roc("ct", "liver"),
        rc("ct", "The lesion is small and it lies in the liver."),
        mia("ct", "A CT."),
    ]
    metrics = evaluate_predictions(rows, parser="rules")
    tasks = metrics["tasks"]
    assert [tasks[name]["metric"] for name in tasks] == ["recall@0.5", "recall", "SPICE-approx (rules)", "mBMR"]
    assert [tasks[name]["macro"] for name in tasks] == [1, 0, 1, None]
    assert metrics["average"] == pytest.approx(2 / 3)
    assert metrics["average_of"] == ["VG", "ROC", "RC"]
    assert tasks["MIA"]["meteor"] is None and tasks["MIA"]["mbmr_bird"] is None
    assert 0 < tasks["MIA"]["bleu_1"] < 1 and tasks["MIA"]["rouge_l"] > 0
    assert tasks["MIA"]["tokenizer"] == captions.PLAIN
    assert "METEOR is missing" in metrics["notes"][0]
    json.dumps(metrics, allow_nan=False)


@pytest.mark.slow
@pytest.mark.skipif(captions.java_command() is None, reason="no `java` on the path")
def test_mia_with_java():
    rows = [mia("ct", "A CT of the abdomen with the liver."), mia("ct", "liver") | {"image": "ct_2.png"}]
    rows.append(mia("mr", "An MR image."))
    metrics = evaluate_predictions(rows)
    task = metrics["tasks"]["MIA"]
    assert metrics["notes"] == ["Rows without `task`, scored by their form: MIA 3."]
    assert metrics["average"] == task["macro"]
    for part in (task, *task["modalities"].values()):
        parts = [part[key] for key in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l")]
        assert part.get("macro", part.get("value")) == pytest.approx(np.mean(parts))
        assert part["mbmr_bird"] == pytest.approx(np.mean(parts[3:]))
    assert task["ci"] is None  # two images and one are too few for an interval


def test_intervals_are_those_of_recomputed_resamples_of_the_images():
    rows = [vg("ct", BOX if i % 3 else MISS) | {"image": f"ct_{i}.png"} for i in range(30)]
    metrics = evaluate_predictions(rows, resamples=200, seed=4, confidence=0.9)
    rng, hits = np.random.default_rng(4), np.array([float(bool(i % 3)) for i in range(30)])
    recalls = [hits[rng.integers(30, size=30)].mean() for _ in range(200)]
    tail = stats.norm.cdf(np.sqrt(30 / 29) * stats.t.ppf(0.05, 29))
    assert metrics["tasks"]["VG"]["ci"] == pytest.approx(list(np.quantile(recalls, [tail, 1 - tail])))
    assert metrics["tasks"]["VG"]["modalities"]["ct"]["ci"] == metrics["tasks"]["VG"]["ci"] == metrics["ci"]
    assert metrics["tasks"]["VG"]["modalities"]["ct"]["clusters"] == 30 and metrics["resampled_by"] == "image"
    assert evaluate_predictions(rows, resamples=200, seed=4, confidence=0.9) == metrics
    assert evaluate_predictions(rows, resamples=0)["tasks"]["VG"]["ci"] is None


def test_one_patient_alone_has_no_interval_and_a_note():
    rows = [vg("ct", BOX if i % 3 else MISS) | {"patient": "7"} for i in range(30)]
    metrics = evaluate_predictions(rows)
    assert metrics["ci"] is None and metrics["tasks"]["VG"]["modalities"]["ct"]["ci"] is None
    assert metrics["notes"][0] == "No interval of VG ct: fewer than 5 clusters (patient)."


def test_malformed_rows_are_listed_and_the_rest_is_evaluated(tmp_path):
    path = tmp_path / "a.jsonl"
    good = json.dumps(vg("ct", BOX)).encode()
    lines = malformed_lines()
    path.write_bytes(b"".join(good + b"\n" + line + b"\n" for line, _, _ in lines))
    metrics = evaluate_file(path)
    wrong = sum(outcome == WRONG for _, outcome, _ in lines)
    assert len(metrics["problems"]) == 200
    assert metrics["rows"] == {
        "read": 400,
        "evaluated": 200 + wrong,
        "counted_wrong": wrong,
        "left_out": 200 - wrong,
    }
    assert metrics["tasks"]["VG"]["macro"] == pytest.approx(200 / (200 + wrong))


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([], {}, "None of 0 rows"),
        ([{}, 5], {}, "None of 2 rows.*row 1: fields of no known format"),
        ([vg("ct", BOX)], {"protocol": "paper"}, "present or released"),
        ([vg("ct", BOX)], {"confidence": 95}, "confidence"),
        ([vg("ct", BOX)], {"resamples": -1}, "resamples"),
    ],
)
def test_errors(rows, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate_predictions(rows, **options)


def test_table_shows_every_modality_task_and_note(no_java):
    rows = [vg("ct", BOX), vg("pet", MISS), roc("mr", "sacrum"), rc("ct", ""), mia("x", "A CT.")]
    rows += [vg("ct", BOX) | {"image": f"ct_{number}.png"} for number in range(5)]
    console = Console(width=140, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(metrics_table(evaluate_predictions(rows, parser="rules")))
    text = console.export_text()
    for word in (
        "ct",
        "pet",
        "mr",
        "recall@0.5",
        "SPICE-approx (rules)",
        "mBMR",
        "100.00",
        "METEOR is missing",
        "95% interval, by image",
    ):
        assert word in text
    assert "1 counted wrong, 0 left out" in text


def test_progress_bar_has_a_bar_for_each_stage(tmp_path):
    rng = random.Random(0)
    rows = [rc(rng.choice(MODALITIES), f"liver {i}") for i in range(250)]
    with open(tmp_path / "out", "w") as file:
        with progress_bar(Console(file=file, force_terminal=True, width=100)) as progress:
            evaluate_predictions(rows, parser="rules", progress=progress)
    assert "SPICE-approx" in (tmp_path / "out").read_text()


def test_every_stage_is_reported_to_its_end():
    last = {}
    rows = [rc("ct", f"liver {i}") for i in range(152)]
    rows += [row | {"task": "MIA"} for row in rows[:112]]
    evaluate_predictions(
        rows, parser="rules", resamples=0, progress=lambda stage, done, total: last.update({stage: (done, total)})
    )
    assert last and all(done == total for done, total in last.values()), last


def test_importing_the_package_is_cheap():
    code = "import sys, llamafactory_clinkd.evaluate as e; assert 'numpy' not in sys.modules; e.evaluate_predictions; "
    code += "assert not {'torch', 'spacy', 'pycocoevalcap', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
