# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Candidate answers (SASG) from the model that the Chat tab has loaded, by that model's own chat engine.

The prompt is the one that stock's chat would send; only the decoding is ours: several beams or samples from one
``generate`` call, each with its log-probability. Nothing is written to disk.
"""

import asyncio
import copy
from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ..generation import preserve_training_state


def generate_candidates(
    chatter: Any,
    messages: list[dict[str, str]],
    system: str,
    tools: str,
    image: Image.Image | None,
    *,
    count: int,
    mode: str,
    max_new_tokens: int,
    top_p: float,
    temperature: float,
    skip_special_tokens: bool,
) -> list[dict[str, Any]]:
    """Candidates for the last message.

    Args:
        chatter: LLaMA Board's ``WebChatModel`` with a loaded Hugging Face engine, whose semaphore lets one user
            generate at a time, as in stock's chat.
        messages: The conversation, left as it is; the last one is the question.
        system: System prompt.
        tools: Tools as JSON.
        image: The uploaded image.
        count: How many candidates.
        mode: ``beam`` (the best beams) or ``sample`` (seeded).
        max_new_tokens: Of each candidate.
        top_p: Of sampling.
        temperature: Of sampling.
        skip_special_tokens: Leave special tokens, tags included, out of the texts.

    Returns:
        ``[{"text", "logprob"}]`` in the order of generation.

    Raises:
        ValueError: If the loaded model cannot generate.
    """
    engine = chatter.engine
    if not engine.can_generate:
        raise ValueError("The loaded model is a reward model: it gives scores, not answers.")
    sampling = {"do_sample": True, "num_beams": 1, "top_p": top_p, "temperature": temperature}
    settings = (
        sampling if mode == "sample" else {"do_sample": False, "top_p": None, "temperature": None, "top_k": None}
    )
    prompt = (copy.deepcopy(messages), system, tools, None if image is None else [image])

    async def in_turn() -> list[dict[str, Any]]:
        async with engine.semaphore:
            return await asyncio.to_thread(
                _generate, engine, prompt, settings | {"max_new_tokens": max_new_tokens}, count, skip_special_tokens
            )

    return asyncio.run_coroutine_threadsafe(in_turn(), chatter._loop).result()


def _generate(
    engine: Any, prompt: tuple[Any, ...], settings: dict[str, Any], count: int, skip_special_tokens: bool
) -> list[dict[str, Any]]:
    from ..generation.decode import decode_batch, generation_settings, model_inputs

    parts = (engine.model, engine.tokenizer, engine.processor, engine.template, engine.generating_args)
    encoded, _ = engine._process_args(*parts, *prompt, input_kwargs={"max_new_tokens": settings["max_new_tokens"]})
    config, ids = encoded.pop("generation_config"), encoded.pop("inputs")
    kept = ("eos_token_id", "pad_token_id", "repetition_penalty", "length_penalty", "top_k", "num_beams")
    wanted = {name: getattr(config, name) for name in kept if getattr(config, name, None) is not None} | settings
    with preserve_training_state(engine.model):
        (row,) = decode_batch(
            engine.model,
            engine.tokenizer,
            model_inputs(engine.model, {"input_ids": ids, **encoded}, engine.model.device),
            generation_settings(engine.model, engine.tokenizer, wanted, count),
            skip_special_tokens=skip_special_tokens,
        )
    return row["candidates"]


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
