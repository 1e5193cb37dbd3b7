# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Whether the boxes of a recipe's data sets are written in the convention of its model: a warning before training."""

import itertools
import logging
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..utils.box_forms import PLAIN, find_boxes
from ..utils.io import read_json
from .coordinates import OUTLIERS, UNIT_OF_MODEL, Evidence, Unit
from .problems import Reject
from .reader import BrokenFileError, read_rows


logger = logging.getLogger(__name__)

BOXES_KEY = "clinkd_boxes"  # of an entry in dataset_info.json: the unit, if it is not thousandths
_HUB_NAME = re.compile(r"qwen(2\.5|2|3)-?vl", re.IGNORECASE)
SAMPLE = 2000  # rows of a data set without that key


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
    if not evidence.boxes:
        return None
    if 2 * evidence.fractions > evidence.boxes:
        return "fractions"
    return "pixels" if evidence.over > OUTLIERS * evidence.boxes else "thousandths"


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
