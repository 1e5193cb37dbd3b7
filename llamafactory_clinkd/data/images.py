# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Images of a data set: safe paths, the modality, and what a file shows."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ..utils.boxes import MODALITIES, modality_of
from ..utils.pixels import PictureError, examine
from ..utils.scan_names import standard_modality
from .problems import Reject


_FORBIDDEN = re.compile("[\\x00-\\x1f\\ud800-\\udfff]")
_DRIVE_OR_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
MAX_COMPONENT, MAX_PATH = 255, 3072  # bytes that file systems take, less what the data folder's own path needs
_WORD = re.compile(r"[a-z0-9][a-z0-9 _+-]{0,39}", re.ASCII)


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
    longest, total = max(len(component.encode()) for component in components), len(path.encode())
    if longest > MAX_COMPONENT or total > MAX_PATH:
        raise Reject("bad_path", f"{path[:40]!r}... has a name of {longest} of {total} bytes: no file system takes it")
    return "/".join(components)


def path_within(folder: str | Path, relative: str) -> Path:
    """Resolves ``relative`` and its links to a file; rejects one outside ``folder``; opens nothing."""
    root, place = _real_folder(os.path.abspath(folder)), relative_path(relative)
    if not any(os.path.islink(f"{root}/{place[:end]}") for end in _ends(place)):
        return Path(f"{root}/{place}")
    try:
        path = Path(root, place).resolve()
        with suppress(FileNotFoundError, NotADirectoryError):
            path.stat()  # for links in a cycle, `resolve` raises only before Python 3.13
    except (OSError, RuntimeError) as error:
        raise Reject("bad_path", f"{relative!r}: {error}") from error
    if not path.is_relative_to(root):
        raise Reject("bad_path", f"{relative!r} is a link that leads outside the data folder")
    return path


_real_folder = lru_cache(maxsize=16)(os.path.realpath)


def _ends(place: str) -> Iterator[int]:
    """Where each component of a path ends."""
    yield from (match.start() for match in re.finditer("/", place))
    yield len(place)


def known_modality(value: object, image: str | None) -> str:
    """The modality from a source's own field, else from the image's name, else ``unknown``."""
    if isinstance(value, dict):  # LLaVA-Med: {"chest_xray": false, "mri": true, ...}
        value = next((key for key, holds in value.items() if holds), None)
    if isinstance(value, str) and _WORD.fullmatch(word := value.strip().lower()):
        return standard_modality(word) or word
    word = modality_of(image) if image else ""
    return word if word in MODALITIES else "unknown"


RULE = 1  # of `utils.pixels`; a record of another rule is made again


@dataclass(frozen=True)
class ImageRecord:
    """A decoded image: its size, the hash of its pixels and remarks, or a fault (a key of ``ERRORS``)."""

    image: str
    width: int = 0
    height: int = 0
    digest: str = ""
    stamp: str = ""  # of the file, to recognize it later: see file_stamp
    fault: str = ""
    detail: str = ""
    remarks: dict[str, str] = field(default_factory=dict)  # code -> detail
    rule: int = 0


def inspect_images(folder: str | Path, images: Sequence[str]) -> list[ImageRecord]:
    """Decodes each image; a path that leaves the folder is a fault and is not opened."""
    return [_inspect(folder, image) for image in images]


def _inspect(folder: str | Path, image: str) -> ImageRecord:
    try:
        path = path_within(folder, image)
        if not path.is_file():
            place = os.path.basename(folder) or folder
            return ImageRecord(image, fault="image_missing", detail=f"no {image} in {place}")
        stamp = file_stamp(path)
        pixels, remarks = examine(path.read_bytes(), image)
    except Reject as reject:
        return ImageRecord(image, fault=reject.reason, detail=reject.detail)
    except PictureError as error:
        return ImageRecord(image, fault=error.code, detail=f"{image}: {error}")
    except OSError as error:
        return ImageRecord(
            image, fault="image_unreadable", detail=f"{image}: {type(error).__name__}: {error.strerror}"
        )
    digest = hashlib.blake2b(pixels.tobytes(), digest_size=16, key=repr(pixels.size).encode()).hexdigest()
    return ImageRecord(image, *pixels.size, digest, stamp, remarks=remarks, rule=RULE)


def file_stamp(path: Path) -> str:
    """Size and modification time of a file: differs once the file has changed."""
    stat = path.stat()
    return f"{stat.st_size}-{stat.st_mtime_ns}"
