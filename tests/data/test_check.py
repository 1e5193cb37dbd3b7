# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json
import random

import numpy as np
import pytest
from PIL import Image

from llamafactory_clinkd.data.check import check
from llamafactory_clinkd.data.problems import ERRORS, WARNINGS

from .samples import draw, sharegpt, write_source


@pytest.fixture
def folder(tmp_path):
    for number in range(4):
        draw(tmp_path, f"ct_{number}.png", shade=40 * number)
    return tmp_path


def checked(folder, rows, **keys):
    path = write_source(folder / "set.json", rows)
    return check(path, **{"workers": 1, **keys})


def roles(*pairs, images=("ct_0.png",), **rest):
    return {"messages": [{"role": role, "content": text} for role, text in pairs], "images": list(images)} | rest


def damaged(folder, kind):
    good = (folder / "ct_0.png").read_bytes()
    draw(folder, "big.bmp", (200, 200))
    content = {"image_truncated": (folder / "big.bmp").read_bytes()[:5000], "image_unreadable": b"no picture"}[kind]
    (folder / f"{kind}.png").write_bytes(content)
    assert content != good
    return sharegpt(f"{kind}.png")


def picture(folder, name, image, **keys):
    image.save(folder / name, **keys)
    return sharegpt(name)


def photo(mode="RGB", size=(40, 30)):
    noise = Image.frombytes("RGB", size, random.Random(0).randbytes(3 * size[0] * size[1]))
    return noise if mode == "RGB" else noise.convert(mode)


def file_of(folder, name, content):
    (folder / name).write_bytes(content)
    return sharegpt(name)


DEEP = Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40))
CLEAR = Image.new("RGBA", (40, 40), (255, 255, 255, 0))
CLEAR.paste((90, 90, 90, 255), (10, 10, 20, 20))
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 130\n"


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


QUESTION, ANSWER = ("user", "<image>Where?"), ("assistant", "Here.")
ROWS = {
    "not_an_object": lambda folder: [1],
    "missing_field": lambda folder: {"images": ["ct_0.png"], "conversations": []},
    "wrong_type": lambda folder: {"images": ["ct_0.png"], "messages": [{"role": "user", "content": 4}]},
    "unknown_role": lambda folder: roles(("human", "<image>Where?"), ("gpt", "Here.")),
    "turn_order": lambda folder: roles(QUESTION),
    "no_turns": lambda folder: roles(),
    "bad_text": lambda folder: sharegpt("ct_0.png", answer="\ud800"),
    "empty_question": lambda folder: sharegpt("ct_0.png", question="<image> "),
    "empty_answer": lambda folder: sharegpt("ct_0.png", answer=" "),
    "control_token": lambda folder: sharegpt("ct_0.png", answer="<|image_pad|>"),
    "image_in_answer": lambda folder: sharegpt("ct_0.png", question="Where?", answer="<image> here"),
    "image_count": lambda folder: sharegpt("ct_0.png", question="<image><image>Where?"),
    "bad_path": lambda folder: sharegpt("../outside.png"),
    "tags_unbalanced": lambda folder: sharegpt("ct_0.png", answer="<|box_start|>(1,2),(3,4)"),
    "bad_box": lambda folder: sharegpt("ct_0.png", answer="<|box_start|>left<|box_end|>"),
    "box_outside": lambda folder: sharegpt("ct_0.png", answer="<|box_start|>(1,2),(3,1004)<|box_end|>"),
    "box_order": lambda folder: sharegpt("ct_0.png", answer="<|box_start|>(5,2),(3,4)<|box_end|>"),
    "box_empty": lambda folder: sharegpt("ct_0.png", answer="<|box_start|>(3,2),(3,4)<|box_end|>"),
    "box_form": lambda folder: sharegpt("ct_0.png", answer="<|box_start|>(1.5,2),(3,4)<|box_end|>"),
    "box_scale": lambda folder: sharegpt("ct_0.png", answer="<|box_start|>(0.1,0.2),(0.3,0.4)<|box_end|>"),
    "box_unread": lambda folder: sharegpt("ct_0.png", answer="At 100, 200, 300, 400."),
    "image_in_system": lambda folder: sharegpt("ct_0.png") | {"messages": SYSTEM_WITH_IMAGE},
    "image_missing": lambda folder: sharegpt("absent.png"),
    "image_unreadable": lambda folder: damaged(folder, "image_unreadable"),
    "image_truncated": lambda folder: damaged(folder, "image_truncated"),
    "image_small": lambda folder: picture(folder, "small.png", photo(size=(27, 60))),
    "image_aspect": lambda folder: picture(folder, "long.png", photo(size=(1, 400))),
    "lfs_pointer": lambda folder: file_of(folder, "a.png", POINTER),
    "image_depth": lambda folder: picture(folder, "deep.png", DEEP),
    "image_alpha": lambda folder: picture(folder, "clear.png", CLEAR),
    "image_rotated": lambda folder: picture(folder, "turned.jpg", photo(), **turned(6)),
    "image_mode": lambda folder: picture(folder, "cmyk.jpg", photo("CMYK")),
    "image_frames": lambda folder: picture(folder, "two.tif", photo(), save_all=True, append_images=[photo()]),
    "image_extension": lambda folder: picture(folder, "jpeg.png", photo(), format="JPEG"),
    "image_blank": lambda folder: picture(folder, "blank.png", Image.new("RGB", (40, 40), "red")),
    "no_image": lambda folder: roles(("user", "Where?"), ANSWER, images=()),
}
SYSTEM_WITH_IMAGE = [
    {"role": "system", "content": "Look at <image> first."},
    {"role": "user", "content": "Where?"},
    {"role": "assistant", "content": "Here."},
]
ELSEWHERE = {"not_json", "duplicate_row", "duplicate_id", "leak_image", "leak_volume", "leak_patient", "too_long"}


