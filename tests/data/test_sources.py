# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Every kind of file and format, from the bytes on disk to the converted rows."""

import base64
import gzip
import io
import json
import re
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from llamafactory_clinkd.data.convert import convert
from llamafactory_clinkd.data.reader import BrokenFileError
from llamafactory_clinkd.data.sources import read_source

from .samples import (
    COCO_IMAGE,
    KVASIR,
    MS_SWIFT,
    PMC_VQA,
    QUESTION,
    QWEN_VL,
    REFCOCO,
    SHAREGPT,
    SLAKE,
    VQA_RAD,
    draw,
    read_rejects,
    write_source,
)


def jpeg(shade=90, size=(40, 30)):
    Image.new("RGB", size, (shade, 20, 20)).save(buffer := io.BytesIO(), "JPEG")
    return buffer.getvalue()


def converted(source, tmp_path, **settings):
    done = convert(source, tmp_path / "out", name="set", **settings)
    rows = json.loads(done.path.read_text(encoding="utf-8"))
    assert done.rows_in == done.converted + done.rejected
    assert len(rows) == done.rows_out
    return done, rows


def texts(row):
    return [message["content"] for message in row["messages"]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("layout", ["array", "lines", "data", "annotations", "pretty", "csv"])
def test_every_encoding_and_wrapper_gives_the_rows(tmp_path, encoding, zipped, layout):
    rows = [{"image": "a.jpg", "question": f"Größe {n}?", "answer": "ja, „groß“"} for n in range(5)]
    text = {
        "array": json.dumps(rows, ensure_ascii=False),
        "lines": "\n".join(json.dumps(row, ensure_ascii=False) for row in rows),
        "data": json.dumps({"info": {"version": 1}, "data": rows}, ensure_ascii=False),
        "annotations": json.dumps({"annotations": rows}, ensure_ascii=False) + "\n",
        "pretty": json.dumps({"licenses": [], "rows": rows, "n": 5}, ensure_ascii=False, indent=2),
        "csv": "image,question,answer\r\n" + "".join(f'a.jpg,{r["question"]},"{r["answer"]}"\r\n' for r in rows),
    }[layout]
    path = tmp_path / (("rows.csv" if layout == "csv" else "rows.json") + (".gz" if zipped else ""))
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert [row for _, row in read_source(path)] == rows
    assert len(converted(path, tmp_path)[1]) == 5


def test_several_lists_are_named_and_chosen(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"train": [QUESTION], "test": [QUESTION, QUESTION]}))
    with pytest.raises(ValueError, match="several lists: train, test. Name one with --split"):
        list(read_source(path))
    assert len(list(read_source(path, "test"))) == 2
    with pytest.raises(ValueError, match="no list 'dev'"):
        list(read_source(path, "dev"))
    path.write_text(json.dumps({"a": 1, "b": [2]}, indent=1))
    with pytest.raises(ValueError, match="its members are a, b"):
        list(read_source(path))


