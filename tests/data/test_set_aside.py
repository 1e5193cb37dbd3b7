# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Rows of which a part would be lost or changed: each is converted whole, counted, or set aside with its reason."""

import json

import numpy as np
import pytest
from PIL import Image

from llamafactory_clinkd.data.box_convention import recorded_unit
from llamafactory_clinkd.data.convert import Options, convert
from llamafactory_clinkd.data.problems import Reject
from llamafactory_clinkd.data.split import write_split, write_subset
from llamafactory_clinkd.data.text import clean_text
from llamafactory_clinkd.utils.box_forms import unread_numbers
from llamafactory_clinkd.utils.boxes import parse_boxes

from .samples import COCO_IMAGE, MS_SWIFT, QUESTION, SHAREGPT, VINDR, draw, read_rejects, write_source
from .test_scans import dicom


def converted(tmp_path, rows, **options):
    source = write_source(tmp_path / "rows.json", rows)
    done = convert(source, tmp_path / "out", name="set", options=Options(image_folder=tmp_path, **options))
    assert done.rows_in == done.converted + done.rejected
    return json.loads(done.path.read_text(encoding="utf-8")), done


def answers(rows):
    return [row["messages"][-1]["content"] for row in rows]


@pytest.mark.parametrize(
    "answer",
    [
        "<patch_index_0100><patch_index_0200>",
        "at [10%, 20%, 30%, 40%]",
        "[10% 20% 30% 40%]",
        "top left (100, 200), bottom right (300, 400)",
        "from (100,200) to (300,400)",
        "(100,200)-(300,400)",
        "100 200 300 400",
        "0 0.5 0.5 0.2 0.3",
        '<bbox x1="100" y1="200" x2="300" y2="400"/>',
        "x=100, y=200, width=200, height=200",
    ],
)
def test_numbers_of_other_spellings_are_counted(answer):
    assert unread_numbers(answer)


@pytest.mark.parametrize(
    "answer", ["0.8 (0.7, 0.9) against 0.9 (0.8, 0.95)", "as in (1, 2) and (3, 4)", "3 4 5", "20% to 30%", "(12, 14)"]
)
def test_other_numbers_are_not_counted(answer):
    assert not unread_numbers(answer)


@pytest.mark.parametrize(
    "answer",
    [
        '{"bbox_2d": [[100,200,300,400],[10,20,30,40]], "label": "liver"}',
        '{"bbox_2d": [[100,200],[300,400]], "label": "liver"}',
        '{\\"bbox_2d\\": [100,200,300,400], \\"label\\": \\"liver\\"}',
        '{"objects": [{"bbox_2d": [100,200,300,400], "label": "liver"}]}',
        '{"bbox_2d": [100,200,300,400], "label": "a}b"}',
        "array([100, 200, 300, 400])",
        "<bounding_box>[100,200,300,400]</bounding_box>",
        "<coordinates>(100,200),(300,400)</coordinates>",
        "< box >(100,200),(300,400)</ box >",
        "&lt;box&gt;(100,200),(300,400)&lt;/box&gt;",
    ],
)
def test_a_box_in_a_structure_that_is_not_read_is_set_aside(answer):
    with pytest.raises(Reject, match="structure that is not read") as caught:
        clean_text(answer)
    assert caught.value.reason == "bad_box"


@pytest.mark.parametrize("answer", ["The box [100, 200, 300, 400] is it.", "**[1, 2, 30, 40]**", "(1,2),(3,4): 'yes'"])
def test_a_box_in_a_sentence_is_read(answer):
    assert clean_text(answer)


@pytest.mark.parametrize("other", ["<Image>", "<IMG>", "<image_1>", "<img src='a.jpg'>", "<ImageHere>", "<image 2/>"])
def test_other_placeholders_of_images_are_set_aside(tmp_path, other):
    rows, done = converted(tmp_path, [QUESTION | {"question": f"{other} Is it?"}, QUESTION])
    assert len(rows) == 1 and done.reasons == {"image_count": 1}


@pytest.mark.parametrize("lost", [{"videos": ["v.mp4"]}, {"audios": ["a.wav"]}, {"tools": '[{"name": "x"}]'}])
def test_media_that_would_be_lost_are_set_aside(tmp_path, lost):
    rows, done = converted(tmp_path, [SHAREGPT | lost, SHAREGPT | {key: [] for key in lost}])
    assert len(rows) == 1 and done.reasons == {"wrong_type": 1}


@pytest.mark.parametrize("lost", [{"reasoning_content": "hm"}, {"tool_calls": [{}]}, {"loss_weight": 0.5}])
def test_parts_of_a_message_that_would_be_lost_are_set_aside(tmp_path, lost):
    question, answer = SHAREGPT["messages"]
    rows, done = converted(tmp_path, [SHAREGPT | {"messages": [question, answer | lost]}, SHAREGPT])
    assert len(rows) == 1 and done.reasons == {"wrong_type": 1}


def test_an_answer_nan_is_empty(tmp_path):
    rows, done = converted(tmp_path, [QUESTION | {"answer": answer} for answer in ("nan", "NaN", "none")])
    assert answers(rows) == ["none"] and done.reasons == {"empty_answer": 2}


def test_a_question_of_several_images(tmp_path):
    rows, done = converted(tmp_path, [QUESTION | {"image": ["a.jpg", "b.jpg"]}, QUESTION | {"image": []}])
    assert rows[0]["images"] == ["a.jpg", "b.jpg"] and rows[0]["messages"][0]["content"].startswith("<image><image>")
    assert done.reasons == {"bad_path": 1}


