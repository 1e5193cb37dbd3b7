# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What `convert` takes from DICOM: the pixels of a frame, and from the header modality, window, series and patient.

Series and patient leave this file as keyed hashes only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.environment import require_library
from ..utils.pixels import stretch, stretch_percentiles
from .problems import Reject


Window = tuple[float, float]  # centre and width, HU
SOFT_TISSUE: Window = (40.0, 400.0)
_MODALITIES = {"ct": "ct", "mr": "mr", "pt": "pet", "us": "ultrasound", "ivus": "ultrasound", "es": "endoscopy"}
_MODALITIES |= {"op": "fundus", "dms": "dermoscopy"} | dict.fromkeys("cr dx mg rg xa rf px io".split(), "x")
_TAGS = ("Modality", "WindowCenter", "WindowWidth", "BurnedInAnnotation", "InstanceNumber", "ImagePositionPatient")
_TAGS += ("ImageOrientationPatient", "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "NumberOfFrames")
_GROUPS = ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence")  # of enhanced objects


@dataclass(frozen=True)
class Header:
    """The parts of a header that matter here; ``series`` and ``patient`` are identifiers and stay in memory."""

    modality: str  # one of `utils.boxes.MODALITIES`, or empty
    series: str  # UID of the series or, without one, of the study
    patient: str  # PatientID or, without one, UID of the study or series
    is_burned_in: bool
    windows: tuple[Window | None, ...]  # of each frame
    frames: int
    place: tuple[float, ...]  # sorts the slices of a series

    def identity(self, keyed_hash: Callable[[str], str]) -> str:
        """``--series-<hash>--patient-<hash>``, as far as the header has them, for the name of a PNG."""
        parts = {"series": self.series, "patient": self.patient}
        return "".join(f"--{name}-{keyed_hash(f'{name} {value}')}" for name, value in parts.items() if value)


def read_header(path: Path) -> Header:
    """Reads a header without its pixels; errors of pydicom pass."""
    pydicom = require_library("pydicom", "data", "Reading DICOM needs")
    header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[*_TAGS, *_GROUPS])
    texts = {tag: str(header.get(tag, None) or "").strip() for tag in _TAGS}
    series, frames = texts["SeriesInstanceUID"] or texts["StudyInstanceUID"], int(texts["NumberOfFrames"] or 1)
    return Header(
        modality=_MODALITIES.get(texts["Modality"].lower(), ""),
        series=series,
        patient=texts["PatientID"] or texts["StudyInstanceUID"] or series,
        is_burned_in=texts["BurnedInAnnotation"].upper() == "YES",
        windows=tuple(_window(functional_group(header, i, "FrameVOILUTSequence") or header) for i in range(frames)),
        frames=frames,
        place=_place(header),
    )


def _window(header: Any) -> Window | None:
    """The first window of the header."""
    values = header.get("WindowCenter"), header.get("WindowWidth")
    if None in values or "" in values:
        return None
    centre, width = (float(np.ravel(value)[0]) for value in values)
    return (centre, width) if width > 0 else None


def _place(header: Any) -> tuple[float, ...]:
    """The position along the normal of the slice, mm, then the instance number; zeros where the header has none."""
    position, orientation = header.get("ImagePositionPatient"), header.get("ImageOrientationPatient")
    along = 0.0
    if position and orientation:
        normal = np.cross(np.array(orientation[:3], dtype=float), np.array(orientation[3:], dtype=float))
        along = float(normal @ np.array(position, dtype=float))
    return along, float(header.get("InstanceNumber") or 0)


def series_slices(folder: Path) -> list[Path]:
    """The files of the one single-slice series in a folder, in the order of the slices.

    Raises:
        Reject: If the folder holds no DICOM file, files of several series, or a file of several frames.
    """
    # The times of the files are part of the key: a changed folder is read again.
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return _sorted_slices(tuple((path, path.stat().st_mtime_ns) for path in files))


@lru_cache(maxsize=16)
def _sorted_slices(files: tuple[tuple[Path, int], ...]) -> list[Path]:
    pydicom = require_library("pydicom", "data", "Reading DICOM needs")
    headers = {}
    for path, _ in files:
        try:
            headers[path] = read_header(path)
        except pydicom.errors.InvalidDicomError:
            continue  # a DICOMDIR's companions, such as a text file
    series = {header.series for header in headers.values()}
    if len(series) != 1 or any(header.frames > 1 for header in headers.values()):
        found = f"{len(headers)} DICOM files of {len(series)} series"
        raise Reject("bad_scan", f"expected a folder of one series of single slices, found {found}: name a file")
    return sorted(headers, key=lambda path: (headers[path].place, path.name))


def read_frame(path: Path, frame: int, window: Window | None) -> np.ndarray:
    """uint8 ``[h, w]`` or, of a colour image, ``[h, w, 3]``; without a window, grey values are stretched."""
    pydicom = require_library("pydicom", "data", "Reading DICOM needs")
    from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

    dataset = pydicom.dcmread(path)
    array = pixel_array(dataset, index=frame)  # pydicom converts YBR to RGB
    colour = str(dataset.get("PhotometricInterpretation", "")).strip().upper()
    if colour == "PALETTE COLOR":
        array = apply_color_lut(array, dataset)
        return (array >> 8 if array.dtype == np.uint16 else array).astype(np.uint8)
    if array.ndim == 3:
        return (array >> max(0, int(dataset.BitsStored) - 8)).astype(np.uint8)
    values = apply_modality_lut(array, functional_group(dataset, frame, "PixelValueTransformationSequence") or dataset)
    pixels = windowed(values, window)
    return 255 - pixels if colour == "MONOCHROME1" else pixels


def windowed(values: np.ndarray, window: Window | None) -> np.ndarray:
    """uint8 values of a window, HU, or stretched between percentiles; PictureError if none is finite."""
    if window is None or not np.isfinite(values).any():
        return stretch_percentiles(values)
    return stretch(values, window[0] - window[1] / 2, window[0] + window[1] / 2)


def functional_group(dataset: Any, frame: int, name: str) -> Any:
    """What an enhanced DICOM has for one frame, or for all, in the sequence ``name``; None without."""
    for groups, index in zip(_GROUPS, (frame, 0), strict=True):
        sequence = dataset.get(groups) or []
        if index < len(sequence) and (found := sequence[index].get(name)):
            return found[0]
    return None
