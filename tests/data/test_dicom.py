# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Series, patients, modality and windows from DICOM headers, and colour that pydicom decodes."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from llamafactory_clinkd.data.check import check
from llamafactory_clinkd.data.convert import Options, convert
from llamafactory_clinkd.data.problems import Reject
from llamafactory_clinkd.data.scans import scan_to_png
from llamafactory_clinkd.data.split import write_split
from llamafactory_clinkd.utils.scan_names import patient_of, volume_of

from .samples import SHAREGPT, read_rejects, write_source
from .test_scans import dicom, nifti


pytest.importorskip("pydicom", reason="pydicom reads DICOM: pip install 'llamafactory-clinkd[data]'")
pytest.importorskip("nibabel", reason="nibabel reads NIfTI: pip install 'llamafactory-clinkd[data]'")
AXIAL = [1, 0, 0, 0, 1, 0]


def slice_of(number, shape=(30, 40)):
    return (np.arange(np.prod(shape)).reshape(shape) + 10 * number).astype(np.uint16)


def series(folder, uid, count, patient="MRN-1", study="9.1", **fields):
    """Single-slice files whose names and instance numbers are not in the order of their positions."""
    for number in range(count):
        header = {"SeriesInstanceUID": uid, "StudyInstanceUID": study, "PatientID": patient, "modality": "MR"}
        header |= {"ImagePositionPatient": [0, 0, 5.0 * number], "ImageOrientationPatient": AXIAL} | fields
        dicom(
            folder / f"{uid}_{(11 * number) % count:02d}.dcm",
            slice_of(number),
            InstanceNumber=count - number,
            **header,
        )


def rows_of(folder):
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.dcm"))
    return [SHAREGPT | {"images": [name], "id": name, "modality": "nonsense"} for name in names]


def converted(folder, rows, **options):
    source = write_source(folder / "source.json", rows)
    done = convert(source, folder / "out", options=Options(image_folder=folder, **options))
    return done, json.loads(done.path.read_text())


def test_files_of_one_series_are_one_volume_with_the_header_s_modality(tmp_path):
    series(tmp_path / "a", "1.2.3", 20)
    series(tmp_path / "a", "1.2.4", 20, patient="MRN-2", study="9.2")
    done, rows = converted(tmp_path, rows_of(tmp_path))
    assert done.modalities == {"mr": 40} and done.converted == 40
    volumes = {volume_of(row["images"][0]) for row in rows}
    assert len(volumes) == 2 == len({patient_of(row["images"][0]) for row in rows})
    for by in ("volume", "patient"):
        assert write_split(done.path, "train", "test", share=0.3, by=by) == (20, 20)
    for text in (done.path.read_text(), *(path.name for path in tmp_path.rglob("*.png"))):
        assert not re.search(r"MRN|9\.1--|1\.2\.3--", text)


def test_two_series_of_one_patient_stay_together_by_patient_only(tmp_path):
    series(tmp_path, "1.2.3", 3)
    series(tmp_path, "1.2.4", 3, study="9.2")
    series(tmp_path, "1.2.5", 3, patient="", study="9.3")  # without an id the study stands for the patient
    series(tmp_path, "1.2.6", 3, patient="", study="9.3")
    done, rows = converted(tmp_path, rows_of(tmp_path))
    assert len({volume_of(row["images"][0]) for row in rows}) == 4
    assert len({patient_of(row["images"][0]) for row in rows}) == 2
    write_source(tmp_path / "train.json", rows[:3])
    write_source(tmp_path / "test.json", rows[3:6])
    found = check(tmp_path / "train.json", image_folder=tmp_path, against=[tmp_path / "test.json"], workers=1)
    assert found.counts["leak_patient"] + found.counts["leak_image"] == 3 and not found.counts["leak_volume"]


@pytest.mark.parametrize("flipped", [False, True])
def test_a_folder_of_a_series_is_a_volume_in_the_order_of_its_slices(tmp_path, flipped):
    orientation = [1, 0, 0, 0, -1, 0] if flipped else AXIAL  # the normal points down
    series(tmp_path / "a", "1.2.3", 7, ImageOrientationPatient=orientation)
    (tmp_path / "a" / "README.txt").write_text("no DICOM")
    for number in range(7):
        picture = scan_to_png(tmp_path, f"a#z:{number}")
        alone = next(
            path for path in (tmp_path / "a").glob("*.dcm") if _position(path) == (6 - number if flipped else number)
        )
        expected = scan_to_png(tmp_path, f"a/{alone.name}")
        np.testing.assert_array_equal(Image.open(tmp_path / picture.path), Image.open(tmp_path / expected.path))
        assert volume_of(picture.path) == volume_of(expected.path)
    assert scan_to_png(tmp_path, "a#z:middle").path.endswith("--z_middle.png")
    with pytest.raises(Reject, match="slice 7 does not exist: there are 7"):
        scan_to_png(tmp_path, "a/#z:7")
    series(tmp_path / "a", "1.2.4", 2)
    with pytest.raises(Reject, match="9 DICOM files of 2 series"):
        scan_to_png(tmp_path, "a#z:0")


