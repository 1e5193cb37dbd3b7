# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``clinkd_config.json`` beside a saved model: its rotary positions and how its images were prepared.

It holds a format number, the arguments of :func:`.binding.apply_rope`, ``image_square``, and with square images
``image_pixels``, LLaMA-Factory's ``image_min_pixels`` and ``image_max_pixels``, which an engine without recipe needs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..utils.io import read_json, write_json


CONFIG_FILE = "clinkd_config.json"
FORMAT = 1
MARK = "clinkd_config"
PIXELS = "image_pixels"
RECIPE_KEYS = {  # setting in `clinkd_config.json` -> its key in a recipe
    "variant": "rope_variant",
    "alpha_h": "mcg_alpha_h",
    "alpha_w": "mcg_alpha_w",
    "gap": "mcg_gap",
    "sections": "rope_sections",
    "image_square": "image_square",
}


def write_rope_config(
    directory: str | Path, settings: dict[str, Any], *, image_pixels: Sequence[int | None] = (None,)
) -> Path:
    """Writes ``rope_settings(model)`` and ``image_square`` to ``clinkd_config.json``, beside a saved model or adapter.

    ``image_pixels`` are the fewest and the most pixels of an image; they are left out if one is None.

    Raises:
        ValueError: If a key is unknown or ``variant`` is missing.
    """
    _check_settings(settings, "The settings to save")
    path = Path(directory) / CONFIG_FILE
    pixels = {PIXELS: list(image_pixels)} if settings.get("image_square") and None not in image_pixels else {}
    write_json(path, {"format": FORMAT, **settings, **pixels})
    return path


def read_rope_config(directory: str | Path) -> dict[str, Any] | None:
    """Reads the settings of :func:`write_rope_config`; None if there is no such file.

    Raises:
        ValueError: If the file is damaged, or of a format that this version does not know.
    """
    return _read(Path(directory) / CONFIG_FILE)[0]


def read_image_pixels(directory: str | Path) -> tuple[int, int] | None:
    """The fewest and the most pixels of an image; None if they are not recorded. Raises as the function above."""
    pixels = _read(Path(directory) / CONFIG_FILE)[1]
    return None if pixels is None else (pixels[0], pixels[1])


def _read(path: Path) -> tuple[dict[str, Any] | None, list[int] | None]:
    if not path.exists():
        return None, None
    saved = read_json(path)
    version = saved.get("format") if isinstance(saved, dict) else saved
    if not isinstance(saved, dict) or version != FORMAT:
        raise ValueError(
            f"{path} has the format {version!r}, this version of llamafactory-clinkd reads {FORMAT}. Install the "
            "version that wrote the file."
        )
    del saved["format"]
    pixels = saved.pop(PIXELS, None)
    valid = isinstance(pixels, list) and len(pixels) == 2 and all(type(n) is int and n > 0 for n in pixels)
    if pixels is not None and not valid:
        raise ValueError(f"{path}: `{PIXELS}` is {pixels!r}, expected the fewest and the most pixels of an image.")
    _check_settings(saved, str(path))
    return saved, pixels


def _check_settings(settings: dict[str, Any], source: str) -> None:
    if "variant" not in settings or not settings.keys() <= RECIPE_KEYS.keys():
        raise ValueError(
            f"{source}: keys must be {', '.join(RECIPE_KEYS)}, `variant` among them; found {list(settings)}."
        )


def is_stock(settings: dict[str, Any] | None) -> bool:
    """Whether these are the positions of the unmodified architecture."""
    return settings is None or (settings["variant"] == "mrope" and not settings.get("sections"))
