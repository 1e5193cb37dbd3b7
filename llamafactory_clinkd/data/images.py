# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Images of a data set: safe paths, the volume and modality that a name encodes, and whether a file opens.

SA-Med2D-20M, from which Med-GRIT-270k draws its images, names a slice
``<modality>_<sequence>--<data set>--<case>--<axis>_<slice>.png``, for instance
``ct_00--AMOS2022--amos_0001--x_0020.png``, and an image that is not part of a volume ``...--2d_none.png``.
"""

import hashlib
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath

from PIL import Image

from ..utils.boxes import MODALITIES, modality_of
from .problems import Reject


_EXTENSION = re.compile(r"\.(?:png|jpe?g|bmp|tiff?|webp|dcm|dicom|nii|nii\.gz)$", re.IGNORECASE)
_SLICE = re.compile(r"--([xyz]_(?:\d+|middle)|2d_none)(?:--\d+_\d+)?$", re.IGNORECASE)
_FRAME = re.compile(r"[-_]frame[-_]?\d+$", re.IGNORECASE)
_FORBIDDEN = re.compile("[\\x00-\\x1f\\ud800-\\udfff]")
_DRIVE_OR_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_WORD = re.compile(r"[a-z0-9][a-z0-9 _+-]{0,39}", re.ASCII)
_MODALITY_WORDS = {"mri": "mr", "ct_scan": "ct", "us": "ultrasound"}
_MODALITY_WORDS |= dict.fromkeys(("x-ray", "xray", "x_ray", "chest_xray"), "x")


def relative_path(value: object) -> str:
    """Normalizes an image path: relative to the data folder, with ``/`` as separator; rejects any other path."""
    if not isinstance(value, str) or not value.strip():
        raise Reject("bad_path", f"expected a relative path, found {value!r}")
    path = value.strip().replace("\\", "/")
    if path.startswith(("/", "~")) or _DRIVE_OR_SCHEME.match(path):
        raise Reject("bad_path", f"{value!r} is not relative to the data folder")
    if _FORBIDDEN.search(path):
        raise Reject("bad_path", f"{value!r} holds characters that no file name should")
    components = [component for component in path.split("/") if component not in ("", ".")]
    if ".." in components or not components:
        raise Reject("bad_path", f"{value!r} leaves the data folder")
    return "/".join(components)


def path_within(folder: str | Path, relative: str) -> Path:
    """Resolves ``relative`` and its links to a file; rejects one outside ``folder``; opens nothing."""
    root = Path(folder).resolve()
    try:
        path = (root / relative_path(relative)).resolve()
    except (OSError, RuntimeError) as error:  # the name is too long, or links form a cycle
        raise Reject("bad_path", f"{relative!r}: {error}") from error
    if not path.is_relative_to(root):
        raise Reject("bad_path", f"{relative!r} is a link that leads outside the data folder")
    return path


def volume_of(image: str) -> str | None:
    """The volume of which an image is a slice, or None if its name does not encode one (or is ``2d_none``).

    With the four fields of SA-Med2D (a mask number may follow) the volume is ``<data set>--<case>`` in lower case:
    folder, modality, sequence and a trailing ``_frame01`` do not count, so T1 and FLAIR of one brain, PET and CT of
    one examination and the phases of one heart are one volume. With fewer fields, as in the names that
    ``scan_to_png`` writes, it is the path up to ``--<axis>_<slice>``.
    """
    path = _EXTENSION.sub("", image.replace("\\", "/"))
    match = _SLICE.search(path)
    if not match or match[1].lower() == "2d_none":
        return None
    path = path[: match.start()]
    fields = PurePosixPath(path).name.split("--")
    if len(fields) < 3:
        return path.lower()
    return f"{fields[1]}--{_FRAME.sub('', '--'.join(fields[2:]))}".lower()


def known_modality(value: object, image: str | None) -> str:
    """The modality from a source's own field, else from the image's name, else ``unknown``."""
    if isinstance(value, dict):  # LLaVA-Med: {"chest_xray": false, "mri": true, ...}
        value = next((key for key, holds in value.items() if holds), None)
    if isinstance(value, str) and _WORD.fullmatch(word := value.strip().lower()):
        return _MODALITY_WORDS.get(word, word)
    word = modality_of(image) if image else ""
    return word if word in MODALITIES else "unknown"


@dataclass(frozen=True)
class ImageRecord:
    """An image that was opened: its size in pixels and the hash of its content, or a fault (a key of ``ERRORS``)."""

    image: str
    width: int = 0
    height: int = 0
    digest: str = ""
    stamp: str = ""  # of the file, to recognize it later: see file_stamp
    fault: str = ""
    detail: str = ""


def inspect_images(folder: str | Path, images: Sequence[str]) -> list[ImageRecord]:
    """Opens and decodes each image; a path that leaves the folder is a fault and is not opened."""
    return [_inspect(folder, image) for image in images]


def _inspect(folder: str | Path, image: str) -> ImageRecord:
    try:
        path = path_within(folder, image)
    except Reject as reject:
        return ImageRecord(image, fault=reject.reason, detail=reject.detail)
    if not path.is_file():
        return ImageRecord(image, fault="image_missing", detail=f"no {image} in {os.path.basename(folder) or folder}")
    try:
        content, stamp = path.read_bytes(), file_stamp(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice that size is an error
            with Image.open(BytesIO(content)) as decoded:
                decoded.load()
                width, height = decoded.size
    except Exception as error:  # decoders raise errors of any type; the problem carries the message
        code = "image_truncated" if "truncated" in str(error) else "image_unreadable"
        detail = f"{image}: {type(error).__name__}: {error}".replace(str(path), image)
        return ImageRecord(image, fault=code, detail=detail)
    return ImageRecord(image, width, height, hashlib.blake2b(content, digest_size=16).hexdigest(), stamp)


def file_stamp(path: Path) -> str:
    """Size and modification time of a file: differs once the file has changed."""
    stat = path.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"
