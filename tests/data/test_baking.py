# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What `convert` does with picture files: PNG where readers differ, rejects, counts, and rows in = rows out."""

import io
import json
import os

import numpy as np
import pytest
from picture_files import FILES, NOISE, RGB, saved
from PIL import Image

from llamafactory_clinkd.data.baking import any_reader_picture, keyed_hash, write_png
from llamafactory_clinkd.data.check import check
from llamafactory_clinkd.data.convert import Options, convert
from llamafactory_clinkd.utils.scan_names import bare_names, volume_of

from .samples import SHAREGPT, read_rejects, write_source
from .test_scans import dicom


def turned(orientation=6):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return saved(RGB, "JPEG", exif=exif)


def converted(folder, files, **options):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    rows = [SHAREGPT | {"images": [name], "id": name} for name in files]
    source = write_source(folder / "source.json", rows)
    done = convert(source, folder / "out", options=Options(image_folder=folder, **options))
    return done, {row["id"]: row["images"][0] for row in json.loads(done.path.read_text())}


def test_after_convert_check_finds_nothing_that_readers_see_otherwise(tmp_path):
    files = {name: content for name, (content, _, _) in FILES.items()} | {"turned.jpg": turned()}
    done, images = converted(tmp_path, files)
    assert done.converted == len(files) == done.rows_in
    expected = {}
    for _, _, remarks in FILES.values():
        for code in remarks - {"image_blank"}:
            expected[code] = expected.get(code, 0) + 1
    expected["image_rotated"] = 1
    expected["image_alpha"] += 1  # without decoding, an opaque alpha channel counts as transparency
    expected["image_mode"] -= 1
    assert done.pictures == expected
    found = check(done.path, image_folder=tmp_path, workers=1)
    assert found.errors == 0
    assert set(found.counts) == {"image_frames", "image_extension", "image_blank"}
    plain = {"grey.png", "rgb.png", "rgb.bmp", "pages.tif", "other.png", "blank.png", "ycbcr.tif"}
    assert {name for name, image in images.items() if image == name} == plain


def test_unusable_files_are_set_aside_and_the_other_rows_are_kept(tmp_path):
    files = {
        "good.png": saved(RGB, "PNG"),
        "pointer.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 130\n",
        "zero.png": b"",
        "page.png": b"<html>404</html>",
        "cut.png": saved(RGB, "PNG")[:3000],
        "cut.jpg": saved(RGB, "JPEG")[:-30],
        "long.png": saved(Image.new("L", (1, 400)), "PNG"),
        "tiny.png": saved(Image.new("L", (10, 10)), "PNG"),
        "nan.tif": saved(Image.fromarray(np.full((40, 40), np.nan, np.float32)), "TIFF"),
        "last.png": saved(RGB, "PNG"),
    }
    done, images = converted(tmp_path, files)
    assert (done.rows_in, done.converted, done.rejected) == (10, 2, 8)
    assert images == {"good.png": "good.png", "last.png": "last.png"}
    assert {line["id"]: line["reason"] for line in read_rejects(tmp_path / "out")} == {
        "pointer.png": "lfs_pointer",
        "zero.png": "image_unreadable",
        "page.png": "image_unreadable",
        "cut.png": "image_truncated",
        "cut.jpg": "image_truncated",
        "long.png": "image_aspect",
        "tiny.png": "image_small",
        "nan.tif": "image_unreadable",
    }
    assert all(line["id"] in line["detail"] for line in read_rejects(tmp_path / "out"))


def test_images_that_are_not_there_are_counted(tmp_path):
    source = write_source(tmp_path / "source.json", [SHAREGPT])
    done = convert(source, tmp_path / "out", options=Options(image_folder=tmp_path))
    assert (done.converted, done.pictures) == (1, {"image_missing": 1})


def test_an_orientation_is_applied_or_dropped(tmp_path):
    stored = np.asarray(Image.open(io.BytesIO(turned())).convert("RGB"))
    _, images = converted(tmp_path, {"a.jpg": turned()})
    upright = Image.open(tmp_path / images["a.jpg"])
    np.testing.assert_array_equal(upright, np.rot90(stored, -1))
    assert upright.info == {} and not upright.getexif()
    _, images = converted(tmp_path, {"a.jpg": turned()}, upright=False)
    np.testing.assert_array_equal(Image.open(tmp_path / images["a.jpg"]), stored)


