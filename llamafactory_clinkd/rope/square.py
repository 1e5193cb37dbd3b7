# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Images as the model gets them: read by the project's one rule, and square.

The paper resamples to w = h so that every position of Eq. 4 is an integer (section 4.3). With alpha = 1 and h = w,
n + 1 - (h + 1) = h * (h - 1) is even. Boxes are fractions of the sides (integers in [0, 1000)), so they remain valid.
The result is on Qwen2-VL's 28-pixel grid and inside the pixel limits, so no later step of the data path resamples it.
"""

import copy
import math
import os
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from ..utils.patching import bind_method
from ..utils.pixels import PictureError, read_pixels, rgb_pixels


DEFAULT_LIMITS = (1, 2**31, 28)
MAX_GRIDS = 2**18
_grids: dict[Any, tuple[int, ...]] = {}  # image file and what its grid depends on -> patches in time, height and width


def square_size(width: int, height: int, *, min_pixels: int, max_pixels: int, factor: int = 28) -> int:
    """The side in pixels, a multiple of ``factor`` (patch size times merge size), of the square closest to an image.

    Raises:
        ValueError: If the image is empty, or no multiple of ``factor`` lies inside the limits.
    """
    if width < 1 or height < 1:
        raise ValueError(f"An image must have at least one pixel, found {width} x {height}.")
    smallest = math.isqrt(max(0, min_pixels - 1)) // factor + 1  # ceil(sqrt(min_pixels) / factor), at least 1
    largest = math.isqrt(max(0, max_pixels)) // factor
    if smallest > largest:
        raise ValueError(
            f"No square whose side is a multiple of {factor} has {min_pixels} to {max_pixels} pixels. Lower "
            f"`image_min_pixels` or raise `image_max_pixels` to at least {(smallest * factor) ** 2}."
        )
    return min(max(round(math.sqrt(width * height) / factor), smallest), largest) * factor


def to_square(image: Image.Image, *, min_pixels: int, max_pixels: int, factor: int = 28) -> Image.Image:
    """Resamples an image to w = h = :func:`square_size`, bicubic as in Qwen2-VL's own processor.

    Palette and bilevel images are converted to RGB first, because PIL would resample them by the nearest pixel.
    """
    side = square_size(image.width, image.height, min_pixels=min_pixels, max_pixels=max_pixels, factor=factor)
    if image.size == (side, side):
        return image
    if image.mode in ("1", "P"):
        image = image.convert("RGB")
    return image.resize((side, side), Image.Resampling.BICUBIC)


def processor_limits(image_processor: Any) -> tuple[int, int, int]:
    """Fewest pixels, most pixels and grid size in pixels that a Qwen2-VL image processor does not resample."""
    size = getattr(image_processor, "size", None) or {}
    if "shortest_edge" not in size or "longest_edge" not in size or not hasattr(image_processor, "merge_size"):
        return DEFAULT_LIMITS
    return size["shortest_edge"], size["longest_edge"], image_processor.patch_size * image_processor.merge_size


def prepared_template(template: Any, *, square: bool) -> Any:
    """A copy of a LLaMA-Factory chat template that reads images with ``utils.pixels`` and may make them square.

    The registered template is not changed.
    """
    template = copy.copy(template)
    template.mm_plugin = plugin = copy.copy(template.mm_plugin)
    # Module-level functions and not a local subclass: `datasets` hashes and pickles the template.
    bind_method(plugin, "_regularize_images", _read_and_regularize)
    if hasattr(plugin, "_get_mm_token_metadata"):  # LLaMA-Factory's Qwen2-VL plugin
        bind_method(plugin, "_get_mm_token_metadata", _token_metadata)
    if square:
        bind_method(plugin, "_preprocess_image", _square_and_preprocess)
        bind_method(plugin, "_get_mm_inputs", _store_processor_limits)
        plugin.clinkd_limits = DEFAULT_LIMITS
    return template


def with_prepared_images(get_template: Callable[..., Any], *, square: bool) -> Callable[..., Any]:
    """LLaMA-Factory's ``get_template_and_fix_tokenizer``, returning prepared templates."""
    return lambda *args, **kwargs: prepared_template(get_template(*args, **kwargs), square=square)


def _read_and_regularize(plugin: Any, images: Any, **kwargs: Any) -> Any:
    return type(plugin)._regularize_images(plugin, [_pixels(image) for image in images], **kwargs)


def _pixels(image: Any) -> Image.Image:
    """The pixels of a path, bytes, ``{"bytes", "path"}``, an open file or an image."""
    if isinstance(image, dict):
        image = image["path"] if image.get("bytes") is None else image["bytes"]
    if isinstance(image, Image.Image):
        return rgb_pixels(image)
    try:
        return read_pixels(image)
    except PictureError as error:
        name = image if isinstance(image, str) else "An embedded image"
        raise ValueError(f"{name}: {error}. `clinkd data check` lists all such images.") from error


def _token_metadata(plugin: Any, images: Any, videos: Any, audios: Any, processor: Any) -> Any:
    """What stock's tokeniser reads of a row's images: their grids, which are computed once for each image file.

    Rows often share an image, and a run tokenises its rows for several phases.
    """
    stock = type(plugin)._get_mm_token_metadata
    if not images or videos or audios or not all(isinstance(image, str) for image in images):
        return stock(plugin, images, videos, audios, processor)
    pixels = [getattr(processor, name, None) for name in ("image_max_pixels", "image_min_pixels")]
    is_square, image_processor = hasattr(plugin, "clinkd_limits"), getattr(processor, "image_processor", None)
    settings = (type(plugin), is_square, *pixels, repr(image_processor))
    files = [os.stat(image) for image in images]
    keys = [(image, file.st_mtime_ns, file.st_size, settings) for image, file in zip(images, files, strict=True)]
    if not all(key in _grids for key in keys):
        found = stock(plugin, images, [], [], processor)
        if found.keys() - {"pixel_values", "image_grid_thw"} or len(_grids) > MAX_GRIDS:
            return found
        _grids.update(zip(keys, map(tuple, found["image_grid_thw"].tolist()), strict=True))
    return {"image_grid_thw": torch.tensor([_grids[key] for key in keys])}


def _store_processor_limits(plugin: Any, images: Any, videos: Any, audios: Any, processor: Any, **kwargs: Any) -> Any:
    """Stores the limits of the model's processor for ``_preprocess_image``, which does not receive the processor."""
    plugin.clinkd_limits = processor_limits(getattr(processor, "image_processor", None))
    return type(plugin)._get_mm_inputs(plugin, images, videos, audios, processor, **kwargs)


def _square_and_preprocess(plugin: Any, image: Any, **kwargs: Any) -> Any:
    if "video_fps" not in kwargs:  # LLaMA-Factory passes it for frames only
        smallest, largest, factor = plugin.clinkd_limits
        smallest, largest = max(kwargs["image_min_pixels"], smallest), min(kwargs["image_max_pixels"], largest)
        image = to_square(image, min_pixels=smallest, max_pixels=largest, factor=factor)
    return type(plugin)._preprocess_image(plugin, image, **kwargs)
