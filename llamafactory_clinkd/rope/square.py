# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Square images: the paper resamples to w = h so that every position of Eq. 4 is an integer (section 4.3).

With alpha = 1 and h = w, n + 1 - (h + 1) = h * (h - 1) is even. Boxes are fractions of the sides (integers in [0,
1000)), so they stay valid. The result lies on Qwen2-VL's 28-pixel grid and inside the pixel limits, so no later step
of the data path resamples it a second time.
"""

import math

from PIL import Image


def square_size(width: int, height: int, *, min_pixels: int, max_pixels: int, factor: int = 28) -> int:
    """The side in pixels of the square that keeps an image's area, on the grid and inside the limits.

    Args:
        width: Pixels, >= 1.
        height: Pixels, >= 1.
        min_pixels: The square holds at least as many.
        max_pixels: The square holds at most as many.
        factor: The side is a multiple of it: patch size times merge size.

    Raises:
        ValueError: If the image is empty, or no multiple of ``factor`` lies inside the limits.
    """
    if width < 1 or height < 1:
        raise ValueError(f"An image must have at least one pixel, found {width} x {height}.")
    smallest = max(1, -(-_ceil_sqrt(min_pixels) // factor))
    largest = math.isqrt(max(0, max_pixels)) // factor
    if smallest > largest:
        raise ValueError(
            f"No square whose side is a multiple of {factor} has {min_pixels} to {max_pixels} pixels. Lower "
            f"`image_min_pixels` or raise `image_max_pixels` to at least {(smallest * factor) ** 2}."
        )
    return min(max(round(math.sqrt(width * height) / factor), smallest), largest) * factor


def to_square(image: Image.Image, *, min_pixels: int, max_pixels: int, factor: int = 28) -> Image.Image:
    """Resamples an image (bicubic, as Qwen2-VL's own processor) to w = h = :func:`square_size`.

    An image that has that size already is returned as it is. Palette and bilevel images become RGB first: PIL would
    resample them by the nearest pixel.
    """
    side = square_size(image.width, image.height, min_pixels=min_pixels, max_pixels=max_pixels, factor=factor)
    if image.size == (side, side):
        return image
    if image.mode in ("1", "P"):
        image = image.convert("RGB")
    return image.resize((side, side), Image.Resampling.BICUBIC)


def _ceil_sqrt(value: int) -> int:
    """The smallest integer whose square is at least ``value``."""
    return math.isqrt(value - 1) + 1 if value > 0 else 0
