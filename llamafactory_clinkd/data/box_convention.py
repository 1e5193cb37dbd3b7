# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The unit of a file's boxes: of a source and of its rows, of a converted data set, and whether it is the model's."""

import itertools
import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..utils.box_forms import PLAIN, find_boxes
from ..utils.boxes import UNIT_OF_MODEL
from ..utils.io import read_json
from ..utils.pixels import opened, picture_size
from .baking import with_extension
from .conversation import Conversation, Embedded
from .coordinates import (
    OUTLIERS,
    Coordinates,
    Evidence,
    ModelType,
    Scale,
    Size,
    Unit,
    processed,
    unit_of,
)
from .formats import Format
from .images import path_within
from .problems import Reject
from .reader import BrokenFileError, read_rows


logger = logging.getLogger(__name__)

BOXES_KEY = "clinkd_boxes"  # of an entry in dataset_info.json: the unit, if it is not thousandths
_HUB_NAME = re.compile(r"qwen(2\.5|2|3)-?vl", re.IGNORECASE)
SAMPLE = 2000  # rows of a data set without that key
BOXES = 20_000  # that determine the unit
FIXED = 1000  # rows that have a unit of their own, after which no other is expected


def unit_of_source(
    rows: Iterable[tuple[int, Any]],
    source_format: Format,
    requested: Coordinates,
    folder: str | Path,
    upright: bool = True,
) -> tuple[Unit, list[str]]:
    """The unit of the source's boxes, from the first :data:`BOXES`, and notes on it; ``upright`` as for pictures."""
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
            size = conversation.size
            if boxes and not size:
                size = _picture_size(conversation.images, folder, upright)
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
    size = conversation.size or _picture_size(images, folder)
    if size is None:
        return Scale("pixels")  # rejects any box
    frame = processed(size, max_pixels, stock=False) if unit == "resized" else size
    return Scale(unit, frame, processed(size, max_pixels, stock=True) if to_pixels else None)


def size_warning(conversation: Conversation, images: list[str], folder: str | Path) -> str | None:
    """A warning if a picture has another aspect ratio than the one that its annotation names."""
    picture = _picture_size(images, folder) if conversation.size else None
    if picture is None or abs(picture[0] / picture[1] / (conversation.size[0] / conversation.size[1]) - 1) < 0.02:
        return None
    sizes = "{:g} x {:g} pixels, its annotation is for {:g} x {:g}".format(*picture, *conversation.size)
    return f"A picture has {sizes}: boxes are scaled, which is wrong if it was turned or cut."


def _picture_size(images: list[str | Embedded], folder: str | Path, upright: bool = True) -> Size | None:
    sizes = set()
    for image in images:
        with suppress(OSError, ValueError):  # the row is rejected when its picture is read
            embedded = isinstance(image, Embedded)
            source = image.content if embedded else path_within(folder, with_extension(folder, image))
            sizes.add(_header_size(source, upright))
    return sizes.pop() if len(sizes) == 1 else None


@lru_cache(maxsize=4096)
def _header_size(source: Path | bytes, upright: bool) -> Size:
    with opened(source) as header:
        return picture_size(header, upright=upright)


def recorded_unit(path: str | Path) -> Unit | None:
    """The unit that ``convert`` recorded for a file in the ``dataset_info.json`` beside it."""
    with suppress(OSError, ValueError, AttributeError):  # no such file, or not in its form: nothing is recorded
        for entry in read_json(Path(path).parent / "dataset_info.json").values():
            if entry.get("file_name") == Path(path).name and entry.get(BOXES_KEY) in UNIT_OF_MODEL.values():
                return entry[BOXES_KEY]
    return None


def written_unit(path: str | Path) -> Unit | None:
    """The recorded unit, else what the boxes of the first rows show; None if there is no box."""
    if unit := recorded_unit(path):
        return unit
    evidence = Evidence()
    with suppress(OSError, BrokenFileError):  # stock reports it
        for _, row in itertools.islice(read_rows(path), SAMPLE):
            text = "" if isinstance(row, Reject) else "\n".join(_texts(row))
            for box in find_boxes(text.translate(PLAIN)):
                evidence.add(box.numbers, None)
    return unit_shown(evidence) if evidence.boxes else None


def unit_shown(evidence: Evidence, pixels: Unit = "pixels") -> Unit:
    """The unit of boxes whose pictures are not known; ``pixels`` is that of numbers over 1000."""
    if 2 * evidence.fractions > evidence.boxes > 0:
        return "fractions"
    return pixels if evidence.over > OUTLIERS * evidence.boxes else "thousandths"


def convention_warning(model_type: str, unit: Unit, square: bool = False) -> str | None:
    """What is wrong with training a model on boxes in ``unit``, or None; ``square`` is its ``image_square``."""
    expected = UNIT_OF_MODEL.get(model_type)
    if expected is None or unit == expected == "thousandths":
        return None
    if unit != expected:
        names = {"resized": "pixels of the resized picture"}
        return (
            f"{model_type} reads and writes boxes in {names.get(expected, expected)}; these are in "
            f"{names.get(unit, unit)}, a convention that it has to learn. "
            f"`clinkd data convert --model-type {model_type}` writes its own."
        )
    if square:
        return "The boxes are pixels of pictures that `image_square: true` distorts. Set it to false."
    return None


def warn_of_conventions(model: str, names: Iterable[str], folder: str | Path, square: bool) -> list[str]:
    """Logs and returns a warning for each data set whose boxes do not fit ``model``, a folder or a name of the hub."""
    with suppress(OSError, ValueError, AttributeError):  # what another check, or stock, names
        config, named = Path(model).expanduser() / "config.json", _HUB_NAME.search(model)
        by_name = f"qwen{named[1].replace('.', '_')}_vl" if named else ""
        model_type = read_json(config).get("model_type", "") if config.is_file() else by_name
        entries = read_json(Path(folder) / "dataset_info.json")
        found = []
        for name in names:
            file = entries.get(name, {}).get("file_name")
            unit = written_unit(Path(folder) / file) if isinstance(file, str) else None
            if unit and (warning := convention_warning(model_type, unit, square)):
                found.append(f"Data set {name}: {warning}")
        for warning in found:
            logger.warning(warning)
        return found
    return []


def _texts(value: Any) -> Iterable[str]:
    """All texts of a row but its paths."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from () if key in ("images", "image", "id") else _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