def test_a_png_follows_its_source_and_is_written_once(tmp_path):
    (tmp_path / "a.png").write_bytes(saved(RGB.convert("CMYK"), "TIFF"))
    os.utime(tmp_path / "a.png", ns=(5 * 10**9, 5 * 10**9))
    picture, codes = any_reader_picture(tmp_path, "a.png")
    assert (picture, codes) == ("clinkd_png/a.png.png", {"image_mode", "image_extension"})
    inode = (tmp_path / picture).stat().st_ino
    any_reader_picture(tmp_path, "a.png")
    assert (tmp_path / picture).stat().st_ino == inode
    (tmp_path / "a.png").write_bytes(saved(RGB.rotate(180).convert("CMYK"), "TIFF"))
    os.utime(tmp_path / "a.png", ns=(10**9, 10**9))  # older than the PNG: a copy that kept its time
    any_reader_picture(tmp_path, "a.png")
    np.testing.assert_array_equal(Image.open(tmp_path / picture), NOISE[::-1, ::-1])


def test_long_names_get_their_own_short_one(tmp_path):
    source = tmp_path / "a"
    source.write_bytes(b"")
    names = ["é" * 110 + f"{n}" + "--z_0001" for n in range(3)]
    written = {write_png(tmp_path, name, source, lambda: RGB) for name in names}
    assert len(written) == 3 and all(path.endswith("--z_0001.png") for path in written)
    assert all((tmp_path / path).is_file() for path in written)


def test_names_of_png_files_keep_volume_and_id():
    name = "ct_00--AMOS2022--amos_0001--x_0020"
    for image in (f"{name}.png", f"clinkd_png/{name}.png.png", f"clinkd_png/{name}.png--stored.png"):
        assert volume_of(image) == "amos2022--amos_0001" and name in bare_names(image)


def test_a_hash_needs_the_key_of_the_folder(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    assert keyed_hash(one, "MRN-4711") == keyed_hash(one, "MRN-4711") != keyed_hash(one, "MRN-4712")
    assert keyed_hash(one, "MRN-4711") != keyed_hash(other, "MRN-4711")
    key = one / "clinkd_png" / ".key"
    assert key.stat().st_mode & 0o077 == 0 and len(key.read_bytes()) == 32


def test_a_column_of_patients_is_hashed(tmp_path):
    rows = [
        SHAREGPT | {"id": str(n), "subject": subject} for n, subject in enumerate(["Doe", "Roe", "Doe", None, " "])
    ]
    source = write_source(tmp_path / "source.json", rows)
    done = convert(source, tmp_path / "out", options=Options(image_folder=tmp_path, patient_column="subject"))
    first, second, third = (row["patient"] for row in json.loads(done.path.read_text()))
    assert first == third != second and done.reasons == {"missing_field": 2}
    assert "Doe" not in done.path.read_text()


@pytest.mark.parametrize("seed", range(3))
def test_mutated_files_are_never_lost_in_silence(tmp_path, seed):
    """100 files each with bytes changed, cut or inserted: converted and then free of errors, or set aside."""
    rng = np.random.default_rng(seed)
    originals = list(FILES.items())
    files = {}
    for number in range(100):
        name, (content, _, _) = originals[rng.integers(len(originals))]
        content = bytearray(content)
        kind, place = rng.integers(3), rng.integers(len(content))
        if kind == 0:
            content[place] ^= 1 << rng.integers(8)
        elif kind == 1:
            content = content[:place]
        else:
            content[place:place] = rng.bytes(7)
        files[f"{number}_{name}"] = bytes(content)
    done, images = converted(tmp_path, files)
    assert (done.rows_in, done.converted + done.rejected, len(images)) == (100, 100, done.converted)
    found = check(done.path, image_folder=tmp_path, workers=1)
    # A PNG or JPEG with its end marker is not decoded by `convert`; `check` decodes all.
    allowed = {
        "image_unreadable",
        "image_truncated",
        "image_frames",
        "image_extension",
        "image_blank",
        "duplicate_row",
    }
    assert set(found.counts) <= allowed | {"image_rotated"}


def test_a_full_disk_stops_the_conversion_and_rejects_no_row(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    dicom(tmp_path / "a.dcm", np.arange(1600, dtype=np.uint16).reshape(40, 40))
    (tmp_path / "a.png").write_bytes(FILES["deep.png"][0])
    for name in ("a.png", "a.dcm"):
        source = write_source(tmp_path / "source.json", [SHAREGPT | {"images": [name]}])
        with pytest.raises(OSError, match="cannot be written: .*No space left"):
            convert(source, tmp_path / "out", options=Options(image_folder=tmp_path))
        assert not (tmp_path / "out" / "source.json").exists()
