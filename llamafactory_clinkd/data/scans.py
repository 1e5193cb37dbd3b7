# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Converts DICOM and NIfTI images to 8-bit PNG, once each.

CT is windowed (the file's own window, else centre 40 and width 400 HU: soft tissue); everything else is stretched
between the 0.5th and the 99.5th percentile of the slice. MONOCHROME1, where 0 is white, is inverted. NIfTI slices are
turned to the radiologist's view: the patient's right on the left of the image, anterior or superior on top. Pixels
that are not square are not resampled: boxes in thousandths of the image do not depend on its proportions.

Only pixels reach the PNG: no header field, no name, no date is copied.
"""

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .images import path_within, relative_path
from .problems import Reject


FOLDER = "clinkd_png"  # of the PNG files, within the data folder
Window = tuple[float, float]  # centre and width, HU
BURNED_IN = "according to the header, text that may identify the patient is burned into the pixels: inspect the image"
SOFT_TISSUE: Window = (40.0, 400.0)
_SCAN = re.compile(r"\.(?P<kind>dcm|dicom|nii|nii\.gz)(?:#(?P<slice>[^/#]*))?$", re.IGNORECASE)
_SLICE = re.compile(r"(?:(?P<axis>[xyz]):)?(?P<position>first|middle|\d{1,6})", re.IGNORECASE)


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


def is_scan(image: str) -> bool:
    """Whether the path, with or without ``#slice``, names a DICOM or NIfTI file."""
    return _SCAN.search(image) is not None


def scan_to_png(
    folder: str | Path, image: str, *, modality: str = "", default_slice: Slice = Slice(), window: Window | None = None
) -> tuple[str, list[str]]:
    """Writes one slice of a scan as PNG under ``folder/clinkd_png``, unless one newer than the scan exists.

    Returns the PNG's path within ``folder``, and warnings (a burned-in annotation). ``#z:40`` at the end of ``image``
    selects a slice. ``modality`` is for NIfTI, which does not record it; DICOM's own takes priority. Raises
    :class:`Reject` (``bad_scan``, ``bad_path``), or an ImportError if the reader is not installed.
    """
    match = _SCAN.search(image)
    is_dicom = match["kind"].lower() in ("dcm", "dicom")
    relative = relative_path(image[: match.end("kind")])
    source = path_within(folder, relative)
    try:
        selected = Slice.parse(match["slice"]) if match["slice"] else default_slice
    except ValueError as error:
        raise Reject("bad_scan", str(error)) from error

    suffix = f"--w{window[0]:g}_{window[1]:g}" if window else ""
    target = relative_path(f"{FOLDER}/{relative[: match.start()]}{suffix}--{selected}.png")
    path = path_within(folder, target)
    if not source.is_file():
        raise Reject("bad_scan", f"{relative} does not exist")
    up_to_date = path.exists() and path.stat().st_mtime_ns >= source.stat().st_mtime_ns
    try:
        warnings = [f"{relative}: {BURNED_IN}"] if is_dicom and _is_burned_in(source) else []
        if not up_to_date:
            pixels = (_read_dicom if is_dicom else _read_nifti)(source, selected, modality, window)
    except ImportError:
        raise
    except Exception as error:  # the readers raise errors of any type; the rejected row carries the message
        raise Reject("bad_scan", f"{relative}: {type(error).__name__}: {error}") from error
    if not up_to_date:
        _save(pixels, path)
    return target, warnings


def _save(pixels: np.ndarray, path: Path) -> None:
    """Writes the PNG atomically, without metadata; the next run overwrites what a killed one left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    unfinished.unlink(missing_ok=True)  # never write through a link of that name
    Image.fromarray(pixels).save(unfinished, format="PNG")
    unfinished.replace(path)


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps ``[low, high]`` to 0..255 (uint8) and clips the rest; all zeros if the range is empty."""
    values = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=low, posinf=high, neginf=low)
    if not high > low:
        return np.zeros(values.shape, dtype=np.uint8)
    return np.round(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def _to_8_bit(values: np.ndarray, window: Window | None) -> np.ndarray:
    """Stretches the window or, without one, the range from the 0.5th to the 99.5th percentile."""
    if window:
        centre, width = window
        return stretch(values, centre - width / 2, centre + width / 2)
    finite = np.asarray(values)[np.isfinite(values)]
    if not finite.size:
        raise ValueError("the slice holds no finite value")
    low, high = np.percentile(finite, (0.5, 99.5))
    return stretch(values, float(low), float(high))


def _is_burned_in(path: Path) -> bool:
    header = _require("pydicom").dcmread(path, stop_before_pixels=True, specific_tags=["BurnedInAnnotation"])
    return str(header.get("BurnedInAnnotation", "")).strip().upper() == "YES"


def _read_dicom(path: Path, selected: Slice, modality: str, window: Window | None) -> np.ndarray:
    """uint8 ``[h, w]`` or, of a colour image, ``[h, w, 3]``."""
    pydicom = _require("pydicom")
    from pydicom.pixels import apply_color_lut, apply_rescale, convert_color_space

    dataset = pydicom.dcmread(path)
    frames = int(dataset.get("NumberOfFrames", None) or 1)
    array = dataset.pixel_array
    index = selected.index(frames)
    if frames > 1:
        array = array[index]
    colour = str(dataset.get("PhotometricInterpretation", "")).strip().upper()
    if colour == "PALETTE COLOR":
        palette = apply_color_lut(array, dataset)
        return (palette >> 8 if palette.dtype == np.uint16 else palette).astype(np.uint8)
    if array.ndim == 3:
        rgb = array if colour == "RGB" else convert_color_space(array, colour, "RGB")
        return rgb.astype(np.uint8)

    is_ct = str(dataset.get("Modality", None) or modality).upper() == "CT"
    window = (window or _header_window(dataset) or SOFT_TISSUE) if is_ct else None
    pixels = _to_8_bit(apply_rescale(array, dataset), window)
    return 255 - pixels if colour == "MONOCHROME1" else pixels


def _header_window(dataset: Any) -> Window | None:
    """The first window of the DICOM header."""
    values = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if None in values or "" in values:
        return None
    centre, width = (float(np.ravel(value)[0]) for value in values)
    return (centre, width) if width > 0 else None


def _read_nifti(path: Path, selected: Slice, modality: str, window: Window | None) -> np.ndarray:
    """uint8 ``[h, w]``."""
    nibabel = _require("nibabel")
    volume = nibabel.as_closest_canonical(nibabel.load(path))
    axis = "xyz".index(selected.axis)
    if len(volume.shape) < 3:
        raise ValueError(f"expected three axes or more, found {volume.shape}")
    key: list[Any] = [slice(None)] * 3 + [0] * (len(volume.shape) - 3)
    key[axis] = selected.index(volume.shape[axis])
    values = np.asarray(volume.dataobj[tuple(key)], dtype=np.float64)[::-1, ::-1].T
    return _to_8_bit(values, (window or SOFT_TISSUE) if modality == "ct" else None)


def _require(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is needed to read such scans: pip install 'llamafactory-clinkd[data]'.") from error
