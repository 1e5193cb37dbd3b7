# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""What the demo's pretraining reads: pictures, what their cells show, and token ids laid out as by LLaMA-Factory."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from .cells import IGNORED
from .models import MERGE, PATCH
from .render import SIZE


IMAGE_TOKENS = (SIZE // (PATCH * MERGE)) ** 2
SYSTEM = "You are a helpful assistant."


@dataclass(frozen=True)
class Corpus:
    """The pretraining rows, in order.

    Attributes:
        pictures: uint8 ``[N, S, S, 3]``.
        cells: int16 ``[N, 16, 16]``: the class of each cell, 0 for background, -100 where nothing is known.
        boxes: int16 ``[N, 16, 16, 4]``: the box of the structure that each cell shows, in thousandths.
        classes: Number of classes, background included.
        messages: For each row, its messages (``role``, ``content``).
    """

    pictures: np.ndarray
    cells: np.ndarray
    boxes: np.ndarray
    classes: int
    messages: list[list[dict[str, Any]]]


def load_corpus(data: Path) -> Corpus:
    """Reads ``demo_pretrain.json``, its pictures and ``cells_pretrain.safetensors`` from the data folder."""
    from PIL import Image

    rows = json.loads((data / "demo_pretrain.json").read_text(encoding="utf-8"))
    pictures = np.stack([np.asarray(Image.open(data / row["images"][0]).convert("RGB")) for row in rows])
    with safe_open(data / "cells_pretrain.safetensors", framework="np") as file:
        cells, boxes, classes = file.get_tensor("cells"), file.get_tensor("boxes"), int(file.metadata()["classes"])
    return Corpus(pictures, cells, boxes, classes, [row["messages"] for row in rows])


def pointing_turns(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The questions of a conversation whose answer is a box, and these answers; the image comes with the first."""
    pairs = zip(messages[::2], messages[1::2], strict=True)
    kept = [pair for pair in pairs if pair[1]["content"].startswith("<|box_start|>")]
    asked = [{**question, "content": question["content"].replace("<image>", "")} for question, _ in kept]
    if asked:
        asked[0]["content"] = f"<image>{asked[0]['content']}"
    return [message for question, (_, answer) in zip(asked, kept, strict=True) for message in (question, answer)]


def encode(messages: list[dict[str, Any]], tokenizer) -> tuple[list[int], list[int]]:
    """Token ids and labels of a conversation, as stock LLaMA-Factory's template ``qwen2_vl`` makes them.

    Answers and their ``<|im_end|>`` and line break are learnt; everything else has label -100.
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


def pixel_values(pictures: np.ndarray, processor):
    """The image processor's output for pictures of equal size.

    Args:
        pictures: uint8 ``[n, S, S, 3]``.
        processor: A ``Qwen2VLProcessor``.

    Returns:
        ``pixel_values`` float32 ``[n * patches, 1176]`` and ``image_grid_thw`` int64 ``[n, 3]``.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many small operations: threads only wait for each other (50 times slower was seen)
    try:
        output = processor.image_processor(images=list(pictures), return_tensors="pt")
    finally:
        torch.set_num_threads(threads)
    return output["pixel_values"], output["image_grid_thw"]
