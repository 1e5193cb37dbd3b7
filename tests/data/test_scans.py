# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from llamafactory_clinkd.data.convert import Options, convert
from llamafactory_clinkd.data.problems import Reject
from llamafactory_clinkd.data.scans import Slice, is_scan, scan_to_png
from llamafactory_clinkd.utils.pixels import stretch, stretch_percentiles

from .samples import SHAREGPT, write_source


pydicom = pytest.importorskip("pydicom", reason="pydicom reads DICOM: pip install 'llamafactory-clinkd[data]'")
nibabel = pytest.importorskip("nibabel", reason="nibabel reads NIfTI: pip install 'llamafactory-clinkd[data]'")
SECRETS = ("Doe^Jane", "19700101", "MRN-4711", "St. Nowhere")


def dicom(path, pixels, *, modality="CT", colour="MONOCHROME2", frames=0, **fields):
    """Writes uint16 ``[h, w]``, ``[frames, h, w]`` or uint8 RGB, with a header full of identifiers."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.PatientName, dataset.PatientBirthDate, dataset.PatientID, dataset.InstitutionName = SECRETS
    dataset.Modality, dataset.PhotometricInterpretation = modality, colour
    dataset.Rows, dataset.Columns = pixels.shape[-3:-1] if colour == "RGB" else pixels.shape[-2:]
    dataset.SamplesPerPixel, dataset.PixelRepresentation = (3, 0) if colour == "RGB" else (1, 0)
    if colour == "RGB":
        dataset.PlanarConfiguration = 0
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    if frames:
        dataset.NumberOfFrames = frames
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def pixels_of(folder, image, **keys):
    target, notes, _ = scan_to_png(folder, image, **keys)
    with Image.open(folder / target) as picture:
        return np.asarray(picture), notes


HU = np.array([[0, 824, 1024], [1064, 1124, 1264]], dtype=np.uint16)  # stored; minus 1024 gives HU
LARGE_HU = np.tile(HU, (16, 12))


def windowed(hu, centre, width):
    return np.round(np.clip((hu - (centre - width / 2)) / width, 0, 1) * 255).astype(np.uint8)


def test_ct_is_windowed(tmp_path):
    fields = {"RescaleSlope": 1, "RescaleIntercept": -1024}
    hu = HU.astype(float) - 1024
    dicom(tmp_path / "ct_1.dcm", HU, **fields)
    np.testing.assert_array_equal(pixels_of(tmp_path, "ct_1.dcm")[0], windowed(hu, 40, 400))
    dicom(tmp_path / "ct_2.dcm", HU, WindowCenter=[-600, 40], WindowWidth=[1500, 400], **fields)
    np.testing.assert_array_equal(pixels_of(tmp_path, "ct_2.dcm")[0], windowed(hu, -600, 1500))
    np.testing.assert_array_equal(pixels_of(tmp_path, "ct_2.dcm", window=(50, 100))[0], windowed(hu, 50, 100))


def test_mr_is_stretched_between_percentiles(tmp_path):
    values = np.arange(10_000, dtype=np.uint16).reshape(100, 100)
    values[0, 0], values[99, 99] = 0, 60_000  # one bright spot must not darken the rest
    dicom(tmp_path / "mr_1.dcm", values, modality="MR")
    found, _ = pixels_of(tmp_path, "mr_1.dcm")
    low, high = np.percentile(values, (0.5, 99.5))
    expected = np.round((np.clip(values.astype(float), low, high) - low) / (high - low) * 255)
    np.testing.assert_array_equal(found, expected.astype(np.uint8))
    assert found[50, 50] > 100


def test_monochrome1_is_inverted(tmp_path):
    ramp = np.arange(256, dtype=np.uint16).reshape(16, 16)
    dicom(tmp_path / "plain.dcm", ramp, modality="CR")
    dicom(tmp_path / "inverted.dcm", ramp, modality="CR", colour="MONOCHROME1")
    plain, inverted = (pixels_of(tmp_path, f"{name}.dcm")[0].astype(int) for name in ("plain", "inverted"))
    assert plain[0, 0] == 0 and inverted[0, 0] == 255
    np.testing.assert_array_equal(plain + inverted, 255)


def test_colour_and_frames(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    dicom(tmp_path / "us.dcm", rgb, modality="US", colour="RGB")
    np.testing.assert_array_equal(pixels_of(tmp_path, "us.dcm")[0], rgb)
    dicom(tmp_path / "deep.dcm", rgb.astype(np.uint16) * 257, modality="US", colour="RGB")
    np.testing.assert_array_equal(pixels_of(tmp_path, "deep.dcm")[0], rgb)
    with pytest.raises(Reject, match="own slices only, found the axis x"):
        scan_to_png(tmp_path, "us.dcm#x:0")
    frames = np.stack([np.full((3, 3), 100 * k, dtype=np.uint16) + np.eye(3, dtype=np.uint16) for k in range(4)])
    dicom(tmp_path / "cine.dcm", frames, modality="CT", frames=4, WindowCenter=150, WindowWidth=300)
    assert pixels_of(tmp_path, "cine.dcm")[0][0, 1] == 0
    assert pixels_of(tmp_path, "cine.dcm#2")[0][0, 1] == round(200 / 300 * 255)
    with pytest.raises(Reject, match="slice 9 does not exist: there are 4"):
        scan_to_png(tmp_path, "cine.dcm#9")
    with pytest.raises(Reject, match="there are 1"):
        scan_to_png(tmp_path, "us.dcm#1")


def test_burned_in_annotation_is_reported_every_time(tmp_path):
    dicom(tmp_path / "ct_1.dcm", HU, BurnedInAnnotation="YES")
    dicom(tmp_path / "ct_2.dcm", HU, BurnedInAnnotation="NO")
    for _ in range(2):
        (note,) = pixels_of(tmp_path, "ct_1.dcm")[1]
        assert note.startswith("ct_1.dcm:") and "burned into" in note
    assert pixels_of(tmp_path, "ct_2.dcm")[1] == []


def test_no_identifier_reaches_the_picture(tmp_path):
    dicom(tmp_path / "ct_1.dcm", HU)
    assert SECRETS[0].encode() in (tmp_path / "ct_1.dcm").read_bytes()
    target = scan_to_png(tmp_path, "ct_1.dcm").path
    content = (tmp_path / target).read_bytes()
    assert not [secret for secret in SECRETS if secret.encode() in content]
    with Image.open(tmp_path / target) as picture:
        assert picture.info == {} and not picture.getexif()


def nifti(path, affine=None, shape=(3, 4, 5), values=None):
    values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape) if values is None else values
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return values


def test_nifti_slices_face_the_radiologist(tmp_path):
    values = nifti(tmp_path / "brain.nii.gz")  # RAS: x grows to the patient's right, y to the front, z to the top
    found, _ = pixels_of(tmp_path, "brain.nii.gz#z:2", modality="ct", window=(30, 60))
    assert found.shape == (4, 3)
    assert found[0, 0] == round(values[2, 3, 2] / 60 * 255)  # front, patient's right: top left of the picture
    assert found[3, 2] == round(values[0, 0, 2] / 60 * 255)
    assert pixels_of(tmp_path, "brain.nii.gz#x:1")[0].shape == (5, 4)
    assert pixels_of(tmp_path, "brain.nii.gz#y:1")[0].shape == (5, 3)
    default, _ = pixels_of(tmp_path, "brain.nii.gz", default_slice=Slice.parse("middle"))
    np.testing.assert_array_equal(default, pixels_of(tmp_path, "brain.nii.gz#2")[0])
    with pytest.raises(Reject, match="there are 5"):
        scan_to_png(tmp_path, "brain.nii.gz#5")


def test_other_orientations_give_the_same_picture(tmp_path):
    values = nifti(tmp_path / "ras.nii")
    flipped = nibabel.Nifti1Image(values[::-1, ::-1], np.diag([-1, -1, 1, 1]))
    nibabel.save(flipped, tmp_path / "lps.nii")
    np.testing.assert_array_equal(pixels_of(tmp_path, "ras.nii")[0], pixels_of(tmp_path, "lps.nii")[0])
    nifti(tmp_path / "time.nii", shape=(3, 4, 5, 2))
    found, notes = pixels_of(tmp_path, "time.nii")
    assert found.shape == (4, 3) and notes == ["time.nii: the first of 2 volumes is used"]


def test_a_png_is_written_once(tmp_path):
    source = dicom(tmp_path / "a" / "ct_1.dcm", HU)
    target = scan_to_png(tmp_path, "a/ct_1.dcm").path
    assert re.fullmatch(r"clinkd_png/a/ct_1\.dcm--patient-[0-9a-f]{16}--w40_400--z_0000\.png", target)
    written = (tmp_path / target).stat().st_mtime_ns
    scan_to_png(tmp_path, "a/ct_1.dcm")
    assert (tmp_path / target).stat().st_mtime_ns == written
    dicom(source, HU + 1)
    scan_to_png(tmp_path, "a/ct_1.dcm")
    assert (tmp_path / target).stat().st_mtime_ns > written


def test_a_scan_replaced_by_an_older_one_is_read_again(tmp_path):
    source = dicom(tmp_path / "ct_1.dcm", HU)
    before, _ = pixels_of(tmp_path, "ct_1.dcm")
    dicom(source, HU[::-1].copy())
    os.utime(source, ns=(10**9, 10**9))
    np.testing.assert_array_equal(pixels_of(tmp_path, "ct_1.dcm")[0], before[::-1])


def test_a_run_that_ends_while_a_png_is_written_leaves_none(tmp_path, monkeypatch):
    def killed(self, path, **_):
        path.write_bytes(b"half a picture")
        raise SystemExit

    dicom(tmp_path / "ct_1.dcm", HU)
    monkeypatch.setattr(Image.Image, "save", killed)
    with pytest.raises(SystemExit):
        scan_to_png(tmp_path, "ct_1.dcm")
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "clinkd_png").iterdir()] == [".key"]
    scan_to_png(tmp_path, "ct_1.dcm")


def test_nothing_is_written_through_a_link(tmp_path):
    dicom(tmp_path / "data" / "ct_1.dcm", HU)
    target = tmp_path / "data" / scan_to_png(tmp_path / "data", "ct_1.dcm").path
    target.unlink()
    target.symlink_to(tmp_path / "elsewhere.png")
    scan_to_png(tmp_path / "data", "ct_1.dcm")
    assert target.is_file() and not target.is_symlink() and not (tmp_path / "elsewhere.png").exists()
    (tmp_path / "other").mkdir()
    dicom(tmp_path / "data2" / "ct_1.dcm", HU)
    (tmp_path / "data2" / "clinkd_png").symlink_to(tmp_path / "other")
    with pytest.raises(Reject, match="outside the data folder"):
        scan_to_png(tmp_path / "data2", "ct_1.dcm")
    assert not list((tmp_path / "other").iterdir())


def test_med_grit_ids_may_name_scans(tmp_path):
    nifti(tmp_path / "ct_1.nii.gz", shape=(30, 40, 5))
    row = {"id": "ct_1.nii.gz#z:2", "conversations": [["What is this?", "A ramp."]]}
    done = convert(write_source(tmp_path / "grit.json", [row]), tmp_path / "out")
    assert (done.format, done.rejected) == ("med_grit", 0)
    assert '"clinkd_png/ct_1.nii.gz--w40_400--z_0002.png"' in done.path.read_text()


def test_faulty_scans(tmp_path):
    (tmp_path / "bad.dcm").write_bytes(b"no header")
    (tmp_path / "bad.nii").write_bytes(b"\0" * 400)
    nifti(tmp_path / "nan.nii", values=np.full((30, 30, 3), np.nan))
    nifti(tmp_path / "complex.nii", values=np.ones((30, 30, 3), dtype=np.complex64))
    nifti(tmp_path / "flat.nii", shape=(30, 30))
    (tmp_path / "empty").mkdir()
    faulty = ["bad.dcm", "bad.nii", "absent.dcm", "bad.nii#nowhere", "nan.nii", "complex.nii", "flat.nii"]
    for image in [*faulty, "empty#z:0", "absent#z:middle"]:
        with pytest.raises(Reject) as caught:
            scan_to_png(tmp_path, image)
        assert caught.value.reason == "bad_scan"
    with pytest.raises(Reject, match="bad_path"):
        scan_to_png(tmp_path / "x", "../bad.dcm")


def test_slices_and_names():
    assert [str(Slice.parse(text)) for text in ("first", "middle", "40", "z:40", "X:middle")] == [
        "z_0000",
        "z_middle",
        "z_0040",
        "z_0040",
        "x_middle",
    ]
    with pytest.raises(ValueError, match="not one of: first"):
        Slice.parse("w:3")
    assert is_scan("a/b.NII.GZ#z:3") and is_scan("b.dcm") and not is_scan("b.png")
    assert is_scan("a/series#z:3") and is_scan("a/series/#z:middle") and not is_scan("ct_1#1") and not is_scan("a#b")


def test_nothing_to_stretch():
    np.testing.assert_array_equal(stretch(np.full((2, 2), 7.0), 7, 7), 0)
    mask = np.zeros((100, 100))
    mask[5, 5] = 9  # too small for the 99.5th percentile
    assert stretch_percentiles(mask)[5, 5] == 255 and stretch_percentiles(mask).sum() == 255
    np.testing.assert_array_equal(stretch(np.array([np.nan, np.inf, -np.inf]), 0, 1), [0, 255, 0])


def test_rows_name_scans(tmp_path):
    dicom(tmp_path / "scans" / "ct_1.dcm", LARGE_HU, BurnedInAnnotation="YES")
    row = SHAREGPT | {"images": ["scans/ct_1.dcm"]}
    source = write_source(tmp_path / "source.json", [row, SHAREGPT | {"images": ["scans/ct_2.dcm"]}])
    for _ in range(2):
        done = convert(source, tmp_path / "out", options=Options(image_folder=tmp_path))
        assert done.reasons == {"bad_scan": 1}
        assert len(done.warnings) == 1
    (converted,) = json.loads(done.path.read_text())
    assert converted["images"][0].startswith("clinkd_png/scans/ct_1.dcm--patient-")


def test_warnings_beyond_the_first_hundred_are_counted(tmp_path):
    dicom(tmp_path / "scans" / "ct_1.dcm", LARGE_HU, BurnedInAnnotation="YES")
    source = write_source(tmp_path / "source.json", [SHAREGPT | {"images": ["scans/ct_1.dcm"]}] * 103)
    done = convert(source, tmp_path / "out", options=Options(image_folder=tmp_path))
    assert (len(done.warnings), done.warned) == (100, 103)


def test_a_real_mr_of_pydicom(tmp_path):
    pydicom_data = pytest.importorskip("data_store", reason="pydicom-data, which carries real scans, is not installed")
    assert pydicom_data
    from pydicom.data import get_testdata_file

    path = get_testdata_file("MR_small.dcm")
    (tmp_path / "mr_small.dcm").write_bytes(open(path, "rb").read())
    found, _ = pixels_of(tmp_path, "mr_small.dcm")
    assert found.shape == (64, 64)
    assert found.min() == 0 and found.max() == 255 and 20 < found.mean() < 200
