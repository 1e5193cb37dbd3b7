# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""From a file to pixels: one rule for training, generation, CLIP scores, `check`, the report and attention maps.

=====================================  ============================================================================
in the file                            pixels (RGB, 8 bits)
=====================================  ============================================================================
EXIF or XMP orientation                the upright picture
more than 8 bits, or floats            0.5th to 99.5th percentile stretched to 0..255; NaN is black
transparency                           over black, the background of scans
palette, bilevel, CMYK, YCbCr          PIL's conversion to RGB, before any resampling
several frames or pages                the first one
16 bits per colour channel             the upper 8, which is all that PIL decodes
colour profiles                        ignored
=====================================  ============================================================================

LLaMA-Factory's own reader, its API and vLLM clip, flatten and do not turn such files. Only of an 8-bit RGB or grey
file without orientation does every reader get the same pixels: ``clinkd data convert`` writes one.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from warnings import catch_warnings, simplefilter

import numpy as np
from PIL import Image, ImageOps


MIN_SIDE = 28  # pixels of one merged patch of Qwen2-VL
MAX_RATIO = 200  # of the sides, from which Qwen2-VL's processor raises
ORIENTATION = 0x0112
READ_OTHERWISE = frozenset({"image_depth", "image_alpha", "image_rotated"})  # remarks: other readers get other pixels
_END_MARKERS = {"PNG": b"IEND", "JPEG": b"\xff\xd9", "MPO": b"\xff\xd9"}
_EXIF_IN_PNG = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}
_TAIL = 4096
_POINTERS = {
    b"version https://git-lfs": "Git-LFS pointer: run `git lfs pull`",
    b"/annex/objects": "git-annex pointer: run `git annex get`",
}


class PictureError(ValueError):
    """A file that gives no pixels to train on; ``code`` is a key of ``data.problems.REASONS``."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code, self.detail = code, detail

    def __str__(self) -> str:
        return self.detail


def read_pixels(source: str | Path | bytes | BinaryIO) -> Image.Image:
    """The RGB pixels of a picture file by the rule above; raises :class:`PictureError` or FileNotFoundError."""
    with opened(source) as image:
        return rgb_pixels(image)


def rgb_pixels(image: Image.Image, *, upright: bool = True) -> Image.Image:
    """The same for an open picture; without ``upright`` its orientation is not applied. RGB pictures are not copied.

    Raises:
        PictureError: If a deep picture holds no finite value. PIL raises errors of its own for damaged content.
    """
    orientation = image.format == "TIFF" and _orientation(image)
    image.load()  # a TIFF turns itself here
    if orientation and not upright and not _orientation(image):
        image.getexif()[ORIENTATION] = {6: 8, 8: 6}.get(orientation, orientation)  # turns it back
    if upright or orientation:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(stretch_percentiles(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def stretch_percentiles(values: np.ndarray) -> np.ndarray:
    """Stretches the range from the 0.5th to the 99.5th percentile, or the whole range if that one is empty, to uint8.

    Raises:
        PictureError: If no value is finite.
    """
    finite = np.asarray(values)[np.isfinite(values)]
    if not finite.size:
        raise PictureError("image_unreadable", "the picture holds no finite value")
    low, high = np.percentile(finite, (0.5, 99.5))
    if not high > low:  # a few bright pixels on a constant ground
        low, high = finite.min(), finite.max()
    return stretch(values, float(low), float(high))


def stretch(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Maps ``[low, high]`` to 0..255 (uint8) and clips the rest; all zeros if the range is empty."""
    values = np.nan_to_num(np.asarray(values, dtype=np.float64), nan=low, posinf=high, neginf=low)
    if not high > low:
        return np.zeros(values.shape, dtype=np.uint8)
    return np.round(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)


def examine(content: bytes, name: str) -> tuple[Image.Image, dict[str, str]]:
    """The pixels of a file's whole ``content`` and remarks (code -> detail) on what other readers see otherwise.

    The codes are ``image_depth``, ``image_alpha``, ``image_rotated``, ``image_mode``, ``image_frames``,
    ``image_extension`` and ``image_blank``. Raises :class:`PictureError`, also if it is too small or long.
    """
    with opened(content) as image:
        remarks, orientation = _remarks(image, name), _header_orientation(image)
        pixels = rgb_pixels(image)
        _check_end(image, content)
        if "image_alpha" in remarks and image.convert("RGBA").getchannel("A").getextrema()[0] == 255:
            remarks["image_mode"] = remarks.pop("image_alpha") + ", opaque"
        if orientation := orientation or _orientation(image):
            remarks["image_rotated"] = f"EXIF orientation {orientation}"
    if all(low == high for low, high in pixels.getextrema()):
        remarks["image_blank"] = "all pixels have one value"
    return pixels, remarks