def test_every_code_has_a_case():
    assert set(ROWS) | ELSEWHERE == set(ERRORS) | set(WARNINGS)


@pytest.mark.parametrize("code", ROWS)
def test_each_fault_is_found_and_no_other(folder, code):
    good = sharegpt("ct_1.png", answer="<|box_start|>(1,2),(3,4)<|box_end|>")
    found = checked(folder, [good, ROWS[code](folder), sharegpt("ct_2.png")])
    assert dict(found.counts) == {code: 1}
    assert found.examples[code][0]["row"] == 2
    assert found.errors == (code in ERRORS)
    assert found.rows == 3


def test_the_report_can_be_read_by_a_machine(folder):
    found = checked(folder, [sharegpt("absent.png", id="seven"), sharegpt("ct_0.png", answer="")])
    summary = json.loads((folder / "set.check.json").read_text())
    assert summary["counts"] == {"image_missing": 1, "empty_answer": 1} == dict(found.counts)
    assert (summary["errors"], summary["rows"], summary["images"], summary["tokens_checked"]) == (2, 2, 2, False)
    lines = [json.loads(line) for line in (folder / "set.check.jsonl").read_text().splitlines()]
    assert [(line["code"], line["row"], line["id"], line["level"]) for line in lines] == [
        ("image_missing", 1, "seven", "error"),
        ("empty_answer", 2, "ct_0.png", "error"),
    ]


def test_a_line_that_is_not_json(folder):
    path = folder / "set.jsonl"
    path.write_text(json.dumps(sharegpt("ct_0.png")) + "\n{\n")
    assert dict(check(path, workers=1).counts) == {"not_json": 1}


def test_duplicates(folder):
    one = sharegpt("ct_0.png", id="a")
    found = checked(folder, [one, one, sharegpt("ct_0.png", answer="There.", id="a"), one | {"id": "b"}])
    assert dict(found.counts) == {"duplicate_row": 2, "duplicate_id": 1}
    assert found.errors == 0
    assert [line["row"] for line in found.examples["duplicate_row"]] == [2, 4]


def test_ids_that_name_the_image_may_repeat(folder):
    rows = [sharegpt("ct_0.png", answer=answer, id="ct_0") for answer in ("One.", "Two.")]
    assert not checked(folder, rows).counts


def test_a_bad_image_is_reported_once(folder):
    rows = [sharegpt("absent.png", answer=str(number), id=str(number)) for number in range(5)]
    assert dict(checked(folder, rows).counts) == {"image_missing": 1}


def test_leakage_by_path_content_and_volume(folder):
    draw(folder, "twin.png", shade=200)
    draw(folder, "other/copy.png", shade=200)
    names = ["mr_t1--BraTS--b_1--z_0001.png", "mr_t2--BraTS--b_1--z_0009.png", "mr_t1--BraTS--b_2--z_0001.png"]
    for shade, name in enumerate(names):
        draw(folder, name, shade=shade + 1)
    test = write_source(folder / "test.json", [sharegpt(image) for image in ("ct_0.png", "other/copy.png", names[1])])
    train = ["ct_0.png", "twin.png", names[0], names[2], "ct_1.png"]
    found = checked(folder, [sharegpt(image) for image in train], against=[test])
    assert dict(found.counts) == {"leak_image": 2, "leak_volume": 1}
    assert [line["row"] for line in found.examples["leak_image"]] == [1, 2]
    assert found.examples["leak_volume"][0]["row"] == 3
    assert "brats--b_1" in found.examples["leak_volume"][0]["detail"]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_images_are_found(folder, suffix, share):
    noise = random.Random(0).randbytes(200 * 150)
    Image.frombytes("L", (200, 150), noise).save(folder / f"whole.{suffix}")
    content = (folder / f"whole.{suffix}").read_bytes()
    (folder / f"cut.{suffix}").write_bytes(content[: int(share * len(content))])
    found = checked(folder, [sharegpt(f"whole.{suffix}"), sharegpt(f"cut.{suffix}")])
    assert dict(found.counts) == {"image_truncated": 1}
    assert found.examples["image_truncated"][0]["row"] == 2