def test_a_broken_file_is_an_error(tmp_path):
    good = gzip.compress(json.dumps([QUESTION] * 500).encode())
    for name, content, message in (
        ("a.json.gz", good[:-20], "not a whole gzip file"),
        ("a.parquet", b"PAR1" + b"x" * 50, "not a whole Parquet file"),
        ("a.json", b'{"data": [{"a": 1}', "before its closing bracket"),
        ("a.csv", b'image,question,answer\na,b,"c\nd,e,f\n', "A quote that is not closed"),
        ("b.json", "[{}]".encode("utf-16") + b"\x00", "not valid utf-16"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BrokenFileError, match=message):
            list(read_source(tmp_path / name))
    with pytest.raises(FileNotFoundError, match="no file and no folder"):
        list(read_source(tmp_path / "absent.json"))


def test_a_bad_line_of_a_csv_file_costs_its_own_row(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b'image,question,answer\na.jpg,"What, now?","one\ntwo"\nb.jpg,x\n\nc.jpg,"q"x,y\nd.jpg,\xff,y\ne.jpg,q,1\n'
    )
    done, rows = converted(path, tmp_path)
    assert [texts(row) for row in rows] == [["<image>What, now?", "one\ntwo"], ["<image>q", "1"]]
    assert done.reasons == {"bad_text": 1, "not_an_object": 1, "not_json": 1}
    path.write_text("image,image\n1,2\n")
    with pytest.raises(ValueError, match="a column twice"):
        list(read_source(path))


def test_pictures_in_parquet_are_written_and_shared(tmp_path):
    pictures = [
        {"bytes": jpeg(10), "path": "a.jpg"},
        {"bytes": jpeg(10), "path": None},
        {"bytes": b"none", "path": ""},
    ]
    rows = [{"image": picture, "question": f"q{n}?", "answer": "yes"} for n, picture in enumerate(pictures)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    done, (first, second) = converted(tmp_path / "rows.parquet", tmp_path)
    assert done.image_folder == tmp_path / "out"
    assert first["images"] == second["images"] and first["images"][0].startswith("clinkd_images/")
    assert (tmp_path / "out" / first["images"][0]).read_bytes() == jpeg(10)
    assert done.reasons == {"image_unreadable": 1}


def test_pictures_in_parquet_keep_safe_names_and_their_rows_the_set_in_their_ids(tmp_path):
    names = ["synpic54610.jpg", "synpic54610.jpg", "scan.bmp", "../up.jpg", "/etc/c\\d.JPEG", "a#1.jpg", ".b.jpg"]
    pictures = [{"bytes": jpeg(10 * n), "path": name} for n, name in enumerate(names, start=1)]
    rows = [{"image": picture, "question": f"q{n}?", "answer": "yes"} for n, picture in enumerate(pictures)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for _ in range(2):  # the second time over the files of the first
        done, rows = converted(tmp_path / "rows.parquet", tmp_path)
        places = [Path(row["images"][0]) for row in rows]
        assert [place.name for place in places[:5]] == [*names[:2], "scan.bmp.jpg", "up.jpg", "d.JPEG"]
        for place in places[5:]:
            assert re.fullmatch("clinkd_images/[0-9a-f]{32}[.]jpg", str(place))
        assert [(done.image_folder / place).read_bytes() for place in places] == [each["bytes"] for each in pictures]
    assert [row["id"] for row in rows[:2]] == ["set-row-1", "set-row-2"]


def test_a_folder_and_its_splits_through_datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    features = datasets.Features({name: datasets.Value("string") for name in ("question", "answer")})
    features["image"] = datasets.Image()
    for split, count in (("train", 3), ("test", 2)):
        part = {
            "question": ["q?"] * count,
            "answer": ["a"] * count,
            "image": [{"bytes": jpeg(), "path": None}] * count,
        }
        (tmp_path / "folder").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(part, features).to_parquet(tmp_path / "folder" / f"{split}-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="splits train, test|splits test, train"):
        list(read_source(tmp_path / "folder"))
    done, rows = converted(tmp_path / "folder", tmp_path, split="test")
    assert (len(rows), done.format) == (2, "vqa")
    assert (done.image_folder / rows[0]["images"][0]).read_bytes() == jpeg()


def test_a_data_uri_is_a_picture(tmp_path):
    uri = "data:image/jpeg;base64," + base64.b64encode(jpeg()).decode()
    content = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "A liver."}]
    done, (row,) = converted(write_source(tmp_path / "rows.jsonl", [{"messages": messages}]), tmp_path)
    assert (done.image_folder / row["images"][0]).read_bytes() == jpeg()
    assert texts(row) == ["<image>What?", "A liver."]


def test_coco(tmp_path):
    def box(identity, image, category, x, **more):
        return {"id": identity, "image_id": image, "category_id": category, "bbox": [x, 10, 40, 30], "area": 1} | more

    annotations = [box(1, 1, 3, 20, segmentation=[[1, 2, 3, 4]]), box(2, 1, 4, 60), box(3, 1, 3, 100)]
    annotations += [box(4, 2, 3, 0, iscrowd=1), box(5, 9, 3, 0), box(6, 2, 4, 500), box(7, 3, 8, 0)]
    images = [COCO_IMAGE] + [{"id": n, "file_name": f"{n}.jpg", "width": 200, "height": 100} for n in (2, 3, 4)]
    categories = [{"id": 3, "name": "liver"}, {"id": 4, "name": "spleen"}]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations, "categories": categories}))
    done, rows = converted(path, tmp_path)
    assert [texts(row)[1] for row in rows] == [
        "<|object_ref_start|>liver<|object_ref_end|><|box_start|>(100,100),(300,400)<|box_end|>"
        "<|box_start|>(500,100),(700,400)<|box_end|>",
        "<|object_ref_start|>spleen<|object_ref_end|><|box_start|>(300,100),(500,400)<|box_end|>",
    ]
    assert [row["task"] for row in rows] == ["VG", "VG"]
    assert done.reasons == {"missing_field": 2, "bad_box": 1, "box_outside": 1, "no_finding": 1}
    path.write_text(json.dumps({"images": images, "annotations": [{"id": 1, "image_id": 1, "caption": "A CT."}]}))
    _, (row,) = converted(path, tmp_path)
    assert texts(row) == ["<image>Describe the image.", "A CT."]


