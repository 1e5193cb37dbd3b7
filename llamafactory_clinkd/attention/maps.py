# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""How much chosen tokens attend to each cell of an image: rows of eager attention, in the chosen layers only.

The model keeps its own attention (SDPA, FlashAttention). In addition, the chosen layers compute the softmax of the
chosen tokens' rows, ``[heads, rows, L]`` in float32, from the rotated queries and keys; never a full ``L x L`` matrix.
A row is the attention of the token itself as a query, not of the token before it, which predicts it.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.qwen2_vl.modeling_qwen2_vl import eager_attention_forward

from ..rope.binding import inner_model
from ..utils.patching import patch_attr


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
        model: A model that can have rotary positions (`rope.binding.SUPPORTED`), also inside PEFT.
        inputs: Of one sample, without padding: ``input_ids`` int64 ``[1, L]``, pixels, grids, token types.
        rows: Columns of the attending tokens.
        image_tokens: Columns of the image's tokens, in order.
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
        raise ValueError(f"Expected 1 sample and rows in 0..{length - 1}, found {batch} samples, rows {list(rows)}.")
    if grid[0] * grid[1] != len(image_tokens):
        raise ValueError(f"A grid of {grid[0]} x {grid[1]} cells does not fit {len(image_tokens)} image tokens.")

    with recorded_rows(model, rows, layers) as recorded, torch.no_grad():
        model(**inputs, use_cache=False)
    mean = torch.stack([weights.mean((0, 1)) for weights in recorded]).mean(0)
    return mean[torch.as_tensor(image_tokens, device=mean.device)].view(grid).cpu()


@contextmanager
def recorded_rows(model: nn.Module, rows: Sequence[int], layers: Sequence[int] | None) -> Iterator[list[Tensor]]:
    """Inside, each chosen layer appends float32 ``[heads, rows, L]`` to the list in every forward pass."""
    modules = [getattr(layer, "self_attn", None) for layer in inner_model(model).language_model.layers]
    attending = [number for number, module in enumerate(modules) if module is not None]  # Qwen3.5 has linear ones too
    count = len(modules)
    numbers = attending if layers is None else [number + count * (number < 0) for number in layers]
    if not numbers or not set(numbers) <= set(attending):
        found = None if layers is None else list(layers)
        raise ValueError(f"Of the model's layers 0 to {count - 1}, {attending} have attention weights, found {found}.")

    recorded: list[Tensor] = []
    configs = {modules[number]: modules[number].config for number in numbers}

    def record(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        recorded.append(attention_rows(query, key, rows, kwargs["scaling"], kwargs.get("sliding_window")))
        with patch_attr(module, "config", configs[module]):  # where FlashAttention reads its own name
            attend = ALL_ATTENTION_FUNCTIONS.get(module.config._attn_implementation, eager_attention_forward)
            return attend(module, query, key, value, *args, **kwargs)

    ALL_ATTENTION_FUNCTIONS.register(NAME, record)
    with ExitStack() as stack:
        for module, config in configs.items():
            recording_config = copy.copy(config)
            recording_config._attn_implementation = NAME
            stack.enter_context(patch_attr(module, "config", recording_config))
        yield recorded


def attention_rows(
    query: Tensor, key: Tensor, rows: Sequence[int], scaling: float, sliding_window: int | None = None
) -> Tensor:
    """Causal attention weights of some rows, float32 ``[H, rows, L]``; each row sums to 1.

    ``query`` is ``[1, H, L, D]``, ``key`` ``[1, K, L, D]`` with K a divisor of H; ``scaling`` is ``D ** -0.5``.
    """
    index = torch.as_tensor(list(rows), device=query.device)
    keys = key[0].repeat_interleave(query.shape[1] // key.shape[1], 0).float()
    scores = query[0, :, index].float() @ keys.transpose(1, 2) * scaling
    columns = torch.arange(key.shape[2], device=query.device)
    masked = columns > index[:, None]
    if sliding_window is not None:
        masked |= columns <= index[:, None] - sliding_window
    return scores.masked_fill(masked, float("-inf")).softmax(-1)
