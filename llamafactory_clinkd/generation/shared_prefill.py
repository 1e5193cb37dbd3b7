# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One prefill for all candidates of a row, inside ``model.generate``."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import Tensor, nn

from ..utils.patching import patch_instance


SHARED_PREFILL_MODELS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
# The tensors of these models' `generate` with images; with others, of a video, each candidate has its own prefill.
_ROW_KEYS = ("attention_mask", "mm_token_type_ids", "position_ids")
_IMAGE_KEYS = ("pixel_values", "image_grid_thw")


@contextmanager
def shared_prefill(hf_model: nn.Module, repeats: int) -> Iterator[bool]:
    """Runs prompt and images once per row inside ``generate``, for ``SHARED_PREFILL_MODELS``; yields whether it does.

    Stock copies each row ``repeats = max(num_beams, num_return_sequences)`` times before the prefill, pixels included.
    Here the first forward pass gets one copy of each, and its cache and logits are repeated. vLLM shares prompts, too.

    Args:
        hf_model: The plain transformers model.
        repeats: Copies of each row.
    """
    model_type = getattr(getattr(hf_model, "config", None), "model_type", None)
    if repeats < 2 or model_type not in SHARED_PREFILL_MODELS:
        yield False
        return
    if hf_model.generation_config.cache_implementation not in (None, "dynamic"):  # others cannot be repeated
        yield False
        return
    expand, forward = hf_model._expand_inputs_for_generation, hf_model.forward
    images: list[int] | None = None  # positions of the images' first copies in `image_grid_thw`; None: not shared

    @wraps(expand)
    def expand_without_pixels(expand_size: int = 1, is_encoder_decoder: bool = False, input_ids=None, **kwargs):
        nonlocal images
        tensors = {key for key, value in kwargs.items() if isinstance(value, Tensor)}
        if input_ids is None or expand_size != repeats or not tensors <= {*_ROW_KEYS, *_IMAGE_KEYS}:
            images = None
            return expand(expand_size, is_encoder_decoder, input_ids, **kwargs)
        images, pixels = [], kwargs.pop("pixel_values", None)
        if pixels is not None:
            counts, _ = hf_model._get_image_nums_and_video_nums(input_ids, kwargs.get("inputs_embeds"))
            start = 0
            for count in counts.tolist():
                images += range(start, start + count)
                start += count * repeats
        input_ids, kwargs = expand(expand_size, is_encoder_decoder, input_ids, **kwargs)
        return input_ids, kwargs if pixels is None else kwargs | {"pixel_values": pixels}

    @wraps(forward)
    def forward_once(*args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get("past_key_values")  # transformers 5.0 leaves the first one to the model
        is_prefill = cache.get_seq_length() == 0 if cache is not None else kwargs.get("use_cache") is True
        if images is None or not is_prefill:
            return forward(*args, **kwargs)
        for key in ("input_ids", *_ROW_KEYS):
            if isinstance(value := kwargs.get(key), Tensor):
                kwargs[key] = value[:, ::repeats] if value.ndim == 3 else value[::repeats]
        if kwargs.get("pixel_values") is not None:
            kwargs["image_grid_thw"] = kwargs["image_grid_thw"][images]
        output = forward(*args, **kwargs)
        output.past_key_values.batch_repeat_interleave(repeats)
        output.logits = output.logits.repeat_interleave(repeats, dim=0)
        deltas = hf_model.model.rope_deltas  # of the prompts where the forward pass computes positions
        if isinstance(deltas, Tensor) and len(deltas) == len(kwargs["input_ids"]):
            hf_model.model.rope_deltas = deltas.repeat_interleave(repeats, dim=0)
        return output

    with (
        patch_instance(hf_model, "_expand_inputs_for_generation", expand_without_pixels),
        patch_instance(hf_model, "forward", forward_once),
    ):
        yield True
