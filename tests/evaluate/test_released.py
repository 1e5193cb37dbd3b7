# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The released protocol against what the authors' scripts print, and against their rules written a second time."""

import json
import os
import random
import re
from pathlib import Path

import pytest

from llamafactory_clinkd.evaluate import evaluate_file, evaluate_predictions
from llamafactory_clinkd.utils.boxes import MODALITIES


CASES = Path(os.environ.get("CLINKD_SHARED", Path(__file__).parents[3] / "shared"), "cases")


@pytest.mark.skipif(not CASES.exists(), reason="the authors' scripts' output is not here (set CLINKD_SHARED)")
@pytest.mark.parametrize("task", ["VG", "ROC"])
def test_equal_to_the_authors_scripts_to_the_last_digit(task):
    expected = json.loads((CASES / "released_expected.json").read_text())[task]
    metrics = evaluate_file(CASES / f"released_{task.lower()}.jsonl", protocol="released", resamples=0)
    found = metrics["tasks"][task]
    assert found["macro"] == expected.pop("macro")
    assert {name: found["modalities"].get(name, {"value": 0.0})["value"] for name in MODALITIES} == expected


def cleaned(text):
    if ".<|im_end|>" in text:
        text = text[: text.index(".<|im_end|>")] + "."
    text = "".join(text.split("<|im_end|>\n"))
    between = re.search("\n((?:.|\n)*?)\n", text)
    return "".join((between[1] if between else text).split("<|endoftext|>")).strip()


def numbers(text):
    return [float(part) for part in re.sub(r"[()]", "", text).split(",")]


def is_hit(predicted, target):
    """The script's inner loop, one number at a time; any failure within it is no hit."""
    try:
        a = numbers(predicted)
    except ValueError:
        return False
    b = numbers(target)
    if len(a) != 4 or len(b) != 4:
        return False
    width, height = (max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1))
    both = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    if union == 0:
        return both > 0
    return both / union > 0.5


def vg_score(rows):
    """Modality means of matched targets over targets, by the rules of ``eval_VG.py``."""
    right, total = dict.fromkeys(MODALITIES, 0), dict.fromkeys(MODALITIES, 0)
    for row in rows:
        name, response = row["image"].split("_")[0], cleaned(row["response"])
        targets = re.findall("<box>(.*?)</box>", row["annotation"])
        boxes = re.findall("<box>(.*?)</box>", response)
        if not boxes:
            boxes = re.findall(r"\(\d+,\d+\),\(\d+,\d+\)", response)
        total[name] += len(targets)
        right[name] += sum(any(is_hit(box, target) for box in boxes) for target in targets)
    return {name: right[name] / (total[name] + 1e-8) for name in MODALITIES}


def roc_score(rows):
    right, total = dict.fromkeys(MODALITIES, 0), dict.fromkeys(MODALITIES, 0)
    for row in rows:
        name, response = row["image"].split("_")[0], cleaned(row["response"]).lower()
        total[name] += 1
        right[name] += all(part in response for part in row["annotation"].lower().split(" "))
    return {name: right[name] / (total[name] + 1e-8) for name in MODALITIES}


