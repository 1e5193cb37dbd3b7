# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The model that the Chat tab has loaded: candidate answers (SASG) from it, and the positions that it uses.

The prompt is LLaMA-Factory's own; only the decoding differs: several beams or samples from one ``generate`` call, each
with its log-probability. Nothing is written to disk.
"""

import asyncio
import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

from PIL import Image

from ..rope.binding import rope_settings
from .locales import texts


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
    """Candidate answers ``[{"text", "logprob"}]`` to the last message; one user generates at a time.

    ``chatter`` is LLaMA Board's ``WebChatModel`` with a loaded Hugging Face engine. ``mode`` is ``beam`` (the best
    beams) or ``sample`` (the greedy answer, then seeded samples). ``skip_special_tokens`` also removes tags of boxes.

    Raises:
        ValueError: If the loaded model cannot generate.
    """
    engine = chatter.engine
    if not engine.can_generate:
        raise ValueError("The loaded model is a reward model: it returns scores, not answers.")
    if mode == "sample":
        settings = {"do_sample": True, "num_beams": 1, "top_p": top_p, "temperature": temperature}
    else:
        settings = {"do_sample": False, "top_p": None, "temperature": None, "top_k": None}
    settings["max_new_tokens"] = max_new_tokens
    prompt = (copy.deepcopy(messages), system, tools, None if image is None else [image])

    async def generate_in_turn() -> list[dict[str, Any]]:
        async with engine.semaphore:
            return await asyncio.to_thread(_generate, engine, prompt, settings, count, skip_special_tokens)

    return asyncio.run_coroutine_threadsafe(generate_in_turn(), chatter._loop).result()


ENGINE_SETTINGS = ("eos_token_id", "pad_token_id", "repetition_penalty", "length_penalty", "top_k", "num_beams")
"""Settings of the engine's own generation that also apply to the candidates."""


def _generate(
    engine: Any, prompt: tuple[Any, ...], settings: dict[str, Any], count: int, skip_special_tokens: bool
) -> list[dict[str, Any]]:
    from ..generation import preserve_training_state
    from ..generation.decode import decode_batch, generation_settings, model_inputs

    model, tokenizer = engine.model, engine.tokenizer
    modules = (model, tokenizer, engine.processor, engine.template, engine.generating_args)
    inputs, _ = engine._process_args(*modules, *prompt, input_kwargs={"max_new_tokens": settings["max_new_tokens"]})
    config, input_ids = inputs.pop("generation_config"), inputs.pop("inputs")
    own = {name: getattr(config, name) for name in ENGINE_SETTINGS if getattr(config, name, None) is not None}
    with preserve_training_state(model):
        (row,) = decode_batch(
            model,
            tokenizer,
            model_inputs(model, {"input_ids": input_ids, **inputs}, model.device),
            generation_settings(model, tokenizer, own | settings, count),
            skip_special_tokens=skip_special_tokens,
        )
    return row["candidates"]


def with_positions_note(stock: Callable[..., Iterator[str]]) -> Callable[..., Iterator[str]]:
    """``WebChatModel.load_model`` whose last message also names the positions from ``clinkd_config.json``.

    If loading fails (see ``refuse_foreign_engine``), the message is the reason rather than LLaMA Board's "Error".
    """

    @functools.wraps(stock)
    def load_model(self: Any, data: dict[Any, Any]) -> Iterator[str]:
        lang, was_loaded, message = data[self.manager.get_elem_by_id("top.lang")], self.loaded, ""
        try:
            for message in stock(self, data):
                yield message
        except ValueError as error:
            import gradio as gr

            problem = f"{texts(lang)['chat']['not_loaded']}: {error}"
            gr.Warning(problem, duration=None)
            yield problem
            return
        note = positions_note(self.engine, lang) if self.loaded and not was_loaded else None
        if note is not None:
            yield f"{message} {note}"

    return load_model


def positions_note(engine: Any, lang: str | None) -> str | None:
    """The rotary positions and images that a loaded chat engine uses; ``None`` for a model without saved ones."""
    model = getattr(engine, "model", None)
    try:
        settings = None if model is None else rope_settings(model)
    except TypeError:  # another architecture
        return None
    if settings is None:
        return None
    words = texts(lang)["chat"]
    images = "square_images" if hasattr(engine.template.mm_plugin, "clinkd_limits") else "images_as_they_are"
    return words["positions"].format(variant=settings["variant"], images=words[images])