def test_ms_swift_sizes_and_references(tmp_path):
    """The boxes refer to the width and height beside them, not to the file, which may have been resized."""
    draw(tmp_path, "a.jpg", (640, 480))
    objects = MS_SWIFT["objects"]
    sizes = [{"width": [1280], "height": [960]}, {"width": [1280, 640], "height": [960, 480]}, {"ref": [["liver"]]}]
    rows, done = converted(tmp_path, [MS_SWIFT | {"objects": objects | size} for size in sizes], coordinates="pixels")
    assert answers(rows) == ["<|box_start|>(70,10),(234,260)<|box_end|>"]
    assert [line["reason"] for line in read_rejects(tmp_path / "out")] == ["box_scale", "wrong_type"]


def test_coco_entries_of_one_id_are_not_used(tmp_path):
    """The last one was used, whatever the annotation meant."""
    images = [COCO_IMAGE, COCO_IMAGE | {"id": 2}, COCO_IMAGE | {"id": 2, "file_name": "b.jpg"}, COCO_IMAGE]
    names = [{"id": 1, "name": "liver"}, {"id": 2, "name": "spleen"}, {"id": 2, "name": "lung"}]
    places = [(1, 1), (2, 1), (1, 2)]
    marked = [{"image_id": i, "category_id": c, "bbox": [20, 10, 40, 30]} for i, c in [*places, (1, 1)]]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"images": images, "annotations": marked, "categories": names}))
    done = convert(path, tmp_path / "out", name="set")
    (row,) = json.loads(done.path.read_text())
    assert row["messages"][1]["content"].count("<|box_start|>") == 1  # the same box twice is one
    assert "liver" in row["messages"][1]["content"]
    assert done.reasons == {"wrong_type": 3, "missing_field": 1}


def test_vindr_lines_that_repeat_are_one_box(tmp_path):
    rows, _ = converted(tmp_path, [{"lines": VINDR["lines"] * 2}])
    assert answers(rows)[0].count("<|box_start|>") == 1


@pytest.mark.parametrize("kind", ["jpg", "tif", "png"])
@pytest.mark.parametrize("upright", [True, False])
def test_boxes_in_pixels_of_a_turned_picture(tmp_path, kind, upright):
    """PIL turns a TIFF as it loads: with `--stored` its box was scaled as stored, and its pixels were upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = np.zeros((480, 1640), np.uint8)
    stored[48:240, 164:820] = 255
    Image.fromarray(stored).save(tmp_path / f"a.{kind}", exif=exif)
    x1, y1, x2, y2 = (164, 48, 820, 240) if not upright else (480 - 240, 164, 480 - 48, 820)
    far = (1640, 480) if not upright else (480, 1640)
    whole = f"<box>(0,0),({far[0]},{far[1]})</box>"  # shows that the file is in pixels
    image = f"a.{kind}" if kind != "png" else "a"  # also without extension
    marked = [QUESTION | {"image": image, "answer": text} for text in (f"<box>({x1},{y1}),({x2},{y2})</box>", whole)]
    rows, done = converted(tmp_path, marked, upright=upright)
    assert done.unit == "pixels" and not done.rejected
    pixels = np.asarray(Image.open(tmp_path / rows[0]["images"][0]).convert("L"))
    inside = pixels > 128
    left, right = np.flatnonzero(inside.any(axis=0))[[0, -1]] / pixels.shape[1] * 1000
    top, bottom = np.flatnonzero(inside.any(axis=1))[[0, -1]] / pixels.shape[0] * 1000
    (box,) = parse_boxes(answers(rows)[0])
    assert np.abs(np.subtract(box, [left, top, right, bottom])).max() < 6


@pytest.mark.parametrize("shared", [True, False])
def test_enhanced_ct_has_its_units_and_window_per_frame(tmp_path, shared):
    """The stored values were taken as HU."""
    pydicom = pytest.importorskip("pydicom", reason="pydicom reads DICOM: pip install 'llamafactory-clinkd[data]'")
    stored = np.tile(np.arange(64, dtype=np.uint16) * 40, (2, 64, 1))
    groups = pydicom.Dataset()
    transformation, window = pydicom.Dataset(), pydicom.Dataset()
    transformation.RescaleIntercept, transformation.RescaleSlope, transformation.RescaleType = -1024, 1, "HU"
    window.WindowCenter, window.WindowWidth = -600, 1500
    groups.PixelValueTransformationSequence, groups.FrameVOILUTSequence = [transformation], [window]
    keyword = "SharedFunctionalGroupsSequence" if shared else "PerFrameFunctionalGroupsSequence"
    dicom(tmp_path / "s.dcm", stored, frames=2, **{keyword: [groups] * (1 if shared else 2)})
    (row,), _ = converted(tmp_path, [QUESTION | {"image": "s.dcm#1"}])
    expected = np.clip((stored[0].astype(float) - 1024 + 1350) / 1500, 0, 1) * 255
    np.testing.assert_allclose(np.asarray(Image.open(tmp_path / row["images"][0])), expected, atol=1)


def test_a_split_and_a_subset_keep_the_unit_of_their_boxes(tmp_path):
    """Without it `check` and the warning before training take pixels for thousandths."""
    for name in "abcd":
        draw(tmp_path, f"{name}.jpg", (560, 420))
    marked = [QUESTION | {"image": f"{name}.jpg", "answer": "<box>(100,200),(300,400)</box>"} for name in "abcd"]
    _, done = converted(tmp_path, marked, model_type="qwen2_5_vl")
    assert recorded_unit(done.path) == "resized"
    write_split(done.path, "train", "test", share=0.5, by="image")
    write_subset(done.path, "some", 2)
    units = [recorded_unit(done.path.with_name(f"{name}.json")) for name in ("train", "test", "some")]
    assert units == ["resized"] * 3
