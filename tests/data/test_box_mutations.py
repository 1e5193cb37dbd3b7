# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Boxes in every form and unit, damaged in every way, and files damaged anywhere: nothing is wrong in silence."""

import json
import random

import pytest

from llamafactory_clinkd.data.convert import Options, convert
from llamafactory_clinkd.data.reader import BrokenFileError
from llamafactory_clinkd.utils.box_forms import unread_numbers
from llamafactory_clinkd.utils.boxes import parse_boxes

from .samples import COCO_IMAGE, QUESTION, draw, write_source


FORMS = {
    "qwen2_vl": "<|box_start|>({},{}),({},{})<|box_end|>",
    "qwen_vl": "<ref>liver</ref><box>({},{}),({},{})</box>",
    "internvl": "<ref>liver</ref><box>[[{}, {}, {}, {}]]</box>",
    "blanks": "<box>{} {} {} {}</box>",
    "bbox": "<bbox>{},{},{},{}</bbox>",
    "pairs": "The liver is at ({}, {}), ({}, {}).",
    "list": "[{}, {}, {}, {}]",
    "round": "It lies at ({}, {}, {}, {}) here.",
    "json": '{{"bbox_2d": [{}, {}, {}, {}], "label": "liver"}}',
    "json list": '```json\n[\n\t{{"bbox_2d": [{}, {}, {}, {}], "label": "liver"}}\n]\n```',
    "nested": "[[{}, {}], [{}, {}]]",
}
SIZE = (640, 480)
UNITS = {"thousandths": (1000, 1000), "fractions": (1, 1), "pixels": SIZE}
DAMAGES = ("none", "inverted", "outside", "negative", "nan", "three", "five", "empty", "word", "unit")


def damaged(numbers, how, far, rng):
    """The four numbers as texts after one damage."""
    x1, y1, x2, y2 = texts = list(numbers)
    if how == "inverted":
        return [x2, y1, x1, y2] if rng.random() < 0.5 else [x1, y2, x2, y1]
    if how == "empty":
        return [x1, y1, x1, y2]
    index = rng.randrange(4)
    texts[index] = {
        "none": texts[index],
        "outside": str(far * 3 + 7),
        "negative": f"-{texts[index]}",
        "nan": rng.choice(["nan", "NaN", "inf"]),
        "three": "",
        "five": f"{texts[index]}, {texts[index]}",
        "word": "left",
    }[how]
    return texts


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("form", FORMS)
def test_a_box_is_right_or_set_aside_or_counted(tmp_path, form, unit):
    """330 rows: 11 forms, 3 units, 10 damages; the good rows beside them fix the unit of the file."""
    rng = random.Random(f"{form} {unit}")
    width, height = UNITS[unit]
    draw(tmp_path, "a.jpg", SIZE)
    rows, truths = [], []
    for number, how in enumerate(("none",) * 40 + DAMAGES):
        x1, x2 = sorted(rng.sample(range(50, 950), 2))
        y1, y2 = sorted(rng.sample(range(50, 950), 2))
        x2, y2 = max(x2, x1 + 40), max(y2, y1 + 40)
        if unit == "fractions":
            numbers = [f"{value / 1000:.3f}" for value in (x1, y1, x2, y2)]
        else:
            numbers = [
                str(round(v * far / 1000)) for v, far in zip((x1, y1, x2, y2), (width, height) * 2, strict=True)
            ]
        if how == "unit":  # another unit than the file's
            numbers = (
                [f"{v / 1000:.3f}" for v in (x1, y1, x2, y2)] if unit != "fractions" else ["100", "200", "300", "400"]
            )
        else:
            numbers = damaged(numbers, how, max(width, height), rng)
        rows.append(QUESTION | {"question_id": number, "answer": FORMS[form].format(*numbers)})
        truths.append((how, (x1, y1, x2, y2)))
    options = Options(image_folder=tmp_path, coordinates="auto" if unit != "pixels" else "pixels")
    done = convert(write_source(tmp_path / "rows.json", rows), tmp_path / "out", name="set", options=options)
    assert done.unit == unit
    assert done.rows_in == len(rows) == done.converted + done.rejected
    answers = {row["question_id"]: row["messages"][1]["content"] for row in json.loads(done.path.read_text())}
    unread = 0
    for number, (how, truth) in enumerate(truths):
        if how == "none":
            (found,) = parse_boxes(answers[str(number)])
            assert max(abs(a - b) for a, b in zip(found, truth, strict=True)) <= (2 if unit == "pixels" else 0), form
        elif str(number) in answers:
            answer = answers[str(number)]
            assert parse_boxes(answer) == [], (how, answer)
            no_box = form in ("pairs", "nested") and how in ("three", "word")  # a point beside a bracket
            assert unread_numbers(answer) or no_box, (how, answer)
            unread += bool(unread_numbers(answer))
    assert done.unread == unread


FILES = {
    "rows.json": lambda: json.dumps([QUESTION | {"n": n} for n in range(9)], indent=1),
    "rows.jsonl": lambda: "\n".join(json.dumps(QUESTION | {"n": n}) for n in range(9)),
    "wrapped.json": lambda: json.dumps({"info": {}, "data": [QUESTION | {"n": n} for n in range(9)]}),
    "rows.csv": lambda: "image,question,answer\n" + '"a.jpg","Is it, or not?","no"\n' * 9,
    "coco.json": lambda: json.dumps(
        {
            "images": [COCO_IMAGE],
            "annotations": [
                {"id": n, "image_id": 1, "category_id": n, "bbox": [n, n, 9, 9], "segmentation": []} for n in range(9)
            ],
            "categories": [{"id": n, "name": f"organ {n}"} for n in range(9)],
        }
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_an_error_or_its_rows_add_up(tmp_path, name):
    """300 files: bytes removed, doubled, replaced, cut off."""
    rng, text, outcomes = random.Random(name), FILES[name]().encode(), set()
    path, form = tmp_path / name, "coco" if name.startswith("coco") else "vqa"
    for _ in range(60):
        content, at = bytearray(text), rng.randrange(len(text))
        size = rng.choice([1, 1, 2, 20])
        content[at : at + size] = rng.choice(
            [b"", content[at : at + size] * 2, b'"', b"{", b"\xff", b",", b"\n", b"[1"]
        )
        path.write_bytes(content[: rng.randrange(1, len(content))] if rng.random() < 0.2 else content)
        try:
            done = convert(path, tmp_path / "out", name="set", format=form)
        except (BrokenFileError, ValueError) as error:
            assert str(path) in str(error) or "No known format" in str(error)
            outcomes.add("error")
            continue
        assert done.rows_in == done.converted + done.rejected
        assert len(json.loads(done.path.read_text(encoding="utf-8"))) == done.rows_out
        assert done.rows_in >= 1 or b"\n" not in path.read_bytes()
        outcomes.add("rejected" if done.rejected else "converted")
    assert len(outcomes) > 1
