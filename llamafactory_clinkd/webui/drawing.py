# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Boxes drawn on a picture."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont


SIDE = 768
"""Pixels that a picture's longer side has at least, so that lines stay thin on small scans."""

COLOURS = ("#ffd400", "#00d9ff", "#ff5fd2", "#7dff5f", "#ff8a3d", "#b79bff")
"""Of the boxes in turn: none of them is a grey of a scan."""


def draw_boxes(image: Image.Image, boxes: Sequence[Sequence[float]]) -> Image.Image:
    """A copy of ``image`` with the outline of each box, numbered from 1 where there are several.

    Args:
        image: Any mode; left as it is.
        boxes: ``x1, y1, x2, y2`` in thousandths of the image's width and height. What lies outside of the image is
            drawn along its edge; a box without area is drawn as a line or a point.

    Returns:
        RGB, of the same aspect, enlarged to :data:`SIDE` if it is smaller.
    """
    scale = max(1.0, SIDE / max(image.size))
    picture = image.convert("RGB").resize(
        [max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC
    )
    canvas = ImageDraw.Draw(picture)
    line = max(3, max(picture.size) // 250)
    for number, box in enumerate(boxes, start=1):
        colour = COLOURS[(number - 1) % len(COLOURS)]
        left, top, right, bottom = _pixels(box, picture.size)
        canvas.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black", width=line + 2)
        canvas.rectangle((left, top, right, bottom), outline=colour, width=line)
        if len(boxes) > 1:
            _write(canvas, str(number), (left + line, top + line), colour, size=6 * line)
    return picture


def _pixels(box: Sequence[float], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """A box of thousandths in pixels of a picture of this size, inside of it."""
    width, height = size
    x = sorted(min(max(round(value * width / 1000), 0), width - 1) for value in (box[0], box[2]))
    y = sorted(min(max(round(value * height / 1000), 0), height - 1) for value in (box[1], box[3]))
    return x[0], y[0], x[1], y[1]


def _write(canvas: ImageDraw.ImageDraw, text: str, corner: tuple[int, int], colour: str, size: int) -> None:
    """Writes dark on a patch of the box's colour."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = canvas.textbbox(corner, text, font=font)
    margin = size // 6
    canvas.rectangle((corner[0], corner[1], right + margin * 2, bottom + margin), fill=colour)
    canvas.text((corner[0] + margin, corner[1]), text, fill="black", font=font)
