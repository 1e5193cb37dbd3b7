# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The attention of a saved model's answer to one question, with the inputs of LLaMA-Factory's chat engine."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import BatchFeature

from ..rope import read_rope_config, rope_settings
from ..rope.binding import inner_model, token_types
from ..utils.boxes import UNIT_OF_MODEL, Box, parse_boxes, to_thousandths
from ..utils.io import read_json
from ..utils.pixels import read_pixels
from .maps import attention_map


MAX_NEW_TOKENS = 128


class AnswerAttention(NamedTuple):
    """Attention over an image."""

    map: Tensor  # float32 [h, w], see `attention_map`
    answer: str  # special tokens included
    tokens: list[str]  # the tokens whose attention it is
    boxes: list[Box] = []  # of the answer, in thousandths of the image


def load_engine(path: str | Path) -> Any:
    """LLaMA-Factory's Hugging Face chat engine for a saved model, or for a saved adapter and its base.

    The attached plugin applies the positions that were saved beside the model; without it, a RuntimeError is raised.
    """
    from llamafactory.chat.hf_engine import HuggingfaceEngine
    from llamafactory.hparams import get_infer_args

    keys = {"model_name_or_path": str(path), "template": "qwen2_vl", "infer_dtype": "auto"}
    adapter = Path(path) / "adapter_config.json"
    if adapter.is_file():
        base = read_json(adapter)["base_model_name_or_path"]
        keys |= {"model_name_or_path": base, "adapter_name_or_path": str(path), "finetuning_type": "lora"}
    engine = HuggingfaceEngine(*get_infer_args(keys))
    saved, bound = read_rope_config(path), rope_settings(engine.model)
    if saved is not None and (bound is None or bound["variant"] != saved["variant"]):
        raise RuntimeError(
            f"{path} was saved with {saved}, but its positions were not applied: the plugin is not attached. Unset "
            "TORCH_DEVICE_BACKEND_AUTOLOAD, and see `clinkd doctor`."
        )
    return engine


def answer_attention(
    engine: Any,
    image: str | Path,
    question: str,
    *,
    word: str | None = None,
    layers: Sequence[int] | None = None,
    answer: str | None = None,
) -> AnswerAttention:
    """The attention of the answer's tokens, or of a word's, over the image; see :func:`.figure.attention_figure`.

    The word is searched in the answer, then in the question, ignoring case; a ValueError if it is in neither.
    """
    tokenizer, model = engine.tokenizer, engine.model
    prompt, pixels = _encode_question(engine, str(image), question)
    answer_ids = (
        _generate(engine, prompt, pixels) if answer is None else tokenizer.encode(answer, add_special_tokens=False)
    )
    ids = torch.tensor([[*prompt, *answer_ids]], device=model.device)
    inner = inner_model(model)
    types = token_types(inner.config, ids)
    image_tokens = types[0].nonzero()[:, 0].tolist()
    rows = _attending_rows(tokenizer, prompt, answer_ids, image_tokens[-1] + 1, word)
    _, height, width = (pixels["image_grid_thw"][0] // inner.visual.spatial_merge_size).tolist()
    weights = attention_map(
        model,
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "mm_token_type_ids": types, **pixels},
        rows=rows,
        image_tokens=image_tokens,
        grid=(height, width),
        layers=layers,
    )
    tokens = [tokenizer.decode([ids[0, row].item()]) for row in rows]
    text = tokenizer.decode(answer_ids)
    return AnswerAttention(weights, text, tokens, to_thousandths(parse_boxes(text), box_frame(model, lambda: pixels)))


def box_frame(model: Any, pixels: Callable[[], dict[str, Tensor]]) -> tuple[float, float]:
    """Width and height to which the boxes of a model's answers refer.

    That is 1000 twice or, by Qwen2.5-VL's convention, the pixels of the image as the model gets it: ``pixels()`` has
    its ``image_grid_thw``, and is called for such a model only.
    """
    if UNIT_OF_MODEL.get(model.config.model_type) != "resized":
        return 1000.0, 1000.0
    _, rows, columns = pixels()["image_grid_thw"][0].tolist()
    return columns * model.config.vision_config.patch_size, rows * model.config.vision_config.patch_size


def picture_inputs(engine: Any, picture: Any, prompt: list[int]) -> dict[str, Tensor]:
    """Pixels and grid of a picture, as the engine's template passes them to the model."""
    return engine.template.mm_plugin.get_mm_inputs([picture], [], [], [1], [0], [0], [prompt], engine.processor)


def word_columns(tokenizer: Any, ids: Sequence[int], word: str) -> list[int]:
    """Columns of the tokens that hold the first occurrence of ``word`` in ``ids``; empty if it does not occur."""
    start = tokenizer.decode(ids).lower().find(word.lower())
    edges = [0, *(len(tokenizer.decode(ids[: column + 1])) for column in range(len(ids)))]
    columns = range(len(ids)) if start >= 0 else ()
    return [column for column in columns if edges[column + 1] > start and edges[column] < start + len(word)]


def _encode_question(engine: Any, image: str, question: str) -> tuple[list[int], dict[str, Tensor]]:
    """Token ids of the question, and the image's pixels and grid on the model's device."""
    plugin, processor, model = engine.template.mm_plugin, engine.processor, engine.model
    picture = read_pixels(image)
    messages = [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": ""}]
    messages = plugin.process_messages(messages, [picture], [], [], processor)
    prompt, _ = engine.template.encode_oneturn(engine.tokenizer, messages)
    pixels = picture_inputs(engine, picture, prompt)
    return prompt, dict(BatchFeature(pixels).to(model.device, model.dtype))  # casts floating point tensors only


def _generate(engine: Any, prompt: list[int], pixels: dict[str, Tensor]) -> list[int]:
    """Token ids of the model's greedy answer."""
    model, ids = engine.model, torch.tensor([prompt], device=engine.model.device)
    stop_ids = engine.template.get_stop_token_ids(engine.tokenizer)
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pad_token_id=engine.tokenizer.pad_token_id,
        eos_token_id=stop_ids,
        do_sample=False,
        num_beams=1,
        max_new_tokens=MAX_NEW_TOKENS,
        # An answer with an image placeholder could not be passed through the model again.
        suppress_tokens=[model.config.image_token_id, model.config.video_token_id],
        **pixels,
    )
    return [token for token in output[0, len(prompt) :].tolist() if token not in stop_ids]


def _attending_rows(
    tokenizer: Any, prompt: list[int], answer_ids: list[int], after_image: int, word: str | None
) -> list[int]:
    """Columns of the tokens whose attention is computed."""
    if not answer_ids:
        raise ValueError("The model's answer is empty, so it has no attention. Give one with `answer`.")
    if word is None:
        return list(range(len(prompt), len(prompt) + len(answer_ids)))
    for first, ids in ((len(prompt), answer_ids), (after_image, prompt[after_image:])):
        columns = word_columns(tokenizer, ids, word)
        if columns:
            return [first + column for column in columns]
    raise ValueError(
        f"The word {word!r} is neither in the answer {tokenizer.decode(answer_ids)!r} nor in the question."
    )
