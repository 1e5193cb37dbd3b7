# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What an image scorer looks at: the whole image, or views of one box in it.

========== ==========================================================================================================
region     picture that is compared with the words
========== ==========================================================================================================
image      the whole image, whatever boxes there are
crop       the box with a margin
highlight  the whole image with the box outlined in red (visual prompting of CLIP, Shtedritski et al., ICCV 2023)
blur       the whole image, blurred outside of the box
mean       the mean of the scores of crop, highlight and blur
auto       the view that validated best for boxes (:data:`BOX_REGION`); the whole image where there is no box
========== ==========================================================================================================

A box is the candidate's own, else that of the question; without either the whole image is scored in every region.
"""

from typing import Literal, get_args

from PIL import Image, ImageDraw, ImageFilter

from ..utils.boxes import Box


Region = Literal["auto", "image", "crop", "highlight", "blur", "mean"]
REGIONS: tuple[str, ...] = get_args(Region)
BOX_VIEWS = ("crop", "highlight", "blur")
BOX_REGION = "crop"
MARGIN = 0.1  # of the box's width and height, on each side
OUTLINE = (255, 0, 0)


def views_of(region: str) -> tuple[str, ...]:
    """The box views whose scores a region averages; none for ``image``.

    Raises:
        ValueError: If the region is unknown.
    """
    if region not in REGIONS:
        raise ValueError(f"Unknown region {region!r}: expected one of {', '.join(REGIONS)}.")
    if region == "image":
        return ()
    return BOX_VIEWS if region == "mean" else (BOX_REGION if region == "auto" else region,)


def box_view(image: Image.Image, box: Box, view: str) -> Image.Image | None:
    """One view (of :data:`BOX_VIEWS`) of a box in thousandths; None if no part of the box is inside the image."""
    inside = pixel_box(image, box)
    if inside is None:
        return None
    if view == "crop":
        x, y = (MARGIN * (end - start) for start, end in ((box.x1, box.x2), (box.y1, box.y2)))
        return image.crop(pixel_box(image, Box(box.x1 - x, box.y1 - y, box.x2 + x, box.y2 + y)))
    if view == "highlight":
        marked = image.copy()
        ImageDraw.Draw(marked).rectangle(
            (inside[0], inside[1], inside[2] - 1, inside[3] - 1), outline=OUTLINE, width=max(1, min(image.size) // 100)
        )
        return marked
    blurred = image.filter(ImageFilter.GaussianBlur(max(image.size) / 50))
    blurred.paste(image.crop(inside), inside[:2])
    return blurred


def pixel_box(image: Image.Image, box: Box) -> tuple[int, int, int, int] | None:
    """A box in pixels, clipped to the image and at least one pixel large; None if it lies outside."""
    left, right = (min(max(x / 1000, 0.0), 1.0) * image.width for x in (box.x1, box.x2))
    top, bottom = (min(max(y / 1000, 0.0), 1.0) * image.height for y in (box.y1, box.y2))
    if right <= left or bottom <= top:
        return None
    x, y = int(left + 1e-6), int(top + 1e-6)  # 57.0 may be 56.999 after the division
    return x, y, max(round(right), x + 1), max(round(bottom), y + 1)
