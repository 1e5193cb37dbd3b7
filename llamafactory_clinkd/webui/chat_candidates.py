# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Candidate answers (SASG) from the model that the Chat tab has loaded, by that model's own chat engine.

The prompt is the one that stock's chat would send; only the decoding is ours: several beams or samples from one
``generate`` call, each with its log-probability. Nothing is written to disk.
"""

import asyncio
import copy
from typing import Any

from PIL import Image

from ..generation import undisturbed


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
    with undisturbed(engine.model):
        (row,) = decode_batch(
            engine.model,
            engine.tokenizer,
            model_inputs(engine.model, {"input_ids": ids, **encoded}, engine.model.device),
            generation_settings(engine.model, engine.tokenizer, wanted, count),
            skip_special_tokens=skip_special_tokens,
        )
    return row["candidates"]