def _position(path):
    import pydicom

    return int(pydicom.dcmread(path).ImagePositionPatient[2] / 5)


def test_two_files_of_one_stem_are_two_pictures(tmp_path):
    nifti(tmp_path / "p1.nii", shape=(30, 40, 3))
    nifti(tmp_path / "p1.nii.gz", values=np.arange(3600, dtype=np.int16)[::-1].reshape(30, 40, 3))
    nifti(tmp_path / "p2.nii.gz", shape=(30, 40, 3))
    dicom(tmp_path / "p2.dcm", slice_of(3))
    dicom(tmp_path / "p2.DICOM", slice_of(9))
    names = ["p1.nii", "p1.nii.gz", "p2.nii.gz", "p2.dcm", "p2.DICOM"]
    done, rows = converted(tmp_path, [SHAREGPT | {"images": [name], "id": name} for name in names])
    assert len({row["images"][0] for row in rows}) == 5
    pictures = [np.asarray(Image.open(tmp_path / row["images"][0])) for row in rows[:2]]
    assert not np.array_equal(*pictures)


def test_a_modality_or_window_given_later_makes_another_picture(tmp_path):
    nifti(tmp_path / "p.nii", shape=(30, 40, 3))
    row = {**SHAREGPT, "images": ["p.nii"]}
    _, (plain,) = converted(tmp_path, [row | {"modality": "mr"}])
    _, (windowed,) = converted(tmp_path, [row | {"modality": "ct"}])
    _, (chosen,) = converted(tmp_path, [row | {"modality": "ct"}], window=(600, 1500))
    assert [row["images"][0] for row in (plain, windowed, chosen)] == [
        "clinkd_png/p.nii--z_0000.png",
        "clinkd_png/p.nii--w40_400--z_0000.png",
        "clinkd_png/p.nii--w600_1500--z_0000.png",
    ]
    dicom(tmp_path / "c.dcm", slice_of(0), WindowCenter=50, WindowWidth=350)
    assert "--w50_350--" in scan_to_png(tmp_path, "c.dcm").path


def test_colour_is_decoded_once(tmp_path):
    pytest.importorskip("data_store", reason="pydicom-data, which carries real scans, is not installed")
    from pydicom.data import get_testdata_file

    pictures = []
    for name in ("SC_rgb.dcm", "SC_ybr_full_uncompressed.dcm"):  # the same picture in two colour spaces
        (tmp_path / name).write_bytes(open(get_testdata_file(name, download=False), "rb").read())
        pictures.append(np.asarray(Image.open(tmp_path / scan_to_png(tmp_path, name).path)).astype(int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 8  # the two files differ by rounding; a second conversion by 255


def test_scans_that_give_no_picture_are_set_aside_with_their_reason(tmp_path):
    nifti(tmp_path / "nan.nii", values=np.full((30, 30, 3), np.nan))
    nifti(tmp_path / "thin.nii", shape=(300, 1, 3))
    nifti(tmp_path / "small.nii", shape=(20, 20, 3))
    (tmp_path / "pointer.nii.gz").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 1\n")
    (tmp_path / "pointer.dcm").write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 1\n")
    nifti(tmp_path / "constant.nii", values=np.full((30, 30, 3), 7.0))
    names = ["nan.nii", "thin.nii", "small.nii", "pointer.nii.gz", "pointer.dcm", "constant.nii"]
    done, (row,) = converted(tmp_path, [SHAREGPT | {"images": [name], "id": name} for name in names])
    assert row["id"] == "constant.nii"
    reasons = [line["reason"] for line in read_rejects(tmp_path / "out")]
    assert reasons == ["bad_scan", "image_aspect", "image_small", "lfs_pointer", "lfs_pointer"]
    assert dict(check(done.path, image_folder=tmp_path, workers=1).counts) == {"image_blank": 1}
