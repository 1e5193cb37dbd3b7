# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Square images in LLaMA-Factory's data path: the same for the collator, chat, API and prediction.

All of them hand their images to the template's plugin, whose ``_preprocess_image`` is the first to resample. An image
that leaves it square, on the processor's grid and inside the limits of both, is resampled by nobody after it. Frames
of a video stay as they are: stock counts a video's tokens from its file, without decoding a frame.
"""

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any

from .square import to_square


DEFAULT_LIMITS = (1, 2**31, 28)


def squared_template(template: Any) -> Any:
    """A copy of a chat template whose images are resampled to width = height; the registered one is left alone."""
    template = copy.copy(template)
    template.mm_plugin = plugin = copy.copy(template.mm_plugin)
    # Module-level functions and not a subclass made here: `datasets` hashes and pickles the template.
    plugin._preprocess_image = MethodType(_square_first, plugin)
    plugin._get_mm_inputs = MethodType(_note_processor, plugin)
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
