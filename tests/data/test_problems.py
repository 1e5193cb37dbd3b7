# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from llamafactory_clinkd.data.convert import convert
from llamafactory_clinkd.data.formats import FORMATS
from llamafactory_clinkd.data.problems import CHOICES, REASONS, Reject

from .samples import LLAVA_MED, SHAREGPT, SLAKE, SOURCES, VQA_RAD, read_rejects


def grit(question="Where?", answer="Here.", **rest):
    return {"id": "ct_1", "conversations": [[question, answer]]} | rest


def sharegpt(*messages, images=()):
    return {"messages": [{"role": role, "content": text} for role, text in messages], "images": list(images)}


def png(size):
    Image.effect_noise(size, 60).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


FILES = {
    "image_unreadable": b"no picture",
    "image_truncated": png((90, 90))[:3000],
    "image_small": png((20, 90)),
    "image_aspect": png((1, 400)),
    "lfs_pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 130\n",
}


@pytest.fixture(autouse=True)
def pictures(tmp_path):
    for code, content in FILES.items():
        (tmp_path / f"{code}.png").write_bytes(content)


CASES = [
    ("not_json", "sharegpt", '{"messages": ['),
    ("not_an_object", "med_grit", [1]),
    ("missing_field", "vqa_rad", {"qid": 1, "image_name": "a.jpg", "question": "What?"}),
    ("missing_field", "med_grit", {"conversations": [["a", "b"]]}),
    ("missing_field", "med_grit", grit(id=" ")),
    ("wrong_type", "vqa_rad", VQA_RAD | {"answer": float("nan")}),
    ("wrong_type", "vqa_rad", VQA_RAD | {"answer": None}),
    ("wrong_type", "vqa_rad", VQA_RAD | {"answer": True}),
    ("wrong_type", "med_grit", {"id": "ct_1", "conversations": "none"}),
    ("wrong_type", "med_grit", {"id": "ct_1", "conversations": [{"from": "human", "value": "a"}, "b"]}),
    ("wrong_type", "med_grit", {"id": "ct_1", "conversations": [["a", "b"], "c"]}),
    ("bad_text", "med_grit", grit("Where \ud800?")),
    ("bad_text", "sharegpt", SHAREGPT | {"id": "\ud800"}),
    (
        "image_in_system",
        "sharegpt",
        sharegpt(("system", "at <image>"), ("user", "a"), ("assistant", "b"), images=["a.png"]),
    ),
    ("box_scale", "med_grit", grit(answer="<box>(0.1,0.2),(0.3,0.4)</box> and <box>(1,2),(3,4)</box>, (5,6),(7,8)")),
    ("bad_box", "med_grit", grit(answer="(1,2),(3,4),(5,6)")),
    ("bad_box", "med_grit", grit(answer='{"bbox_2d": [1, 2, 3, 4], "label": "a", "score": 0.5}')),
    ("box_order", "med_grit", grit(answer="[300, 400, 100, 200]")),
    ("no_finding", "kvasir_seg", {"id": "a", "height": 9, "width": 9, "bbox": []}),
    ("no_turns", "med_grit", {"id": "ct_1", "conversations": []}),
    ("turn_order", "med_grit", {"id": "ct_1", "conversations": [["a", "b", "c"]]}),
    ("turn_order", "sharegpt", sharegpt(("user", "a"))),
    ("turn_order", "sharegpt", sharegpt(("assistant", "a"), ("user", "b"))),
    ("turn_order", "sharegpt", sharegpt(("user", "a"), ("system", "b"), ("assistant", "c"))),
    ("unknown_role", "sharegpt", sharegpt(("user", "a"), ("tool", "b"))),
    ("empty_question", "med_grit", grit("<img>ct_1.png</img>\n ")),
    ("empty_answer", "med_grit", grit("Where?", " \n")),
    ("control_token", "med_grit", grit("Where?", "Here.<|im_end|>")),
    ("control_token", "med_grit", grit("<video>Where?")),
    ("image_in_answer", "sharegpt", sharegpt(("user", "a"), ("assistant", "see <image>"))),
    ("image_in_answer", "med_grit", grit("Where?", "<img>ct_1.png</img> Here.")),
    ("image_count", "sharegpt", sharegpt(("user", "<image><image>a"), ("assistant", "b"), images=["a.png"])),
    ("image_count", "sharegpt", sharegpt(("user", "<image>a"), ("assistant", "b"))),
    ("image_count", "med_grit", grit("<img>ct_1.png Where?")),
    ("image_mismatch", "med_grit", grit("<img>/x/ct_2.png</img> Where?")),
    ("bad_path", "med_grit", grit(id="../ct_1")),
    ("bad_path", "llava_med", LLAVA_MED | {"image": "/etc/passwd"}),
    ("bad_path", "sharegpt", SHAREGPT | {"images": ["http://somewhere/a.png"]}),
    ("bad_path", "sharegpt", SHAREGPT | {"images": [None]}),
    ("tags_unbalanced", "med_grit", grit("<ref>liver")),
    ("bad_box", "med_grit", grit("Where?", "<box>left</box>")),
    ("box_outside", "med_grit", grit("Where?", "<box>(1,2),(3,2000)</box>")),
    ("box_order", "med_grit", grit("Where?", "<box>(9,2),(3,20)</box>")),
    ("box_empty", "med_grit", grit("Where?", "<box>(3,2),(3,20)</box>")),
    ("bad_scan", "sharegpt", SHAREGPT | {"images": ["absent.dcm"]}),
    ("bad_scan", "sharegpt", SHAREGPT | {"images": ["absent.nii.gz#q:3"]}),
    ("bad_path", "sharegpt", SHAREGPT | {"images": ["n" * 260 + ".png"]}),
    *((code, "sharegpt", SHAREGPT | {"images": [f"{code}.png"]}) for code in FILES),
    ("not_english", "slake", SLAKE | {"q_lang": "zh"}),
]


