# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Excerpts of the data in the page: sampled rows, embedded images, and text split at its tags."""

import base64
import io
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from ..utils.boxes import convert_tags
from ..utils.io import content_hash
from ..utils.pixels import PictureError, read_pixels


MAX_SIDE = 420
JPEG_QUALITY = 82
MAX_CHARACTERS = 1200
_IDENTITY = ("id", "image", "question", "annotation")
_SLICE = re.compile(r"(.+?)(?:--.*)?--([xyz])_(\d{4,}|middle)\.png")  # names of `data/scans.py`
_TAGGED = re.compile(r"<ref>(.*?)</ref>|<box>(.*?)</box>", re.DOTALL)


class Picture(NamedTuple):
    """An embedded image; ``width`` and ``height`` are those of the copy in pixels, ``size`` the original's."""

    uri: str
    width: int
    height: int
    size: tuple[int, int]


class Segment(NamedTuple):
    """A stretch of text."""

    kind: str  # ``text``, ``ref``, ``box``, ``added`` or ``cut``
    text: str


def sample_rows(
    rows: Sequence[dict[str, Any]], count: int, *, group: Callable[[dict[str, Any]], str], seed: int | str
) -> list[dict[str, Any]]:
    """Up to ``count`` rows, one from each group in turn, chosen by a hash of seed and content.

    Neither the choice nor the order of the groups depends on the order of the rows or on how well they were answered.
    """
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[group(row)].append(row)
    ranked = []  # (rank within the group, hash of the group, row)
    for name, members in groups.items():
        members.sort(key=lambda row: content_hash([seed, *(row.get(key) for key in _IDENTITY)]))
        ranked += [(rank, content_hash([seed, name]), row) for rank, row in enumerate(members)]
    ranked.sort(key=lambda entry: entry[:2])
    return [row for _, _, row in ranked[:count]]


def find_image(name: str, folder: Path, image_dir: Path | None = None) -> Path | None:
    """The file of an image, None if there is none.

    A relative name is looked for below ``image_dir`` (where the name alone does too), the run's ``folder`` and each
    folder above it, among which is the one that the run was started in, and last below the working directory.
    """
    moved = [image_dir / name, image_dir / Path(name).name] if image_dir else []
    candidates = [*moved, Path(name)] if Path(name).is_absolute() else moved
    candidates += [place / name for place in (folder, folder / "clinkd", *folder.parents, Path())]
    return next((path for path in candidates if name and path.is_file()), None)


def image_label(name: str) -> str:
    """The file name of an image; of one that ``clinkd data`` made of DICOM or a volume, the scan's name and slice."""
    file = re.split(r"[/\\]", name)[-1]
    found = _SLICE.fullmatch(file)
    if not found:
        return file
    scan, axis, number = found.groups()
    return f"{scan}, {'middle slice' if number == 'middle' else f'slice {int(number)}'} along {axis}"


def embed(path: Path, max_side: int = MAX_SIDE) -> Picture:
    """Reads an image as the model gets it and scales it down to ``max_side`` pixels.

    Raises:
        ValueError: If the file is not an image, is cut off, or is too large to open safely.
    """
    try:
        image = read_pixels(path)
    except (OSError, PictureError) as error:
        raise ValueError(f"{path.name} cannot be read as an image ({error})") from error
    size = image.size
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    image.save(buffer := io.BytesIO(), "JPEG", quality=JPEG_QUALITY, optimize=True)
    return Picture("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii"), *image.size, size)


def segments(text: Any) -> list[Segment]:
    """Splits a question or answer at its tags and shortens it; a value that is not text becomes its description."""
    if not isinstance(text, str):
        return [Segment("cut", "no text" if text is None else f"not text: {type(text).__name__}")]
    if not text.strip():
        return [Segment("cut", "empty")]
    pieces = zip(cycle(["text", "ref", "box"]), _TAGGED.split(convert_tags(text[:MAX_CHARACTERS], "qwen_vl")))
    result = [Segment(kind, piece if kind == "text" else piece.strip()) for kind, piece in pieces if piece is not None]
    if len(text) > MAX_CHARACTERS:
        result.append(Segment("cut", f"{len(text) - MAX_CHARACTERS:,} more characters"))
    return [segment for segment in result if segment.text]


def added_words(before: str, after: str) -> list[Segment]:
    """``after``, with the words that ``before`` does not have at that place marked ``added``."""
    old, new = before[:MAX_CHARACTERS].split(), after[:MAX_CHARACTERS].split()
    result: list[Segment] = []
    for operation, _, _, start, end in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if end > start:
            result += [Segment("text", " ")] if result else []
            result.append(Segment("text" if operation == "equal" else "added", " ".join(new[start:end])))
    return result
