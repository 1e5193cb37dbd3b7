# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Pictures that `convert` writes into the image folder: those that a source holds itself, and PNG for every reader.

Of a PNG in ``clinkd_png`` every reader gets the same pixels. It has the modification time of its source: another time
means that the source was replaced, and it is made again.
"""

import hashlib
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from ..utils.io import atomic_path
from ..utils.pixels import READ_OTHERWISE, PictureError, examine_header, opened, rgb_pixels
from .conversation import Embedded
from .images import file_stamp, path_within, relative_path
from .problems import Reject


FOLDER, EMBEDDED_FOLDER = "clinkd_png", "clinkd_images"  # within the data folder
EXTENSIONS = (".png", ".jpg", ".jpeg", ".dicom", ".dcm", ".nii", ".gz", ".bmp", ".tif", ".tiff", ".webp", ".gif")
_SUFFIX = {"jpeg": "jpg", "mpo": "jpg", "jpeg2000": "jp2"}  # of PIL's names of formats
_ENDINGS = {"jpg": (".jpg", ".jpeg"), "tiff": (".tif", ".tiff")}
_SAFE_NAME = re.compile(r"\w[\w .()+-]{0,99}", re.ASCII)
BAKED = READ_OTHERWISE | {"image_mode"}  # of the latter, LLaMA-Factory resamples palettes by the nearest pixel
MAX_NAME = 220  # bytes of a file name; file systems take 255, of which a temporary name needs some


class NotWrittenError(OSError):
    """A PNG cannot be written, for instance because the disk is full: no fault of a row, so the conversion stops."""


def any_reader_picture(folder: str | Path, image: str, *, upright: bool = True) -> tuple[str, frozenset[str]]:
    """The path of a picture of which every reader gets the same pixels, and the codes of remarks on the source.

    It is ``image`` itself or, if the codes include one of :data:`BAKED`, a PNG of its pixels: see ``utils.pixels``.
    Without ``upright`` an orientation is dropped, not applied: for boxes that were drawn on the stored pixels. A file
    that does not exist has the code ``image_missing``. Raises :class:`Reject` for a file that cannot be used.
    """
    path = path_within(folder, image)
    with _rejecting(image):
        codes = _header_codes(str(path), file_stamp(path)) if path.is_file() else frozenset({"image_missing"})
    if not codes & BAKED:
        return image, codes

    def draw() -> Image.Image:
        with _rejecting(image), opened(path) as picture:
            return rgb_pixels(picture, upright=upright)

    return write_png(folder, f"{image}{'' if upright else '--stored'}", path, draw), codes


@contextmanager
def _rejecting(image: str) -> Iterator[None]:
    """Any error of a decoder becomes a :class:`Reject` that names the image."""
    try:
        yield
    except PictureError as error:
        raise Reject(error.code, f"{image}: {error}") from error
    except Exception as error:  # decoders raise errors of any type
        raise Reject("image_unreadable", f"{image}: {type(error).__name__}: {error}") from error


@lru_cache(maxsize=2**17)  # some 30 MB; the rows of one image may be far apart
def _header_codes(path: str, stamp: str) -> frozenset[str]:
    return frozenset(examine_header(Path(path)))


def write_png(folder: str | Path, name: str, source: Path, draw: Callable[[], Image.Image | np.ndarray]) -> str:
    """Writes the picture of ``draw`` as ``clinkd_png/<name>.png``, atomically and without metadata; returns that path.

    A name that is too long is cut and gets a hash. An up-to-date PNG stays: ``draw`` is then not called. Raises
    :class:`NotWrittenError`.
    """
    place = PurePosixPath(relative_path(f"{FOLDER}/{PurePosixPath(name).parent}"))
    file = f"{PurePosixPath(name).name}.png"
    if len(file.encode()) > MAX_NAME:
        digest = hashlib.sha256(file.encode()).hexdigest()[:16]
        file = f"{file.encode()[:90].decode(errors='ignore')}-{digest}{file.encode()[-100:].decode(errors='ignore')}"
    path = path_within(folder, str(place)) / file  # `replace` replaces a link of that name
    modified = source.stat().st_mtime_ns
    if not (path.is_file() and not path.is_symlink() and path.stat().st_mtime_ns == modified):
        pixels = draw()
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        image.info.clear()
        try:
            with atomic_path(path) as temporary:
                image.save(temporary, format="PNG", exif=b"")
                os.utime(temporary, ns=(modified, modified))
        except OSError as error:
            raise NotWrittenError(f"{path} cannot be written: {error}") from error
    return str(place / file)


def with_extension(folder: str | Path, image: str) -> str:
    """The picture that a name without extension means (VinDr-CXR's), if it is there."""
    if PurePosixPath(image.partition("#")[0]).suffix.lower() in EXTENSIONS:
        return image
    found = (image + end for end in ("", *EXTENSIONS) if path_within(folder, image + end).is_file())
    return next(found, image)


def write_embedded(folder: str | Path, image: Embedded) -> str:
    """Writes a picture that its row holds, below ``clinkd_images``; one that does not open is rejected.

    It is ``<hash>/<name>`` if the row has a safe file name for it, else ``<hash>.<format>``. The hash is of the
    content, so that pictures of one name stay apart; the same picture under other names is not written again.
    """
    with _rejecting(image.name or "the picture of the row"), opened(image.content) as header:
        suffix = header.format.lower()
    digest = hashlib.blake2b(image.content, digest_size=16).hexdigest()
    suffix = _SUFFIX.get(suffix, suffix)
    relative = f"{EMBEDDED_FOLDER}/{digest}.{suffix}"
    path = path_within(folder, relative)
    if path.is_file():
        return relative
    named = path_within(folder, f"{EMBEDDED_FOLDER}/{digest}")
    written = sorted(filter(_SAFE_NAME.fullmatch, os.listdir(named))) if named.is_dir() else []
    name = PurePosixPath(image.name.replace("\\", "/")).name
    if written or _SAFE_NAME.fullmatch(name):
        if not name.lower().endswith(_ENDINGS.get(suffix, f".{suffix}")):
            name = f"{name}.{suffix}"
        relative = f"{EMBEDDED_FOLDER}/{digest}/{written[0] if written else name}"
        path = path_within(folder, relative)
    if not path.is_file():
        with atomic_path(path) as temporary:
            temporary.write_bytes(image.content)
    return relative


def keyed_hash(folder: str | Path, text: str) -> str:
    """16 hexadecimal digits that identify ``text`` among the data of ``folder`` and do not reveal it.

    The key is random, in ``clinkd_png/.key``: without it a medical record number could be found by trying all.
    """
    path = path_within(folder, FOLDER) / ".key"
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        unfinished = path.with_name(f".key.{secrets.token_hex(8)}")
        unfinished.touch(0o600)
        unfinished.write_bytes(secrets.token_bytes(32))
        with suppress(FileExistsError):  # another process was first: its key is the key
            os.link(unfinished, path)
        unfinished.unlink()
    return hashlib.blake2b(text.encode(), key=path.read_bytes(), digest_size=8).hexdigest()
