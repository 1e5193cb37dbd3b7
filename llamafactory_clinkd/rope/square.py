# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Square images: the paper resamples to w = h so that every position of Eq. 4 is an integer (section 4.3).

With alpha = 1 and h = w, n + 1 - (h + 1) = h * (h - 1) is even. Boxes are fractions of the sides (integers in [0,
1000)), so they stay valid. The result lies on Qwen2-VL's 28-pixel grid and inside the pixel limits, so no later step
of the data path resamples it a second time.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

from PIL import Image

from ..utils.patching import bind_method


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


DEFAULT_LIMITS = (1, 2**31, 28)


def squared_template(template: Any) -> Any:
    """A copy of a chat template whose images are resampled to width = height; the registered one is left alone."""
    template = copy.copy(template)
    template.mm_plugin = plugin = copy.copy(template.mm_plugin)
    # Module-level functions and not a subclass made here: `datasets` hashes and pickles the template.
    bind_method(plugin, "_preprocess_image", _square_first)
    bind_method(plugin, "_get_mm_inputs", _note_processor)
    plugin.clinkd_limits = DEFAULT_LIMITS
    return template


def squaring(get_template: Callable[..., Any]) -> Callable[..., Any]:
    """Stock's ``get_template_and_fix_tokenizer``, giving squared templates."""
    return lambda *args, **kwargs: squared_template(get_template(*args, **kwargs))


def _note_processor(
    plugin: Any, images: list[Any], videos: list[Any], audios: list[Any], processor: Any, **kwargs: Any
) -> Any:
    """Notes what the model's own processor takes without resampling, which ``_preprocess_image`` is not told."""
    plugin.clinkd_limits = processor_limits(getattr(processor, "image_processor", None))
    return type(plugin)._get_mm_inputs(plugin, images, videos, audios, processor, **kwargs)


def _square_first(plugin: Any, image: Any, **kwargs: Any) -> Any:
    if "video_fps" not in kwargs:  # stock gives it for frames only
        smallest, largest, factor = plugin.clinkd_limits
        image = to_square(
            image,
            min_pixels=max(kwargs["image_min_pixels"], smallest),
            max_pixels=min(kwargs["image_max_pixels"], largest),
            factor=factor,
        )
    return type(plugin)._preprocess_image(plugin, image, **kwargs)


def processor_limits(image_processor: Any) -> tuple[int, int, int]:
    """Fewest and most pixels, and the grid in pixels, that a processor of Qwen2-VL's kind leaves as they are."""
    size = getattr(image_processor, "size", None) or {}
    if "shortest_edge" not in size or "longest_edge" not in size or not hasattr(image_processor, "merge_size"):
        return DEFAULT_LIMITS
    return size["shortest_edge"], size["longest_edge"], image_processor.patch_size * image_processor.merge_size
