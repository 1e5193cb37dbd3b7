# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""How much chosen tokens attend to each cell of an image: rows of eager attention, on the chosen layers only.

The model keeps its own attention (SDPA, FlashAttention); beside it, the chosen layers compute the softmax of the
chosen tokens' rows, ``[heads, rows, L]`` in float32, from the queries and keys after the rotary positions were
applied. A full matrix of ``L x L`` is never made. Rows are those of the tokens themselves: what a token reads, and not
what the token before it read to predict it.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2_vl.modeling_qwen2_vl import eager_attention_forward

from ..rope.binding import inner_model


NAME = "clinkd_recorded_attention"


def attention_map(
    model: nn.Module,
    inputs: dict[str, Tensor],
    *,
    rows: Sequence[int],
    image_tokens: Sequence[int],
    grid: tuple[int, int],
    layers: Sequence[int] | None = None,
) -> Tensor:
    """The attention of ``rows`` to the cells of an image, averaged over rows, heads and layers.

    Args:
        model: A Qwen2-VL or Qwen2.5-VL model, with any rope variant, also behind PEFT.
        inputs: Of one sample, without padding: ``input_ids`` int64 ``[1, L]``, pixels, grids, token types.
        rows: Columns of the tokens whose attention is wanted.
        image_tokens: Columns of the image's tokens, in their order.
        grid: Rows and columns of the image's merged cells (h, w); ``h * w`` is the number of image tokens.
        layers: Numbers of the decoder layers, negative ones from the end; None for all.

    Returns:
        Float32 ``[h, w]`` on the CPU; its sum is the share of the attention that goes to the image.

    Raises:
        ValueError: If the batch has more than one row, ``rows`` is empty or out of range, the grid does not fit the
            image tokens, or a layer does not exist.
    """
    batch, length = inputs["input_ids"].shape
    if batch != 1 or not rows or not all(0 <= row < length for row in rows):
        raise ValueError(
            f"Expected one sample and rows in 0..{length - 1}, found {batch} samples and rows {list(rows)}."
        )
    if grid[0] * grid[1] != len(image_tokens):
        raise ValueError(f"A grid of {grid[0]} x {grid[1]} cells does not fit {len(image_tokens)} image tokens.")

    with recorded_rows(model, rows, layers) as found, torch.no_grad():
        model(**inputs, use_cache=False)
    mean = torch.stack([weights.mean((0, 1)) for weights in found]).mean(0)
    return mean[torch.as_tensor(image_tokens, device=mean.device)].view(grid).cpu()


@contextmanager
def recorded_rows(model: nn.Module, rows: Sequence[int], layers: Sequence[int] | None) -> Iterator[list[Tensor]]:
    """Inside, each chosen layer of every forward pass leaves float32 ``[heads, rows, L]`` in the list.

    Raises:
        ValueError: If a layer does not exist.
    """
    modules = [layer.self_attn for layer in inner_model(model).language_model.layers]
    chosen = range(len(modules)) if layers is None else layers
    if not all(-len(modules) <= number < len(modules) for number in chosen) or not chosen:
        raise ValueError(f"The model has the layers 0 to {len(modules) - 1}, found {list(chosen)}.")

    found: list[Tensor] = []
    chosen = sorted({number % len(modules) for number in chosen})
    stock = {number: modules[number].config for number in chosen}
    ALL_ATTENTION_FUNCTIONS.register(NAME, _record)
    try:
        for number in chosen:
            modules[number].clinkd_record = (found, list(rows), stock[number])
            modules[number].config = copy.copy(stock[number])
            modules[number].config._attn_implementation = NAME
        yield found
    finally:
        for number in chosen:
            modules[number].config = stock[number]
            if hasattr(modules[number], "clinkd_record"):
                del modules[number].clinkd_record


def attention_rows(
    query: Tensor, key: Tensor, rows: Sequence[int], scaling: float, sliding_window: int | None = None
) -> Tensor:
    """Causal attention weights of some rows.

    Args:
        query: ``[1, H, L, D]``.
        key: ``[1, K, L, D]``, K a divisor of H.
        rows: Which of the L.
        scaling: Factor of the scores, ``D ** -0.5``.
        sliding_window: How many tokens back a row sees; None for all.

    Returns:
        Float32 ``[H, rows, L]``; each row sums to 1.
    """
    at = torch.as_tensor(list(rows), device=query.device)
    keys = key[0].repeat_interleave(query.shape[1] // key.shape[1], 0).float()
    scores = query[0, :, at].float() @ keys.transpose(1, 2) * scaling
    columns = torch.arange(key.shape[2], device=query.device)
    hidden = columns > at[:, None]
    if sliding_window is not None:
        hidden |= columns <= at[:, None] - sliding_window
    return scores.masked_fill(hidden, float("-inf")).softmax(-1)


def _record(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Takes the place of a layer's attention function: notes the rows, then calls the function that was there."""
    found, rows, config = module.clinkd_record
    found.append(attention_rows(query, key, rows, kwargs["scaling"], kwargs.get("sliding_window")))
    recording, module.config = module.config, config  # FlashAttention reads its own name there
    try:
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention_forward)
        return attend(module, query, key, value, *args, **kwargs)
    finally:
        module.config = recording
