# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What `clinkd data check` finds, and what it finds in one picture."""

import hashlib
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from .image_names import path_within
from .rejects import REASONS, Reject


_ONLY_WHEN_CONVERTED = ("not_english", "bad_scan", "image_mismatch")
ERRORS = {reason: text for reason, text in REASONS.items() if reason not in _ONLY_WHEN_CONVERTED} | {
    "image_missing": "the image does not exist",
    "image_unreadable": "the image does not open",
    "image_truncated": "the image breaks off",
    "box_form": "a box is not written as whole thousandths in [0, 1000)",
    "leak_image": "the image is also in the other set (by path or by content)",
    "leak_volume": "another slice of the same volume is in the other set",
    "too_long": "the row has more tokens than cutoff_len: its end, the answer first, is cut off",
}
WARNINGS = {
    "duplicate_row": "the same row stands twice",
    "duplicate_id": "different rows have this id, which is not the name of their image (as in Med-GRIT)",
    "no_image": "the row has no image",
}


@dataclass(frozen=True)
class Finding:
    """One fault: ``row`` counts from 1 within the file."""

    code: str
    row: int
    id: str
    detail: str

    def as_json(self) -> dict[str, Any]:
        """A line of the report."""
        return asdict(self) | {"level": "error" if self.code in ERRORS else "warning"}


@dataclass(frozen=True)
class Picture:
    """What opening an image told: its size in pixels and its content's hash, or a fault."""

    image: str
    width: int = 0
    height: int = 0
    digest: str = ""
    stamp: str = ""  # size and time of the file, to know it again
    fault: str = ""
    detail: str = ""


def examine_pictures(folder: str | Path, images: Sequence[str]) -> list[Picture]:
    """Opens and decodes each image; a path that leaves the folder is a fault and is not opened."""
    return [_examine(folder, image) for image in images]


def stamp_of(path: Path) -> str:
    """Tells one state of a file from another without reading it."""
    stat = path.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"


def _examine(folder: str | Path, image: str) -> Picture:
    try:
        path = path_within(folder, image)
    except Reject as reject:
        return Picture(image, fault=reject.reason, detail=reject.detail)
    if not path.is_file():
        return Picture(image, fault="image_missing", detail=f"no {image} in {os.path.basename(folder) or folder}")
    try:
        content, stamp = path.read_bytes(), stamp_of(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice that size is an error
            with Image.open(BytesIO(content)) as opened:
                opened.load()
                width, height = opened.size
    except Exception as error:  # decoders raise whatever the bytes provoke; it is the finding
        code = "image_truncated" if "truncated" in str(error) else "image_unreadable"
        return Picture(image, fault=code, detail=f"{image}: {type(error).__name__}: {error}".replace(str(path), image))
    return Picture(image, width, height, hashlib.blake2b(content, digest_size=16).hexdigest(), stamp)
