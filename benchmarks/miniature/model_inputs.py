# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What a small Qwen2-VL reads: token ids laid out as by LLaMA-Factory, padded batches of them, and pixels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .models import MERGE, PATCH
from .render import SIZE


IMAGE_TOKENS = (SIZE // (PATCH * MERGE)) ** 2
SYSTEM = "You are a helpful assistant."
IGNORED = -100  # the label of a token that is not learnt


def encode(messages: list[dict[str, Any]], tokenizer) -> tuple[list[int], list[int]]:
    """Token ids and labels of a conversation, as stock LLaMA-Factory's template ``qwen2_vl`` makes them.

    Answers and their ``<|im_end|>`` and line break are learnt; everything else has label :data:`IGNORED`.
    """
    ids: list[int] = []
    labels: list[int] = []
    image = "<|vision_start|>" + "<|image_pad|>" * IMAGE_TOKENS + "<|vision_end|>"
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            tokens = tokenizer.encode(message["content"] + "<|im_end|>\n", add_special_tokens=False)
            labels += tokens
        else:
            system = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n" if number == 0 else ""
            content = message["content"].replace("<image>", image)
            text = f"{system}<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
            tokens = tokenizer.encode(text, add_special_tokens=False)
            labels += [IGNORED] * len(tokens)
        ids += tokens
    return ids, labels


def collate(rows: Sequence[tuple[list[int], list[int]]], pad: int, image: int) -> dict[str, Tensor]:
    """Pads (ids, labels) on the right.

    Returns:
        ``input_ids``, ``attention_mask``, ``labels``, ``mm_token_type_ids``: int64 or int32 ``[b, s]``.
    """
    width = max(len(ids) for ids, _ in rows)
    ids, labels = torch.full((len(rows), width), pad), torch.full((len(rows), width), IGNORED)
    for number, (row, row_labels) in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        labels[number, : len(row)] = torch.tensor(row_labels)
    lengths = torch.tensor([len(row) for row, _ in rows])
    mask = (torch.arange(width)[None] < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "mm_token_type_ids": (ids == image).int()}


def pixel_values(pictures: np.ndarray, processor) -> tuple[Tensor, Tensor]:
    """The image processor's output for pictures of equal size.

    Args:
        pictures: uint8 ``[n, S, S, 3]``.
        processor: A ``Qwen2VLProcessor``.

    Returns:
        ``pixel_values`` float32 ``[n * patches, 1176]`` and ``image_grid_thw`` int64 ``[n, 3]``.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many small operations: threads only wait for each other (50 times slower was seen)
    try:
        output = processor.image_processor(images=list(pictures), return_tensors="pt")
    finally:
        torch.set_num_threads(threads)
    return output["pixel_values"], output["image_grid_thw"]
