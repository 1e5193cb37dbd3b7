# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json

import pytest

from llamafactory_clinkd.data.convert import Options, convert
from llamafactory_clinkd.data.coordinates import Evidence, unit_of

from .samples import QUESTION, draw, write_source


def evidence(*boxes, size=None):
    found = Evidence()
    for box in boxes:
        found.add(box.split(), size)
    return found


SMALL, LARGE = (622, 529), (3000, 2000)


@pytest.mark.parametrize(
    ("found", "usual", "unit", "words"),
    [
        (evidence("100 200 300 400", "0 0 1000 999"), None, "thousandths", None),
        (evidence("38 5 430 338", size=SMALL), None, "thousandths", "--coordinates pixels"),
        (evidence("38 5 430 338", "38 5 430 738", size=SMALL), None, "thousandths", None),
        (evidence("38 5 430 338", size=LARGE), None, "thousandths", None),
        (evidence("38 5 430 338", "38 5 1430 338", size=LARGE), None, "pixels", None),
        (evidence("38 5 430 338", "38 5 1430 338"), None, "thousandths", "reach over 1000"),
        (evidence("38 5 430 338", size=SMALL), "pixels", "pixels", None),
        (evidence("38 5 430 738", size=SMALL), "pixels", "thousandths", "usually has pixels"),
        (evidence("0.1 0.2 0.3 0.4", "0 0 1 1", "0.5 0.5 1.0 1.0", size=SMALL), None, "fractions", None),
        (evidence("0.1 0.2 0.3 0.4", "10 20 30 40", "1 2 3 4"), None, "thousandths", None),
        (evidence(), None, "thousandths", None),
    ],
)
def test_the_unit_of_a_file(found, usual, unit, words):
    chosen, warnings = unit_of(found, "auto", usual)
    assert chosen == unit
    assert (words in " ".join(warnings)) if words else warnings == []


def test_a_unit_that_is_given_is_kept_and_its_contradiction_reported():
    assert unit_of(evidence("38 5 1430 338", size=LARGE), "thousandths")[0] == "thousandths"
    assert "look like fractions" in unit_of(evidence("0.1 0.2 0.3 0.4"), "pixels")[1][0]


def test_kvasirs_pixels_in_thousandths_and_as_given(tmp_path):
    """The polyp of a 622 x 529 picture: 38/622 = 0.061, 5/529 = 0.009, 430/622 = 0.691, 338/529 = 0.639."""
    draw(tmp_path, "a.jpg", SMALL)
    source = write_source(tmp_path / "rows.json", [QUESTION | {"answer": "<box>(38,5),(430,338)</box>"}])
    for coordinates, box in (("auto", "(38,5),(430,338)"), ("pixels", "(61,9),(691,639)")):
        done = convert(source, tmp_path / "out", name="set", options=Options(coordinates=coordinates))
        assert f"<|box_start|>{box}<|box_end|>" in done.path.read_text()
        assert any("--coordinates pixels" in warning for warning in done.warnings) == (coordinates == "auto")


def test_one_unit_holds_for_the_whole_file(tmp_path):
    answers = ["<box>(0.1,0.2),(0.3,0.4)</box>"] * 3 + ["<box>(100,200),(300,400)</box>"]
    rows = [QUESTION | {"answer": answer} for answer in answers]
    done = convert(write_source(tmp_path / "rows.json", rows), tmp_path / "out", name="set")
    assert (done.unit, done.reasons) == ("fractions", {"box_outside": 1})
    done = convert(write_source(tmp_path / "rows.json", rows[:1] + rows[3:] * 3), tmp_path / "out", name="set")
    assert (done.unit, done.reasons) == ("thousandths", {"box_scale": 1})
    assert len(json.loads(done.path.read_text())) == 3
