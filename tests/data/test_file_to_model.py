# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""From a file as it is published to a trained model: one `convert`, one recipe, no step by hand."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from small_run import build_workspace, drawn_rows, llamafactory_cli, losses, recipe, write_recipe
from typer.testing import CliRunner
from vqa_rad import VQA_RAD

from llamafactory_clinkd.data.cli import app
from llamafactory_clinkd.utils.boxes import parse_boxes


ROWS = 8


def vqa_rad(folder):
    """VQA-RAD's rows with their pictures in one Parquet file, as the hub has them; without it, drawn ones."""
    if (VQA_RAD / "trainset.json").is_file():
        rows = json.loads((VQA_RAD / "trainset.json").read_text(encoding="utf-8"))[:ROWS]
        pictures = [VQA_RAD / "images" / row["image_name"] for row in rows]
    else:
        rows = [{"question": row["turns"][0][0], "answer": "yes"} for row in drawn_rows(folder, ROWS)]
        pictures = sorted((folder / "images").iterdir())
    table = [
        {
            "image": {"bytes": picture.read_bytes(), "path": picture.name},
            "question": row["question"],
            "answer": str(row["answer"]),
            "answer_type": row.get("answer_type", "CLOSED"),
        }
        for row, picture in zip(rows, pictures, strict=True)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), folder / "train.parquet")
    return folder / "train.parquet", 0


def coco(folder):
    rows = drawn_rows(folder, ROWS)
    images, annotations = [], []
    for number, row in enumerate(rows):
        with Image.open(folder / row["image"]) as picture:
            width, height = picture.size
        images.append({"id": number, "file_name": row["image"], "width": width, "height": height})
        annotations.append({"id": number, "image_id": number, "category_id": 1, "bbox": [10, 10, 30, 30]})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json", ROWS


def dicom_series(folder):
    """Slices of one series as files of their own, named by rows."""
    pydicom = pytest.importorskip("pydicom", reason="pydicom, which writes the series, is not installed")
    import numpy as np
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    series, rows = generate_uid(), []
    for number in range(ROWS):
        meta = pydicom.dataset.FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid()
        slice_ = pydicom.dataset.FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        slice_.SOPClassUID, slice_.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        slice_.SeriesInstanceUID, slice_.Modality, slice_.InstanceNumber = series, "CT", number + 1
        slice_.Rows = slice_.Columns = 64
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
        slice_.RescaleSlope, slice_.RescaleIntercept = 1, -1024
        slice_.PixelData = np.random.default_rng(number).integers(900, 1200, (64, 64), dtype=np.int16).tobytes()
        slice_.save_as(folder / f"slice_{number}.dcm", enforce_file_format=True)
        rows.append({"image": f"slice_{number}.dcm", "question": "Which modality?", "answer": "CT"})
    (folder / "rows.csv").write_text("\n".join([",".join(rows[0]), *(",".join(row.values()) for row in rows)]))
    return folder / "rows.csv", 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [vqa_rad, pytest.param(coco, marks=pytest.mark.long), pytest.param(dicom_series, marks=pytest.mark.long)],
)
def test_a_published_file_becomes_a_trained_model(tmp_path, source):
    workspace = build_workspace(tmp_path / "workspace", own_vocabulary=True)
    (tmp_path / "source").mkdir()
    path, boxes = source(tmp_path / "source")
    summary = tmp_path / "summary.json"
    arguments = ["convert", path, workspace / "data", "--name", "published", "--json", summary]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    found = json.loads(summary.read_text())
    assert (found["rows_in"], found["rows_out"], found["rejected"]) == (ROWS, ROWS, 0)
    rows = json.loads((workspace / "data" / "published.json").read_text())
    assert sum(len(parse_boxes(row["messages"][1]["content"])) for row in rows) == boxes

    keys = recipe(workspace, tmp_path / "run", dataset="published", eval_dataset=None, image_max_pixels=56 * 56)
    keys |= {"media_dir": found["image_folder"], "cutoff_len": 1024}
    run = llamafactory_cli("train", str(write_recipe(tmp_path / "run.yaml", keys)))
    assert run.returncode == 0, run.stderr[-3000:]
    state = next((tmp_path / "run").rglob("trainer_state.json"))
    assert len(losses(state.parent)) == 2  # 8 rows, 2 a batch, 2 batches a step
    assert next((tmp_path / "run").rglob("model.safetensors")).is_file()
