# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Checks that every picture and video of a phase's rows exists and is complete, before they are tokenised."""

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..utils.pixels import READ_OTHERWISE, PictureError, examine_header


logger = logging.getLogger(__name__)

MEDIA = ("_images", "_videos", "_audios")


def check_media(aligned: Any) -> None:
    """Checks each file that LLaMA-Factory's aligned rows name, images by their header and their end marker.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If an image cannot be opened, is truncated, or has a side 200 times the other.
    """
    checked: set[str] = set()
    remarks: Counter[str] = Counter()
    for column in (name for name in MEDIA if name in aligned.column_names):
        for number, files in enumerate(aligned[column]):
            for file in _paths(files):
                if file in checked:
                    continue
                checked.add(file)
                is_image = column == "_images"
                problem = _image_problem(Path(file), remarks) if is_image else _file_problem(Path(file))
                if problem is not None:
                    row = aligned[number]
                    name = row["_clinkd_id"] or Path(file).stem
                    error = FileNotFoundError if problem == "does not exist" else ValueError
                    where = f"{'Image' if is_image else 'File'} {file} of row {name} {problem} ({row['_clinkd_row']})"
                    raise error(f"{where}. Run `clinkd data check` for the whole list.")
    if remarks:
        logger.warning(
            "Images of which LLaMA-Factory's API and vLLM get other pixels than this run (see docs/data.md): %s. "
            "`clinkd data convert` writes PNG files that all read alike.",
            ", ".join(f"{count} with {code}" for code, count in sorted(remarks.items())),
        )


def require_images(rows: list[dict[str, Any]], *, required: bool) -> None:
    """Raises ValueError if images are ``required`` and no described row has one."""
    if required and not any(row["image"] for row in rows):
        raise ValueError(
            "The data set has no images: no row has a path in its `images` column. Set `columns: {images: images}` in "
            "`dataset_info.json`. To distil text-only data, set `rope_variant: mrope`."
        )


def _paths(files: Any) -> Iterator[str]:
    """The paths in a column's value: names, and lists of a video's frames; pictures in memory have none."""
    for file in files or []:
        if isinstance(file, str):
            yield file
        elif isinstance(file, list):
            yield from _paths(file)


def _file_problem(path: Path) -> str | None:
    return None if path.is_file() and path.stat().st_size else "does not exist" if not path.exists() else "is empty"


def _image_problem(path: Path, remarks: Counter[str]) -> str | None:
    """What is wrong with an image file, as its header and end marker show; else ``remarks`` counts what is unusual."""
    try:
        remarks.update(examine_header(path).keys() & READ_OTHERWISE)
    except FileNotFoundError:
        return "does not exist"
    except (OSError, PictureError) as error:
        if getattr(error, "code", "") != "image_small":  # LLaMA-Factory enlarges it
            return f"cannot be used: {error}"
    return None