BOX_FORMS = [
    "<box>({},{}),({},{})</box>",
    "({},{}),({},{})",
    "<box>({}, {}), ({}, {})</box>",
    "({}, {}), ({}, {})",
    "<box>({2},{3}),({0},{1})</box>",
    "<box>({2},{1}),({0},{3})</box>",
    "({2},{3}),({0},{1})",
    "<box>({},{},{},{})</box>",
    "<box>{},{},{},{}</box>",
    "<box>({},{}),({}</box> or ({},{}),({},{})",
    "<box>({},{}),({},{})",
    "({},{}),({},{})</box>",
    "<|box_start|>({},{}),({},{})<|box_end|>",
    "<BOX>({},{}),({},{})</BOX>",
    "<box><box>({},{}),({},{})</box></box>",
    "<box>[{},{},{},{}]</box>",
    "[{}, {}, {}, {}]",
    "<box>({}.5,{}.25),({}.5,{}.0)</box>",
    "({}.5,{}),({},{})",
    "<box>({},{}),({},{}),(7,8)</box>",
    "<box>({},{}),({},{}),({},{}),({},{})</box>",
    "<box>\n({},{}),({},{})\n</box>",
    "<box></box>",
    "<box>liver</box>",
    "<box>({},{}),(nan,{})</box>",
    "<box>(inf,{}),({},{})</box>",
    "<box>(1e2,{}),({},{})</box>",
    "<box>(-{},-{}),({},{})</box>",
    "<box>(1_0,{}),({},{})</box>",
    "<box>(\uff11\uff12,{}),({},{})</box>",
    "(\uff11\uff12,{}),({},{})",
    "<ref>liver</ref><box>({},{}),({},{})</box>",
    "\uff08{}\uff0c{}\uff09\uff0c\uff08{}\uff0c{}\uff09",
    "<box>({},{}),({},{}),</box>",
    "I cannot see it.",
    "",
    "<think>no</think><box>({},{}),({},{})</box>",
    '```json\n[{{"bbox_2d": [{}, {}, {}, {}]}}]\n```',
    "<box>({0},{0}),({0},{0})</box>",
    "<box>({},{}) ({},{})</box>",
    "({},{}) ({},{})",
    "<box>({}\t,{}),({},{})</box>",
]
ENDS = [
    "",
    ".<|im_end|>\nmore (1,2),(3,4)",
    "<|im_end|>\n",
    "<|endoftext|>",
    "\n",
    "\nsecond line\nthird",
    " ",
    ".",
    "</s>",
]
STARTS = ["", "assistant\n", "It is at ", "\n", " ", "\n\n", "<|im_end|>\n"]


def odd_vg_row(rng):
    x, y = rng.randrange(700), rng.randrange(700)
    targets = [
        (x, y, x + rng.randrange(40, 300), y + rng.randrange(40, 300)) for _ in range(rng.choice([1, 1, 1, 2, 3]))
    ]
    annotation = "".join(f"<ref>liver</ref><box>({a},{b}),({c},{d})</box>" for a, b, c, d in targets)
    if rng.random() < 0.1:
        annotation = rng.choice(
            [annotation.replace("box>", "BOX>"), annotation + "<box>(1,2),(3,4),(5,6),(7,8)</box>", "liver"]
        )
    parts = []
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        shift = rng.choice([0, 5, 30, 200])
        values = [max(value + rng.randint(-shift, shift), 0) for value in rng.choice(targets)]
        parts.append(rng.choice(BOX_FORMS).format(*values, *values))
    response = rng.choice(STARTS) + rng.choice([" ", ", ", "", "\n"]).join(parts) + rng.choice(ENDS)
    return {"image": f"{rng.choice(MODALITIES)}_1.png", "annotation": annotation, "response": response, "task": "VG"}


def odd_roc_row(rng):
    words = ["Left", "hip", "<ref>Sacrum</ref>", "Sacrum", "lung,", "", "hip\nbone", "İliac", "."]
    annotation = " ".join(rng.choice(words) for _ in range(rng.choice([1, 1, 2, 3])))
    guess = rng.choice(
        [annotation, annotation.upper(), annotation.replace(" ", "-"), "the hip", "", "ship", "Sacrum."]
    )
    response = rng.choice(STARTS) + guess + rng.choice(ENDS)
    return {"image": f"{rng.choice(MODALITIES)}_1.png", "annotation": annotation, "response": response, "task": "ROC"}