def test_images_of_the_other_set_that_do_not_open_are_counted(folder):
    test = write_source(folder / "test.json", [sharegpt("absent.png"), sharegpt("ct_1.png")])
    found = checked(folder, [sharegpt("ct_0.png")], against=[test])
    assert (found.unread_against, dict(found.counts)) == (1, {})


def test_links_out_of_the_folder_are_not_opened(tmp_path):
    folder = tmp_path / "data"
    draw(tmp_path, "secret.png")
    draw(folder, "ct_0.png")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    found = checked(folder, [sharegpt("link.png")])
    assert dict(found.counts) == {"bad_path": 1}


def test_several_processes_find_the_same(folder):
    rows = [sharegpt(f"ct_{n % 6}.png", answer=str(n % 50), id=str(n)) for n in range(1300)]
    alone = checked(folder, rows, report=folder / "one").as_json()
    together = checked(folder, rows, workers=2, report=folder / "two").as_json()
    assert (folder / "one.jsonl").read_bytes() == (folder / "two.jsonl").read_bytes()
    assert alone | {"findings_path": ""} == together | {"findings_path": ""}
    assert alone["counts"]["image_missing"] == 2


def test_several_processes_report_rows_that_cannot_be_read(folder):
    path = folder / "set.jsonl"
    path.write_text(json.dumps(sharegpt("ct_0.png")) + "\n{\n[1]\n")
    assert dict(check(path, workers=2).counts) == {"not_json": 1, "not_an_object": 1}


def test_a_second_check_opens_only_what_changed(folder, monkeypatch):
    rows = [sharegpt(f"ct_{n}.png") for n in range(4)]
    checked(folder, rows)
    draw(folder, "ct_2.png", (50, 50))
    opened = []
    from llamafactory_clinkd.data import images

    real = images._inspect
    monkeypatch.setattr(images, "_inspect", lambda folder, image: opened.append(image) or real(folder, image))
    progress = []
    found = checked(folder, rows, on_progress=lambda *report: progress.append(report))
    assert opened == ["ct_2.png"]
    assert not found.counts
    assert progress == [("images", 3, 4), ("images", 4, 4), ("rows", 4, 4)]


@pytest.mark.parametrize("name", ["n" * 260 + ".png", "d" * 300 + "/a.png", "é" * 130 + ".png", "a/" * 2000 + "a.png"])
def test_a_name_that_no_file_system_takes_is_one_row_s_fault(folder, name):
    found = checked(folder, [sharegpt("ct_0.png"), sharegpt(name), sharegpt("ct_1.png")])
    assert dict(found.counts) == {"bad_path": 1}
    assert found.examples["bad_path"][0]["row"] == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (POINTER, "a Git-LFS pointer: run `git lfs pull`"),
        (b"/annex/objects/SHA256E-s7--ab.png\n", "a git-annex pointer"),
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"\0" * 128 + b"DICM" + b"\0" * 40, "a DICOM file"),
        (b"\0" * 344 + b"n+1\0" + b"\0" * 40, "a NIfTI file"),
        (b"\x1f\x8b\x08" + b"\0" * 40, "a gzip file"),
    ],
)
def test_what_is_no_picture_is_named(folder, content, words):
    found = checked(folder, [file_of(folder, "a.png", content)])
    ((line,),) = found.examples.values()
    assert f"a.png: {words}" in line["detail"]


def test_a_picture_saved_again_in_another_format_is_the_same_picture(folder):
    photo().save(folder / "a.png")
    photo().save(folder / "b.bmp")
    test = write_source(folder / "test.json", [sharegpt("b.bmp")])
    assert dict(checked(folder, [sharegpt("a.png")], against=[test]).counts) == {"leak_image": 1}


def test_records_of_an_earlier_rule_are_made_again(folder):
    rows = [picture(folder, "deep.png", DEEP)]
    checked(folder, rows)
    path = folder / "set.check.images.jsonl"
    line = json.loads(path.read_text())
    assert line["rule"] == 1
    old = {key: line[key] for key in line if key not in ("rule", "remarks")}
    path.write_text(json.dumps(old) + "\n" + json.dumps({"unknown": 1}) + "\n")
    assert dict(checked(folder, rows).counts) == {"image_depth": 1}


def test_nothing_is_appended_through_a_link(folder, tmp_path):
    outside = tmp_path / "outside.jsonl"
    outside.write_text("")
    (folder / "set.check.images.jsonl").symlink_to(outside)
    with pytest.raises(ValueError, match="is a link"):
        checked(folder, [sharegpt("ct_0.png")])
    assert outside.read_text() == ""


def test_patients_of_the_column_are_compared(folder):
    test = write_source(folder / "test.json", [sharegpt("ct_0.png", patient="a"), sharegpt("ct_1.png", patient="b")])
    rows = [sharegpt("ct_2.png", patient="b"), sharegpt("ct_3.png", patient="c")]
    found = checked(folder, rows, against=[test])
    assert dict(found.counts) == {"leak_patient": 1} and found.examples["leak_patient"][0]["row"] == 1
