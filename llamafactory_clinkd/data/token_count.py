# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""How many tokens a row takes: the text through the model's own tokenizer, the images by their size."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


IMAGE_MAX_PIXELS, IMAGE_MIN_PIXELS = 768 * 768, 32 * 32  # LLaMA-Factory's own defaults


def fed_size(width: int, height: int, max_pixels: int = IMAGE_MAX_PIXELS, min_pixels: int = IMAGE_MIN_PIXELS):
    """Width and height that LLaMA-Factory (0.9.5, Qwen2-VL) hands to the image processor."""
    for limit, beyond in ((max_pixels, width * height > max_pixels), (min_pixels, width * height < min_pixels)):
        if beyond:
            factor = math.sqrt(limit / (width * height))
            width, height = int(width * factor), int(height * factor)
    width, height = max(width, 28), max(height, 28)
    if width / height > 200:
        width = height * 180
    if height / width > 200:
        height = width * 180
    return width, height


class TokenCounter:
    """Counts the tokens of rows for one model.

    Args:
        model: Folder or hub name of a Qwen2-VL; nothing but its tokenizer and processor is loaded.
        max_pixels: The recipe's ``image_max_pixels``.
        min_pixels: The recipe's ``image_min_pixels``.
    """

    def __init__(self, model: str, max_pixels: int = IMAGE_MAX_PIXELS, min_pixels: int = IMAGE_MIN_PIXELS) -> None:
        from transformers import AutoProcessor

        self._processor = AutoProcessor.from_pretrained(model)
        self._limits = (max_pixels, min_pixels)

    def image_tokens(self, width: int, height: int) -> int:
        """Placeholder tokens of one image, vision start and end included."""
        processor = self._processor.image_processor
        fed_width, fed_height = fed_size(width, height, *self._limits)
        return processor.get_number_of_image_patches(fed_height, fed_width, {}) // processor.merge_size**2 + 2

    def count(self, messages: Sequence[Mapping[str, Any]], sizes: Sequence[tuple[int, int]]) -> int:
        """Tokens of a row in the model's chat template."""
        plain = [{"role": m["role"], "content": m["content"].replace("<image>", "")} for m in messages]
        text = self._processor.tokenizer.apply_chat_template(plain, tokenize=False)
        tokens = self._processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        return len(tokens) + sum(self.image_tokens(*size) for size in sizes)
