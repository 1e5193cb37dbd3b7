# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The unit of a source's boxes, and how those of one row are rewritten, which takes the size of its picture."""

from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from ..utils.box_forms import PLAIN, find_boxes
from .conversation import Conversation, Embedded
from .coordinates import UNIT_OF_MODEL, Coordinates, Evidence, ModelType, Scale, Size, Unit, processed, unit_of
from .formats import Format
from .images import path_within
from .problems import Reject


BOXES = 20_000  # that determine the unit
FIXED = 1000  # rows that have a unit of their own, after which no other is expected


def unit_of_source(
    rows: Iterable[tuple[int, Any]], source_format: Format, requested: Coordinates, folder: str | Path
) -> tuple[Unit, list[str]]:
    """The unit of the source's boxes, from the first :data:`BOXES`, and notes on it."""
    evidence, fixed = Evidence(), 0
    for _, row in rows:
        with suppress(Reject):  # recorded when the row is converted
            if isinstance(row, Reject):
                continue
            conversation = source_format.parse(row)
            fixed += conversation.unit is not None
            if conversation.unit:
                continue
            boxes = [box for turn in conversation.turns for text in turn for box in find_boxes(text.translate(PLAIN))]
            size = size_of(conversation, conversation.images, folder) if boxes else None
            for box in boxes:
                evidence.add(box.numbers, size)
        if evidence.boxes >= BOXES or (fixed >= FIXED and not evidence.boxes):
            break
    unit, notes = unit_of(evidence, requested, source_format.usual)
    found = [f"The boxes are taken as {unit}: {evidence}."] if evidence.boxes and unit != "thousandths" else []
    return unit, found + notes


def scale_of(
    conversation: Conversation,
    images: list[str],
    coordinates: Coordinates,
    folder: str | Path,
    model_type: ModelType,
    max_pixels: int,
) -> Scale:
    """How the boxes of a row are rewritten."""
    unit = conversation.unit or coordinates
    to_pixels = UNIT_OF_MODEL[model_type] == "resized"
    if unit not in ("pixels", "resized") and not to_pixels:
        return Scale("thousandths" if unit == "auto" else unit)
    size = size_of(conversation, images, folder)
    if size is None:
        return Scale("pixels")  # rejects any box
    frame = processed(size, max_pixels, stock=False) if unit == "resized" else size
    return Scale(unit, frame, processed(size, max_pixels, stock=True) if to_pixels else None)


def size_of(conversation: Conversation, images: list[str | Embedded], folder: str | Path) -> Size | None:
    """Width and height that the boxes of a row refer to, if they are known and one."""
    return conversation.size or _picture_size(images, folder)


def size_warning(conversation: Conversation, images: list[str], folder: str | Path) -> str | None:
    """A warning if a picture has another aspect ratio than the one that its annotation names."""
    picture = _picture_size(images, folder) if conversation.size else None
    if picture is None or abs(picture[0] / picture[1] / (conversation.size[0] / conversation.size[1]) - 1) < 0.02:
        return None
    sizes = "{:g} x {:g} pixels, its annotation is for {:g} x {:g}".format(*picture, *conversation.size)
    return f"A picture has {sizes}: boxes are scaled, which is wrong if it was turned or cut."


def _picture_size(images: list[str | Embedded], folder: str | Path) -> Size | None:
    sizes = set()
    for image in images:
        with suppress(OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            opened = BytesIO(image.content) if isinstance(image, Embedded) else path_within(folder, image)
            sizes.add(_header_size(opened))
    return sizes.pop() if len(sizes) == 1 else None


@lru_cache(maxsize=4096)
def _header_size(path: Path | BytesIO) -> Size:
    """Width and height of the upright picture; raises what PIL raises."""
    with Image.open(path) as header:
        turned = header.getexif().get(0x0112, 1) >= 5
        return (header.height, header.width) if turned else header.size
