# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Every reader of a picture gets the same pixels: training, generation, CLIP, check, report and attention maps.

And after `convert`, LLaMA-Factory's own reader gets them too.
"""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from picture_files import FILES, RGB, saved
from PIL import Image

from llamafactory_clinkd.attention import figure
from llamafactory_clinkd.attention.answer_attention import _encode_question
from llamafactory_clinkd.data.baking import any_reader_picture
from llamafactory_clinkd.data.convert import Options, convert
from llamafactory_clinkd.data.images import inspect_images
from llamafactory_clinkd.phases.correct import ImageTextScore
from llamafactory_clinkd.phases.predict import load_image
from llamafactory_clinkd.report.excerpts import embed
from llamafactory_clinkd.rope.square import prepared_template
from llamafactory_clinkd.select.rank import rerank
from llamafactory_clinkd.select.scorers import ClipScorer
from llamafactory_clinkd.utils.pixels import read_pixels

from .samples import SHAREGPT, write_source
from .test_scans import dicom, nifti


pytest.importorskip("pydicom", reason="pydicom reads DICOM: pip install 'llamafactory-clinkd[data]'")
pytest.importorskip("nibabel", reason="nibabel reads NIfTI: pip install 'llamafactory-clinkd[data]'")
DEEP = np.linspace(0, 4095, 40 * 50).astype(np.uint16).reshape(40, 50)


def rotated(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(RGB, "JPEG", exif=exif)


PICTURES = {name: content for name, (content, _, _) in FILES.items()}
PICTURES |= {f"turned_{number}.jpg": rotated(number) for number in range(2, 9)}
SCANS = {
    "ct.dcm": lambda path: dicom(path, DEEP),
    "mr.dcm": lambda path: dicom(path, DEEP, modality="MR"),
    "inverted.dcm": lambda path: dicom(path, DEEP, modality="CR", colour="MONOCHROME1"),
    "colour.dcm": lambda path: dicom(path, np.asarray(RGB), modality="US", colour="RGB"),
    "volume.nii.gz": lambda path: nifti(path, shape=(30, 40, 3)),
    "time.nii": lambda path: nifti(path, shape=(30, 40, 3, 2)),
    "mirrored.nii": lambda path: nifti(path, affine=np.diag([-1, 1, -2, 1]), shape=(30, 40, 3)),
}


class Recorder:
    """An image processor, CLIP transform and scorer that keep the pictures they get."""

    def __init__(self):
        self.pictures = []
        self.reads_images, self.short_name, self.identity = True, "recorder", {"name": "recorder"}

    def __call__(self, images, **_):
        self.pictures += [np.asarray(image) for image in (images if isinstance(images, list) else [images])]
        return {"image_grid_thw": torch.tensor([[1, 2, 2]])}

    def score(self, images, texts):
        self(list(images))
        return [[0.0] * len(row) for row in texts]


def of_plugin(template, path):
    recorder = Recorder()
    limits = {"image_max_pixels": 10**9, "image_min_pixels": 1}  # no resampling: the pixels are compared
    processor = SimpleNamespace(image_processor=recorder, video_processor=None, **limits)
    template.mm_plugin._get_mm_inputs([str(path)], [], [], processor)
    return recorder.pictures


def of_clip(path):
    recorder = Recorder()

    def preprocess(image):
        recorder(image)
        return torch.zeros(3)

    model = SimpleNamespace(eval=lambda: model, to=lambda device: model)
    model.encode_image = model.encode_text = lambda rows, normalize: torch.ones(len(rows), 2)
    scorer = ClipScorer(model, preprocess, lambda texts: torch.zeros(len(texts), 1), {}, "", "cpu")
    scorer.score([load_image({"image": str(path)})], [["liver"]])
    ImageTextScore(scorer).scores(str(path), ["liver"])
    with Image.open(path) as opened:  # from a chat
        scorer.score([opened], [["liver"]])
    return recorder.pictures


def of_rerank(path, tmp_path):
    row = {"id": "1", "image": path.name, "question": "What?", "annotation": "a", "task": "MIA", "modality": "ct"}
    row["candidates"] = [{"text": "liver", "logprob": -1.0}, {"text": "lung", "logprob": -2.0}]
    (tmp_path / "predictions.jsonl").write_text(json.dumps(row) + "\n")
    recorder = Recorder()
    rerank(tmp_path / "predictions.jsonl", recorder, tmp_path / "again.jsonl", path.parent)
    return recorder.pictures


def of_report(path, monkeypatch):
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", lambda image, *_, **__: seen.append(np.asarray(image)))
        embed(path, 10_000)
    return seen


def of_attention(path, template, monkeypatch):
    recorder, drawn = Recorder(), []
    template = prepared_template(template, square=False)
    template.mm_plugin.get_mm_inputs = lambda images, *_: recorder(images)
    template.mm_plugin.process_messages = lambda messages, images, *_: recorder(images) and messages
    template.encode_oneturn = lambda *_: ([1], [])
    model = SimpleNamespace(device="cpu", dtype=torch.float32)
    _encode_question(SimpleNamespace(template=template, processor=None, model=model, tokenizer=None), path, "What?")
    with monkeypatch.context() as patch:
        patch.setattr("llamafactory_clinkd.attention.answer_attention.load_engine", lambda path: None)
        patch.setattr("llamafactory_clinkd.attention.answer_attention.answer_attention", lambda *_, **__: None)
        patch.setattr(figure, "draw", lambda picture, *_: drawn.append(np.asarray(picture)))
        (path.parent / "config.json").write_text("{}")  # a saved model has one
        figure.attention_figure([("a", path.parent)], path, "What?", "out.png")
    return recorder.pictures + drawn


@pytest.fixture(scope="module")
def template():
    from llamafactory.data.template import TEMPLATES

    return TEMPLATES["qwen2_vl"]


def assert_same_everywhere(path, template, tmp_path, monkeypatch):
    expected = np.asarray(read_pixels(path))
    readers = {
        "training and generation": of_plugin(prepared_template(template, square=False), path),
        "CLIP": of_clip(path),
        "select": of_rerank(path, tmp_path),
        "report": of_report(path, monkeypatch),
        "attention": of_attention(path, template, monkeypatch),
    }
    assert {name: len(pictures) for name, pictures in readers.items()} == {
        "training and generation": 1,
        "CLIP": 3,
        "select": 1,
        "report": 1,
        "attention": 3,
    }
    for pictures in readers.values():
        for picture in pictures:
            np.testing.assert_array_equal(picture, expected)
    (record,) = inspect_images(path.parent, [path.name])
    size = (expected.shape[1], expected.shape[0])
    digest = hashlib.blake2b(expected.tobytes(), digest_size=16, key=repr(size).encode()).hexdigest()
    assert (record.fault, record.width, record.height, record.digest) == ("", *size, digest)


@pytest.mark.parametrize("name", PICTURES)
def test_all_readers_of_a_picture_get_the_same_pixels(tmp_path, template, monkeypatch, name):
    path = tmp_path / "images" / name
    path.parent.mkdir()
    path.write_bytes(PICTURES[name])
    assert_same_everywhere(path, template, tmp_path, monkeypatch)

    picture, _ = any_reader_picture(path.parent, name)
    (stock,) = of_plugin(template, path.parent / picture)
    np.testing.assert_array_equal(stock, read_pixels(path))
    assert_same_everywhere(path.parent / picture, template, tmp_path, monkeypatch)


@pytest.mark.parametrize("name", SCANS)
def test_all_readers_of_a_converted_scan_get_the_same_pixels(tmp_path, template, monkeypatch, name):
    folder = tmp_path / "images"
    folder.mkdir()
    SCANS[name](folder / name)
    source = write_source(tmp_path / "source.json", [SHAREGPT | {"images": [name]}])
    done = convert(source, tmp_path / "out", options=Options(image_folder=folder))
    ((picture,),) = (row["images"] for row in json.loads(done.path.read_text()))
    assert_same_everywhere(folder / picture, template, tmp_path, monkeypatch)
    (stock,) = of_plugin(template, folder / picture)
    np.testing.assert_array_equal(stock, read_pixels(folder / picture))
    assert len(np.unique(stock)) > 50  # neither clipped nor black


def test_an_unusable_picture_stops_the_tokenisation_with_its_name(tmp_path, template):
    (tmp_path / "a.png").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match=r"a\.png: a Git-LFS pointer.*clinkd data check"):
        of_plugin(prepared_template(template, square=False), tmp_path / "a.png")


@pytest.mark.parametrize("wrap", [lambda c: c, lambda c: {"bytes": c, "path": None}], ids=["bytes", "a column's dict"])
def test_embedded_pictures_are_read_by_the_same_rule(template, wrap):
    plugin = prepared_template(template, square=False).mm_plugin
    limits = {"image_max_pixels": 10**9, "image_min_pixels": 1}
    (image,) = plugin._regularize_images([wrap(PICTURES["deep.png"])], **limits)["images"]
    np.testing.assert_array_equal(image, read_pixels(PICTURES["deep.png"]))