def test_vindr_lines_are_joined_by_reader(tmp_path):
    draw(tmp_path, "50a4.png", (100, 200))
    lines = ["image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"]
    lines += ["50a4,Nodule,8,R9,10,20,50,100", "50a4,No finding,14,R8,,,,", "50a4,Nodule,8,R9,60,20,100,200"]
    lines += ["50a4,Nodule,8,R10,11,20,50,100", "50a4,Mass,9,R10,11,20,,100"]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    done, rows = converted(tmp_path / "train.csv", tmp_path)
    boxes = [texts(row)[1].split("<|object_ref_end|>")[1] for row in rows]
    assert boxes == [
        "<|box_start|>(100,100),(500,500)<|box_end|><|box_start|>(600,100),(999,999)<|box_end|>",
        "<|box_start|>(110,100),(500,500)<|box_end|>",
    ]
    assert rows[0]["images"] == ["50a4.png"]
    assert done.reasons == {"bad_box": 1, "no_finding": 1}


def test_kvasir(tmp_path):
    path = tmp_path / "kavsir_bboxes.json"
    path.write_text(json.dumps({"cju0": {key: KVASIR[key] for key in KVASIR if key != "id"}}))
    done, (row,) = converted(path, tmp_path)
    assert (row["id"], row["images"]) == ("cju0", ["cju0.jpg"])
    assert texts(row)[1].endswith("<|box_start|>(61,9),(691,639)<|box_end|>")  # 38/622, 5/529, 430/622, 338/529


def test_a_picture_of_another_shape_than_its_annotation_is_reported(tmp_path):
    draw(tmp_path, "cju0.jpg", (529, 622))
    done, _ = converted(write_source(tmp_path / "rows.json", [KVASIR]), tmp_path)
    assert any("has 529 x 622 pixels, its annotation is for 622 x 529" in warning for warning in done.warnings)


def test_pmc_vqa_in_csv(tmp_path):
    path = tmp_path / "train.csv"
    path.write_text(
        ",".join(PMC_VQA) + "\n" + ",".join(PMC_VQA.values()) + "\n" + ",".join(PMC_VQA.values())[:-1] + "E"
    )
    done, (row,) = converted(path, tmp_path)
    assert texts(row) == ["<image>What is shown?\nA: Liver\nB: Spleen\nC: Kidney\nD: Lung", "B: Spleen"]
    assert done.reasons == {"wrong_type": 1}


def test_refcoco(tmp_path):
    source = write_source(tmp_path / "rows.json", [REFCOCO, REFCOCO | {"raw_anns": "{}", "bbox": [20, 10, 60, 40]}])
    _, rows = converted(source, tmp_path)
    assert [message["content"] for message in rows[0]["messages"]][1::2] == [
        "<|box_start|>(100,100),(302,400)<|box_end|>"
    ] * 2
    assert texts(rows[1])[1] == "<|box_start|>(100,100),(300,400)<|box_end|>"


