# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json

import pytest

from llamafactory_clinkd.data.box_convention import convention_warning, warn_of_conventions, written_unit
from llamafactory_clinkd.data.check import check
from llamafactory_clinkd.data.convert import Options, convert
from llamafactory_clinkd.data.coordinates import processed, resized

from .samples import MED_GRIT_TRAIN, TRAIN_ID, draw, sharegpt, write_source


@pytest.mark.parametrize(
    ("model_type", "unit", "square", "words"),
    [
        ("qwen2_vl", "thousandths", True, None),
        ("qwen3_vl", "thousandths", True, None),
        ("qwen2_vl", "pixels", True, "thousandths; these are in pixels"),
        ("qwen2_vl", "fractions", False, "these are in fractions"),
        ("qwen3_vl", "resized", False, "thousandths; these are in pixels of the resized picture"),
        ("qwen2_5_vl", "thousandths", False, "pixels of the resized picture; these are in thousandths"),
        ("qwen2_5_vl", "resized", False, None),
        ("qwen2_5_vl", "resized", True, "image_square"),
        ("llava", "pixels", True, None),
    ],
)
def test_a_model_and_a_unit(model_type, unit, square, words):
    found = convention_warning(model_type, unit, square)
    assert (words in found) if words else found is None


def test_pixels_are_written_for_qwen2_5_recorded_and_compared(tmp_path, caplog):
    draw(tmp_path, f"{TRAIN_ID}.png", (1200, 900))
    options = Options(image_folder=tmp_path, model_type="qwen2_5_vl")
    done = convert(write_source(tmp_path / "grit.json", [MED_GRIT_TRAIN]), tmp_path / "out", options=options)
    width, height = processed((1200, 900), 768 * 768, stock=True)
    assert (width % 28, height % 28) == (0, 0) and resized(1200, 900) == (886, 665) and (width, height) == (896, 672)
    x1, y1, x2, y2 = (round(v * side / 1000) for v, side in zip((120, 30, 400, 500), (width, height) * 2, strict=True))
    answer = json.loads(done.path.read_text())[0]["messages"][1]["content"]
    assert f"<|box_start|>({x1},{y1}),({x2},{y2})<|box_end|>" in answer
    assert written_unit(done.path) == "resized"
    assert "image_square: false, image_max_pixels: 589824" in done.warnings[-1]
    assert check(done.path, image_folder=tmp_path, workers=1).errors == 0

    for model_type, count in (("qwen2_vl", 1), ("qwen2_5_vl", 0)):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
        found = warn_of_conventions(str(tmp_path), ["grit"], tmp_path / "out", square=False)
        assert len(found) == count
    assert "Data set grit: qwen2_vl reads and writes boxes in thousandths" in caplog.text
    for name, count in (("owner/model", 0), ("Qwen/Qwen2-VL-2B-Instruct", 1), ("Qwen/Qwen2.5-VL-7B-Instruct", 0)):
        assert len(warn_of_conventions(name, ["grit"], tmp_path / "out", square=False)) == count


def test_a_box_without_a_picture_size_is_set_aside_for_qwen2_5(tmp_path):
    source = write_source(tmp_path / "grit.json", [MED_GRIT_TRAIN])
    done = convert(source, tmp_path / "out", options=Options(image_folder=tmp_path, model_type="qwen2_5_vl"))
    assert done.reasons == {"box_scale": 1}


@pytest.mark.parametrize(
    ("answer", "unit"),
    [
        ("<|box_start|>(1,2),(3,4)<|box_end|>", "thousandths"),
        ("[0.12, 0.30, 0.55, 0.71]", "fractions"),
        ('{"bbox_2d": [10, 20, 1300, 400]}', "pixels"),
        ("No box.", None),
    ],
)
def test_the_unit_of_a_file_that_convert_did_not_write(tmp_path, answer, unit):
    assert written_unit(write_source(tmp_path / "set.json", [sharegpt("a.png", answer=answer)])) == unit