def examine_header(path: Path) -> dict[str, str]:
    """The remarks of :func:`examine` that show without decoding; any transparency counts as ``image_alpha``.

    A PNG or JPEG is taken as whole if its end marker is there; other files are decoded. Raises as :func:`examine`.
    """
    with opened(path) as image:
        remarks, orientation = _remarks(image, path.name), _header_orientation(image)  # a TIFF loses its own
        with open(path, "rb", buffering=0) as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - _TAIL))
            tail = f.read()
        marker = _END_MARKERS.get(image.format)
        if not marker or marker not in tail or b"eXIf" in tail:
            image.load()
            _check_end(image, path.read_bytes())
        if orientation := orientation or _header_orientation(image):
            remarks["image_rotated"] = f"EXIF orientation {orientation}"
    return remarks


def _check_end(image: Image.Image, content: bytes) -> None:
    if _END_MARKERS.get(image.format, b"") not in content:  # PIL decodes what is there of some such files
        raise PictureError("image_truncated", f"the end of the {image.format} is missing: it is truncated")


def picture_size(image: Image.Image, *, upright: bool = True) -> tuple[int, int]:
    """Width and height of the pixels of :func:`rgb_pixels`, of an open picture that is not decoded."""
    turned = _header_orientation(image) >= 5 and (image.format == "TIFF") != upright  # PIL has turned a TIFF's size
    return image.size[::-1] if turned else image.size


def _header_orientation(image: Image.Image) -> int:
    if image.format == "PNG" and not _EXIF_IN_PNG & image.info.keys():
        return 0  # PIL would decode the whole PNG to look for it
    return _orientation(image)


def _orientation(image: Image.Image) -> int:
    """2 to 8 if the picture has to be turned or mirrored, else 0."""
    value = image.getexif().get(ORIENTATION, 1)
    return value if value in range(2, 9) else 0


def _remarks(image: Image.Image, name: str) -> dict[str, str]:
    """What the header of an open picture shows."""
    width, height = image.size
    if max(image.size) >= MAX_RATIO * min(image.size):
        raise PictureError("image_aspect", f"{width} x {height} pixels")
    if min(image.size) < MIN_SIDE:
        raise PictureError("image_small", f"{width} x {height} pixels, expected {MIN_SIDE} or more on each side")
    remarks, deep = {}, any(";16" in str(tile[-1]) for tile in getattr(image, "tile", ()))
    if image.mode.startswith(("I", "F")):
        remarks["image_depth"] = f"mode {image.mode}"
    elif image.has_transparency_data:
        remarks["image_alpha"] = f"mode {image.mode} with transparency"
    elif image.mode not in ("RGB", "L") or deep:
        remarks["image_mode"] = f"mode {image.mode}" + (", 16 bits per channel" if deep else "")
    if getattr(image, "is_animated", False):
        remarks["image_frames"] = f"{image.format} with several frames"
    expected = Image.registered_extensions().get(Path(name).suffix.lower())
    if expected and expected != {"MPO": "JPEG"}.get(image.format, image.format):
        remarks["image_extension"] = f"the content is {image.format}"
    return remarks


@contextmanager
def opened(source: Any) -> Iterator[Image.Image]:
    """An open picture; every error of a decoder, inside too, becomes a :class:`PictureError` that says what it is."""
    try:
        with catch_warnings():
            simplefilter("ignore", Image.DecompressionBombWarning)  # twice that size is an error
            with ExitStack() as stack:
                f = BytesIO(source) if isinstance(source, bytes) else source
                if isinstance(source, str | Path):  # given a path, PIL maps a raw TIFF into memory, turned or not
                    f = stack.enter_context(open(source, "rb"))
                yield stack.enter_context(Image.open(f))
    except (PictureError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # decoders raise errors of any type
        raise _described(error, source) from error


def pointer_kind(head: bytes) -> str:
    """What a file that starts with ``head`` is, if it stands for one in Git-LFS or git-annex; else empty."""
    return next((f"a {kind}" for magic, kind in _POINTERS.items() if head.startswith(magic)), "")


def _described(error: Exception, source: Any) -> PictureError:
    head = source[:512] if isinstance(source, bytes) else b""
    if isinstance(source, str | Path):
        with open(source, "rb") as f:
            head = f.read(512)
    if pointer := pointer_kind(head):
        return PictureError("lfs_pointer", pointer)
    reads = "which `clinkd data convert` reads if"
    kinds = {
        f"a DICOM file, {reads} its name ends in .dcm": head[128:132] == b"DICM",
        f"a NIfTI file, {reads} its name ends in .nii": head[344:348] in (b"n+1\0", b"ni1\0"),
        f"a gzip file, {reads} it is a NIfTI file named .nii.gz": head.startswith(b"\x1f\x8b"),
        "a web page": head.lstrip().lower().startswith((b"<!doctype html", b"<html")),
        "an empty file": not head and isinstance(source, bytes | str | Path),
    }
    found = next((kind for kind, holds in kinds.items() if holds), "")
    code = "image_truncated" if not found and "truncated" in str(error) else "image_unreadable"
    return PictureError(code, found or f"{type(error).__name__}: {error}")