def test_every_reason_has_a_case():
    assert {reason for reason, _, _ in CASES} == set(REASONS)


@pytest.mark.parametrize(("reason", "kind", "row"), CASES)
def test_a_bad_row_is_rejected_and_nothing_else_is_lost(tmp_path, reason, kind, row):
    good = json.dumps(SOURCES[kind][0])
    lines = [good, row if isinstance(row, str) else json.dumps(row), good]
    source = tmp_path / "source.jsonl"
    source.write_text("\n".join(lines), encoding="utf-8")
    done = convert(source, tmp_path / "out", format=kind)
    assert (done.rows_in, done.converted, done.rejected, done.reasons) == (3, 2, 1, {reason: 1})
    assert len(json.loads(done.path.read_text())) == 2
    (line,) = read_rejects(tmp_path / "out")
    assert (line["row"], line["reason"], line["dataset"]) == (2, reason, "source")
    assert line["detail"]
    if isinstance(row, dict) and "id" in row:
        assert line["id"] == row["id"]


@pytest.mark.parametrize(("reason", "kind", "row"), [case for case in CASES if not isinstance(case[2], str)])
def test_strict_stops_and_leaves_nothing(tmp_path, reason, kind, row):
    source = tmp_path / "source.json"
    source.write_text(json.dumps([row]))
    if reason in CHOICES:
        assert convert(source, tmp_path / "out", format=kind, strict=True).rejected == 1
        return
    with pytest.raises(ValueError, match=f"row 1 .*{reason}"):
        convert(source, tmp_path / "out", format=kind, strict=True)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_reason_has_to_be_known():
    with pytest.raises(KeyError, match="expected one of"):
        Reject("whatever", "detail")


def test_the_page_on_data_lists_every_reason_and_format():
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    assert [reason for reason, text in REASONS.items() if f"| `{reason}` | {text} |" not in page] == []
    assert [name for name in FORMATS if f"| `{name}` |" not in page] == []
