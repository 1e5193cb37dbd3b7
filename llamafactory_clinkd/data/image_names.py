# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What an image's name tells: whether its path stays within the data folder, and the volume it was cut from.

SA-Med2D-20M, from which Med-GRIT-270k draws its images, names a slice
``<modality>_<sequence>--<data set>--<case>--<axis>_<slice>.png``, for instance
``ct_00--AMOS2022--amos_0001--x_0020.png``, and a picture that was never part of a volume ``...--2d_none.png``.
"""

import re
from pathlib import Path, PurePosixPath

from ..utils.boxes import MODALITIES, modality_of
from .rejects import Reject


UNKNOWN_MODALITY = "unknown"
_EXTENSION = re.compile(r"\.(?:png|jpe?g|bmp|tiff?|webp|dcm|dicom|nii|nii\.gz)$", re.IGNORECASE)
_SLICE = re.compile(r"--([xyz]_(?:\d+|middle)|2d_none)(?:--\d+_\d+)?$", re.IGNORECASE)
_FRAME = re.compile(r"[-_]frame[-_]?\d+$", re.IGNORECASE)
_FORBIDDEN = re.compile("[\\x00-\\x1f\\ud800-\\udfff]")
_DRIVE_OR_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_WORD = re.compile(r"[a-z0-9][a-z0-9 _+-]{0,39}", re.ASCII)
_MODALITY_WORDS = {
    "mri": "mr",
    "x-ray": "x",
    "xray": "x",
    "x_ray": "x",
    "chest_xray": "x",
    "ct_scan": "ct",
    "us": "ultrasound",
}


def relative_path(value: object) -> str:
    """An image path with ``/`` between its parts, relative to the data folder.

    Raises:
        Reject: ``bad_path`` if the path is not text, is empty or absolute, has a drive or a scheme, holds control
            characters, or climbs with ``..`` (even where it would come back: nothing needs it).
    """
    if not isinstance(value, str) or not value.strip():
        raise Reject("bad_path", f"expected a relative path, found {value!r}")
    path = value.strip().replace("\\", "/")
    if path.startswith(("/", "~")) or _DRIVE_OR_SCHEME.match(path):
        raise Reject("bad_path", f"{value!r} is not relative to the data folder")
    if _FORBIDDEN.search(path):
        raise Reject("bad_path", f"{value!r} holds characters that no file name should")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts or not parts:
        raise Reject("bad_path", f"{value!r} leaves the data folder")
    return "/".join(parts)


def path_within(folder: str | Path, relative: str) -> Path:
    """The file that ``relative`` names, once links are followed; nothing is opened.

    Raises:
        Reject: ``bad_path`` if the file lies outside ``folder``.
    """
    root = Path(folder).resolve()
    try:
        path = (root / relative_path(relative)).resolve()
    except (OSError, RuntimeError) as error:  # a name too long, a circle of links
        raise Reject("bad_path", f"{relative!r}: {error}") from error
    if not path.is_relative_to(root):
        raise Reject("bad_path", f"{relative!r} is a link to a place outside the data folder")
    return path


def volume_of(image: str) -> str | None:
    """The volume that an image was cut from, or None if its name tells of none.

    The rule: the name, its extension aside, ends in ``--<axis>_<slice>`` (a mask's number may follow). With the four
    parts of SA-Med2D the volume is ``<data set>--<case>`` in lower case, wherever the file lies: modality and sequence
    do not count, so that T1 and FLAIR of one brain, or the PET and CT of one examination, are one volume; nor does a
    trailing ``_frame01`` (phases of one heart). With fewer parts it is the path up to the slice, which is how this
    project names the slices that it cuts itself. ``2d_none`` pictures have no volume: each is alone.
    """
    path = _EXTENSION.sub("", image.replace("\\", "/"))
    found = _SLICE.search(path)
    if not found or found[1].lower() == "2d_none":
        return None
    path = path[: found.start()]
    parts = PurePosixPath(path).name.split("--")
    if len(parts) < 3:
        return path.lower()
    return f"{parts[1]}--{_FRAME.sub('', '--'.join(parts[2:]))}".lower()


def known_modality(value: object, image: str | None) -> str:
    """A modality in this project's words: from a source's own field, else from the image's name, else ``unknown``."""
    if isinstance(value, dict):  # LLaVA-Med: {"chest_xray": false, "mri": true, ...}
        value = next((key for key, holds in value.items() if holds), None)
    if isinstance(value, str) and _WORD.fullmatch(word := value.strip().lower()):
        return _MODALITY_WORDS.get(word, word)
    word = modality_of(image) if image else UNKNOWN_MODALITY
    return word if word in MODALITIES else UNKNOWN_MODALITY