@pytest.mark.parametrize(("make", "score"), [(odd_vg_row, vg_score), (odd_roc_row, roc_score)], ids=["VG", "ROC"])
def test_equal_to_the_rules_on_thousands_of_odd_answers(make, score):
    rng = random.Random(7)
    rows = [make(rng) for _ in range(8000)]
    expected = score(rows)
    metrics = evaluate_predictions(rows, protocol="released", resamples=0)
    (found,) = metrics["tasks"].values()
    assert {name: entry["value"] for name, entry in found["modalities"].items()} == expected
    assert found["macro"] == sum(expected.values()) / 8
    assert 0.1 < found["macro"] < 0.8 and metrics["rows"]["evaluated"] == 8000


@pytest.mark.parametrize("make", [odd_vg_row, odd_roc_row])
def test_each_odd_answer_alone(make):
    score = vg_score if make is odd_vg_row else roc_score
    rng = random.Random(3)
    for row in (make(rng) for _ in range(1500)):
        (found,) = evaluate_predictions([row], protocol="released", resamples=0)["tasks"].values()
        assert found["macro"] == sum(score([row]).values()) / 8, row


def test_what_the_script_cannot_score_is_left_out_or_noted():
    box = "<box>(1,2),(30,40)</box>"
    row = {"image": "ct_1.png", "annotation": box, "response": box, "task": "VG"}
    broken = {**row, "annotation": "<box>liver</box>"}  # the script ends there
    qwen2 = {**row, "annotation": "<|box_start|>(1,2),(30,40)<|box_end|>"}
    unknown = {**row, "image": "histology_1.png"}
    metrics = evaluate_predictions([row, broken, qwen2, unknown], protocol="released", resamples=0)
    assert metrics["tasks"]["VG"]["modalities"]["ct"]["value"] == 1 / (1 + 1e-8)
    assert [(p["row"], p["outcome"]) for p in metrics["problems"]] == [(2, "left out")]
    assert (
        "1 VG rows have no <box>" in metrics["notes"][0] and "1 rows are of none of the eight" in metrics["notes"][1]
    )


@pytest.mark.parametrize(
    ("image", "modality", "known"),
    [
        ("ct_1.png", "MRI", "ct"),  # the script reads the image's name alone
        ("a.png", "MRI", "mr"),
        ("a.png", "X-Ray", "x"),
        ("a.png", "us", "ultrasound"),
        ("a.png", "colonoscopy", "endoscopy"),
        ("XRAY_3.png", None, "x"),
        ("a.png", "histology", "other"),
    ],
)
def test_modalities_by_other_names_score(image, modality, known):
    row = {"image": image, "modality": modality, "annotation": "hip", "response": "hip", "task": "ROC"}
    found = evaluate_predictions([row], protocol="released", resamples=0)["tasks"]["ROC"]
    assert list(found["modalities"]) == [known]
    assert found["macro"] == (0 if known == "other" else 1 / (1 + 1e-8) / 8)


def test_captions_are_rounded_as_in_the_scripts(monkeypatch):
    pytest.importorskip("pycocoevalcap", reason="needs the extra 'eval'")
    from llamafactory_clinkd.evaluate import captions

    from .test_captions_ngrams import bleu

    monkeypatch.setattr(captions, "java_command", lambda: None)
    texts = [("a dark mass in the liver", "a mass in the left liver"), ("clear lungs", "clear big lungs")] * 2
    rows = [
        {"image": f"{name}_1.png", "annotation": a, "response": r, "task": "MIA"}
        for (a, r), name in zip(texts, ("ct", "ct", "mr", "x"), strict=True)
    ]
    found = evaluate_predictions(rows, protocol="released", resamples=0)["tasks"]["MIA"]
    of_modality = []
    for name in ("ct", "mr", "x"):
        pairs = [pair for pair, row in zip(texts, rows, strict=True) if row["image"].startswith(name)]
        truths, answers = ({i: [pair[side]] for i, pair in enumerate(pairs)} for side in (0, 1))
        of_modality.append(round(bleu.Bleu(4).compute_score(truths, answers, verbose=0)[0][0], 6))
    assert [found["modalities"][name]["bleu_1"] for name in ("ct", "mr", "x")] == of_modality
    assert found["bleu_1"] == round(sum(of_modality) / 8, 6)
