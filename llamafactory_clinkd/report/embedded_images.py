# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Images within the page: found, scaled down, and embedded."""

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image


MAX_SIDE = 420
QUALITY = 82


@dataclass(frozen=True)
class Picture:
    """An embedded image; ``width`` and ``height`` are those of the copy in pixels."""

    uri: str
    width: int
    height: int


def find_image(name: str, folder: Path) -> Path | None:
    """The file of an image as predictions name it: as it stands, within the run's folder, or beside it."""
    if not name:
        return None
    for place in (Path(name), folder / name, folder / "clinkd" / name, folder.parent / name):
        if place.is_file():
            return place
    return None


def embed(path: Path, max_side: int = MAX_SIDE) -> Picture:
    """Reads an image and scales it down to ``max_side`` pixels; 16-bit and float scans are stretched to 8 bits.

    Raises:
        ValueError: If the file is not an image, is cut off, or is too large to open safely.
    """
    try:
        with Image.open(path) as opened:
            if opened.format == "JPEG":
                opened.draft("RGB", (2 * max_side, 2 * max_side))
            image = _eight_bit(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name} cannot be read as an image ({type(error).__name__})") from error
    image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY, optimize=True)
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/jpeg;base64,{encoded}", *image.size)


def _eight_bit(image: Image.Image) -> Image.Image:
    """RGB or grey; transparent parts stand on black, as scans do."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float64)
        finite = values[np.isfinite(values)]
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
        shown = np.nan_to_num((values - low) / max(high - low, 1e-12)).clip(0, 1)
        return Image.fromarray((shown * 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        shown = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", shown.size, "black"), shown).convert("RGB")
    return image.convert("L" if image.mode in ("L", "1") else "RGB")
