# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Converts DICOM and NIfTI images to 8-bit PNG, once each.

CT is windowed (the file's own window, else centre 40 and width 400 HU: soft tissue), the rest stretched between the
0.5th and the 99.5th percentile of the slice. MONOCHROME1, where 0 is white, is inverted. NIfTI slices face the
radiologist: the patient's right on the left, anterior or superior on top. Pixels that are not square stay so.

Only pixels reach the PNG, no header field. Its name has that of the file, the window, the slice and, from DICOM, keyed
hashes of series and patient, by which slices of one volume stay together in a split.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..utils.environment import require_library
from ..utils.pixels import pointer_kind
from .baking import NotWrittenError, keyed_hash, write_png
from .dicom import SOFT_TISSUE, Window, read_frame, read_header, series_slices, windowed
from .images import path_within, relative_path
from .problems import Reject


BURNED_IN = "according to the header, text that may identify the patient is burned into the pixels: inspect the image"
_SLICE = re.compile(r"(?:(?P<axis>[xyz]):)?(?P<position>first|middle|\d{1,6})", re.IGNORECASE)
_FILE = re.compile(r"\.(?P<kind>dcm|dicom|nii|nii\.gz)(?:#(?P<slice>[^/#]*))?$", re.IGNORECASE)
# A folder of a DICOM series, or a DICOM file without extension: the slice has to be there, with its axis.
_FOLDER = re.compile(r"(?<=[^.#])/?#(?P<slice>z:(?:first|middle|\d{1,6}))$", re.IGNORECASE)


@dataclass(frozen=True)
class Slice:
    """Which slice of a volume: ``position`` is a number from 0, or ``middle``; ``axis`` x is sagittal, z axial."""

    axis: str = "z"
    position: int | str = 0

    @classmethod
    def parse(cls, text: str) -> "Slice":
        """Reads ``first``, ``middle``, ``40``, ``z:40``, ``x:middle``, or raises a ValueError."""
        match = _SLICE.fullmatch(text.strip())
        if not match:
            raise ValueError(f"The slice {text!r} is not one of: first, middle, 40, z:40, x:middle.")
        position = match["position"].lower().replace("first", "0")
        return cls((match["axis"] or "z").lower(), position if position == "middle" else int(position))

    def index(self, length: int) -> int:
        """The slice's number in a volume of ``length`` slices; raises a ValueError if the volume has fewer."""
        index = length // 2 if self.position == "middle" else int(self.position)
        if index >= length:
            raise ValueError(f"slice {index} does not exist: there are {length} (numbered from 0)")
        return index

    def __str__(self) -> str:
        return f"{self.axis}_{self.position}" if self.position == "middle" else f"{self.axis}_{self.position:04d}"


class ScanPicture(NamedTuple):
    """The PNG of a slice, within the data folder, with its modality (empty if not known) and warnings."""

    path: str
    warnings: list[str]
    modality: str


def is_scan(image: str) -> bool:
    """Whether the path names a DICOM or NIfTI file, also with ``#slice``, or a folder of DICOM with ``#z:40``."""
    return (_FILE.search(image) or _FOLDER.search(image)) is not None


def scan_to_png(
    folder: str | Path, image: str, *, modality: str = "", default_slice: Slice = Slice(), window: Window | None = None
) -> ScanPicture:
    """Writes one slice of a scan as PNG under ``folder/clinkd_png``, unless an up-to-date one exists.

    ``#z:40`` at the end of ``image`` selects a slice; of a folder that holds a DICOM series, in the order of its
    slices. ``modality`` is for NIfTI, which does not record it; DICOM's own takes priority. Raises :class:`Reject`
    (``bad_scan``, ``bad_path``, ``lfs_pointer``), or an ImportError if the reader is not installed.
    """
    match = _FILE.search(image)
    relative = relative_path(image[: match.end("kind")] if match else image[: _FOLDER.search(image).start()])
    text = (match or _FOLDER.search(image))["slice"]
    source = path_within(folder, relative)
    if not source.exists():
        raise Reject("bad_scan", f"{relative} does not exist")
    try:
        selected = Slice.parse(text) if text else default_slice
        read = _nifti if match and match["kind"].lower().startswith("nii") else _dicom
        return read(folder, relative, source, selected, modality, window)
    except (ImportError, Reject, NotWrittenError):
        raise
    except Exception as error:  # the readers raise errors of any type; the rejected row carries the message
        if source.is_file() and (pointer := pointer_kind(source.read_bytes()[:512])):
            raise Reject("lfs_pointer", f"{relative}: {pointer}") from error
        raise Reject("bad_scan", f"{relative}: {type(error).__name__}: {error}") from error


def _name(relative: str, identity: str, window: Window | None, selected: Slice) -> str:
    return f"{relative}{identity}" + ("--w{:g}_{:g}".format(*window) if window else "") + f"--{selected}"


def _dicom(
    folder: str | Path, relative: str, source: Path, selected: Slice, modality: str, window: Window | None
) -> ScanPicture:
    if selected.axis != "z":
        raise ValueError(f"DICOM has its own slices only, found the axis {selected.axis}")
    if source.is_dir():
        slices = series_slices(source)
        source, frame = slices[selected.index(len(slices))], 0
        header = read_header(source)
    else:
        header = read_header(source)
        frame = selected.index(header.frames)
    modality = header.modality or modality
    window = (window or header.windows[frame] or SOFT_TISSUE) if modality == "ct" else None
    identity = header.identity(lambda text: keyed_hash(folder, text))
    name = _name(relative, identity, window, selected)
    path = write_png(folder, name, source, lambda: read_frame(source, frame, window))
    return ScanPicture(path, [f"{relative}: {BURNED_IN}"] if header.is_burned_in else [], modality)


def _nifti(
    folder: str | Path, relative: str, source: Path, selected: Slice, modality: str, window: Window | None
) -> ScanPicture:
    window = (window or SOFT_TISSUE) if modality == "ct" else None
    nibabel = require_library("nibabel", "data", "Reading NIfTI needs")
    volume = nibabel.load(source)
    volumes = int(np.prod(volume.shape[3:]))
    warnings = [f"{relative}: the first of {volumes} volumes is used"] if volumes > 1 else []

    def draw() -> np.ndarray:
        return windowed(_nifti_slice(nibabel.as_closest_canonical(volume), selected), window)

    return ScanPicture(write_png(folder, _name(relative, "", window, selected), source, draw), warnings, modality)


def _nifti_slice(volume: Any, selected: Slice) -> np.ndarray:
    """float64 ``[h, w]`` of a volume in the closest canonical orientation."""
    axis = "xyz".index(selected.axis)
    if len(volume.shape) < 3:
        raise ValueError(f"expected three axes or more, found {volume.shape}")
    if volume.get_data_dtype().kind not in "iuf":
        raise ValueError(f"expected real numbers, found {volume.get_data_dtype()}")
    key: list[Any] = [slice(None)] * 3 + [0] * (len(volume.shape) - 3)
    key[axis] = selected.index(volume.shape[axis])
    return np.asarray(volume.dataobj[tuple(key)], dtype=np.float64)[::-1, ::-1].T