def test_ms_swift_objects(tmp_path):
    swift = MS_SWIFT["objects"]
    rows = [MS_SWIFT, MS_SWIFT | {"objects": swift | {"bbox_type": "norm1", "bbox": [[0.09, 0.01, 0.3, 0.25]]}}]
    rows += [
        MS_SWIFT | {"objects": swift | {"bbox": [[1, 2, 3, 4], [5, 6, 7, 8]]}},
        MS_SWIFT | {"objects": {"bbox": []}},
    ]
    rows += [MS_SWIFT | {"objects": swift | {"bbox_type": "odd"}}]
    done, (first, second) = converted(write_source(tmp_path / "rows.json", rows), tmp_path)
    assert texts(first) == texts(second)
    assert texts(first) == [
        "<image>Where is the <|object_ref_start|>liver<|object_ref_end|>?",
        "<|box_start|>(90,10),(300,250)<|box_end|>",
    ]
    assert done.tasks == {"VG": 2} and done.reasons == {"bad_box": 3}
    assert any("usually has pixels" in warning for warning in done.warnings)
    draw(tmp_path, "a.jpg", (500, 500))
    done, (first, _) = converted(tmp_path / "rows.json", tmp_path)
    assert (done.unit, texts(first)[1]) == ("pixels", "<|box_start|>(180,20),(600,500)<|box_end|>")


def test_qwen_vl_and_alpaca_history(tmp_path):
    done, (row,) = converted(write_source(tmp_path / "rows.json", [QWEN_VL]), tmp_path)
    assert (done.format, row["images"], row["task"]) == ("qwen_vl", ["images/a.jpg"], "VG")
    alpaca = {
        "query": "And now?",
        "response": "Yes.",
        "history": [["First?", "No."]],
        "images": ["a.jpg"],
        "system": "Be brief.",
    }
    _, (row,) = converted(write_source(tmp_path / "rows.json", [alpaca]), tmp_path)
    assert texts(row) == ["Be brief.", "<image>First?", "No.", "And now?", "Yes."]


def test_columns_for_the_evaluation_are_kept(tmp_path):
    rows = [VQA_RAD | {"image_organ": "HEAD", "question_type": "PRES", "answer_type": "OPEN"}]
    _, (row,) = converted(write_source(tmp_path / "rows.json", rows), tmp_path)
    kept = {key: row.get(key) for key in ("answer_type", "content_type", "organ", "question_id")}
    assert kept == {"answer_type": "OPEN", "content_type": "PRES", "organ": "HEAD", "question_id": "7"}
    _, (row,) = converted(write_source(tmp_path / "rows.json", [SLAKE | {"location": "Lung"}]), tmp_path)
    assert (row["language"], row["modality"], row["organ"]) == ("en", "mr", "Lung")
    several = QUESTION | {"answer": ["no", "none"], "patient_id": "Jane Doe"}
    done, (row,) = converted(write_source(tmp_path / "rows.json", [several]), tmp_path)
    assert (texts(row)[1], row["annotations"]) == ("no", ["no", "none"])
    assert row["patient"] and "Jane" not in done.path.read_text()


def test_answers_in_a_form_that_is_not_read_are_counted(tmp_path):
    answers = ["At 100, 200, 300, 400.", "The liver.", '{"box_2d": [1, 2, 30, 40]}']
    rows = [QUESTION | {"answer": answer} for answer in answers]
    rows[1] |= {"question": "What is at x1: 10, y1: 20?"}
    done, _ = converted(write_source(tmp_path / "rows.json", rows), tmp_path)
    assert (done.unread, done.answers) == (2, 3)
    assert len(done.warnings) == 3
    assert "a form that is not read: '100, 200, 300, 400" in done.warnings[0]
    assert "a form that is not read: 'x1: 10" in done.warnings[1]


def test_a_system_prompt_with_an_image_is_set_aside(tmp_path):
    system = {"role": "system", "content": "look at <image> first"}
    source = write_source(tmp_path / "rows.json", [SHAREGPT, SHAREGPT | {"messages": [system, *SHAREGPT["messages"]]}])
    converted(source, tmp_path)
    assert [line["reason"] for line in read_rejects(tmp_path / "out")] == ["image_in_system"]
