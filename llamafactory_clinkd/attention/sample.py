# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One question about one image, as LLaMA-Factory's chat engine gives it to a saved model, with an answer behind it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..rope import read_rope_config, rope_settings
from ..rope.binding import inner_model, token_types
from .maps import attention_map


MAX_NEW_TOKENS = 128


class Attention(NamedTuple):
    """What a model looked at.

    Attributes:
        map: Float32 ``[h, w]``, see :func:`.maps.attention_map`.
        answer: The answer, special tokens included.
        tokens: The tokens whose attention it is, as text.
    """

    map: Tensor
    answer: str
    tokens: list[str]


def load_engine(path: str | Path, template: str = "qwen2_vl") -> Any:
    """LLaMA-Factory's Hugging Face chat engine for a saved model, or a saved adapter over its base.

    The plugin gives it the positions, and the square images, that were saved beside the model.

    Raises:
        RuntimeError: If the plugin is not attached in this process and the model would get stock's positions.
    """
    from llamafactory.chat.hf_engine import HuggingfaceEngine
    from llamafactory.hparams import get_infer_args

    keys = {"model_name_or_path": str(path), "template": template, "infer_dtype": "auto"}
    adapter = Path(path) / "adapter_config.json"
    if adapter.is_file():
        base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
        keys |= {"model_name_or_path": base, "adapter_name_or_path": str(path), "finetuning_type": "lora"}
    engine = HuggingfaceEngine(*get_infer_args(keys))
    saved, bound = read_rope_config(path), rope_settings(engine.model)
    if saved is not None and (bound is None or bound["variant"] != saved["variant"]):
        raise RuntimeError(
            f"{path} was saved with {saved}, but its positions were not applied: the plugin is not attached. Unset "
            "TORCH_DEVICE_BACKEND_AUTOLOAD, and see `clinkd doctor`."
        )
    return engine


def look(
    engine: Any,
    image: str | Path,
    question: str,
    *,
    word: str | None = None,
    layers: Sequence[int] | None = None,
    answer: str | None = None,
) -> Attention:
    """The attention of the answer's tokens, or of a word's, over the image.

    Args:
        engine: See :func:`load_engine`.
        image: Path of the picture.
        question: Without the image's placeholder.
        word: Attention of this word instead, looked for in the answer first and then in the question; upper and lower
            case are the same.
        layers: Numbers of decoder layers; None for all.
        answer: The answer to put behind the question; None to let the model answer greedily.

    Raises:
        ValueError: If the word is in neither, or there is no answer.
    """
    tokenizer, model = engine.tokenizer, engine.model
    prompt, inputs = _ask(engine, str(image), question)
    if answer is None:
        ids = torch.tensor([prompt], device=model.device)
        mask = torch.ones_like(ids)
        ends = engine.template.get_stop_token_ids(tokenizer)
        options = {"do_sample": False, "num_beams": 1, "max_new_tokens": MAX_NEW_TOKENS, "eos_token_id": ends}
        # An answer that writes an image's placeholder could not be passed through the model again.
        options["suppress_tokens"] = [model.config.image_token_id, model.config.video_token_id]
        out = model.generate(
            input_ids=ids, attention_mask=mask, pad_token_id=tokenizer.pad_token_id, **inputs, **options
        )
        answered = [token for token in out[0, len(prompt) :].tolist() if token not in ends]
    else:
        answered = tokenizer.encode(answer, add_special_tokens=False)

    ids = torch.tensor([[*prompt, *answered]], device=model.device)
    inner = inner_model(model)
    types = token_types(inner.config, ids)
    image_tokens = types[0].nonzero()[:, 0].tolist()
    rows = _rows(tokenizer, prompt, answered, image_tokens[-1] + 1, word)
    _, height, width = (inputs["image_grid_thw"][0] // inner.visual.spatial_merge_size).tolist()
    found = attention_map(
        model,
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types, **inputs},
        rows=rows,
        image_tokens=image_tokens,
        grid=(height, width),
        layers=layers,
    )
    return Attention(found, tokenizer.decode(answered), [tokenizer.decode([ids[0, row].item()]) for row in rows])


def word_columns(tokenizer: Any, ids: Sequence[int], word: str) -> list[int]:
    """Columns of the tokens that hold the first occurrence of ``word`` in ``ids``; empty if it does not occur."""
    at = tokenizer.decode(ids).lower().find(word.lower())
    ends = [len(tokenizer.decode(ids[: column + 1])) for column in range(len(ids))]
    starts = [0, *ends]
    return [column for column, end in enumerate(ends) if at >= 0 and end > at and starts[column] < at + len(word)]


def _ask(engine: Any, image: str, question: str) -> tuple[list[int], dict[str, Tensor]]:
    """Token ids of the question, and the image's pixels and grid on the model's device."""
    plugin, processor, model = engine.template.mm_plugin, engine.processor, engine.model
    messages = [{"role": "user", "content": f"<image>{question}"}]
    messages = plugin.process_messages(messages, [image], [], [], processor)
    messages.append({"role": "assistant", "content": ""})
    prompt, _ = engine.template.encode_oneturn(engine.tokenizer, messages)
    pixels = plugin.get_mm_inputs([image], [], [], [1], [0], [0], [prompt], processor)
    return prompt, {
        name: (value.to(model.dtype) if value.is_floating_point() else value).to(model.device)
        for name, value in pixels.items()
    }


def _rows(tokenizer: Any, prompt: list[int], answered: list[int], after_image: int, word: str | None) -> list[int]:
    """Columns of the tokens whose attention is wanted."""
    if not answered:
        raise ValueError("The model's answer is empty, so it has no attention. Give one with `answer`.")
    if word is None:
        return list(range(len(prompt), len(prompt) + len(answered)))
    for first, ids in ((len(prompt), answered), (after_image, prompt[after_image:])):
        columns = word_columns(tokenizer, ids, word)
        if columns:
            return [first + column for column in columns]
    raise ValueError(f"The word {word!r} is neither in the answer {tokenizer.decode(answered)!r} nor in the question.")
