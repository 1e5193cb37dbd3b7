# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Rotary positions of a batch of text, images and videos: one vectorised pass for each variant.

Every function takes the token types and the grids and returns ``(position_ids, rope_deltas)``:

- ``position_ids``: int64 ``[3, B, L]``, the temporal, height and width axis; 0 at padding; text has the same
  position on all three.
- ``rope_deltas``: int64 ``[B, 1]``; the next text token stands at ``number of real tokens + delta`` on every axis, so
  cached decoding at ``cumsum(attention_mask) - 1 + delta`` continues where a full forward pass would put it.

The paper counts from 1, stock transformers from 0; everything here is the paper's position minus 1. Rotary attention
sees differences only, so nothing else changes. Shapes are spelled out in :mod:`.layout`.
"""

from typing import Any

import torch
from torch import Tensor

from .layout import Layout, read_layout


def mrope(mm_token_type_ids: Tensor, **layout: Any) -> tuple[Tensor, Tensor]:
    """Stock M-RoPE, equal to ``Qwen2VLModel.get_rope_index`` (and Qwen2.5-VL's, given its ``video_intervals``).

    Stock's delta follows the largest position of the row, so after a video of more frames than rows and columns it
    overshoots the next text token; that is kept, for this variant *is* stock.

    Args:
        mm_token_type_ids: ``[B, L]``, 0 text, 1 image, 2 video.
        **layout: Grids, mask and sizes, see :func:`.layout.read_layout`.
    """
    read = read_layout(mm_token_type_ids, **layout)
    positions, _ = _follow_cursor(read, gap=1)
    largest = positions.amax((0, 2)).unsqueeze(1)
    return positions, torch.where(read.lengths > 0, largest + 1 - read.lengths, 0)


def mcg(mm_token_type_ids: Tensor, *, alpha_h: int = 1, alpha_w: int = 1, **layout: Any) -> tuple[Tensor, Tensor]:
    """MCG-RoPE of the paper, Eq. 1-6: the gaps before and after an image are equal on every axis.

    With l the (1-based) index of the token before an image of n = t * h * w tokens, row r from 1 stands at
    ``alpha_h * r + lambda_1``, ``lambda_1 = l + (n + 1 - alpha_h * (h + 1)) / 2`` (Eq. 4), columns alike, and the next
    token at ``l + n + 1``: text keeps its plain index and every delta is 0. The temporal axis, which the paper does
    not treat, is one more axis of extent t and interval 1 (``video_intervals`` where the model has them). A half is
    floored: the gap before is then smaller by 1 than the gap after. Where ``alpha * (extent - 1) > n + 1`` an image
    reaches over its neighbours: positions below l, or even below 0, and above the next token's are what Eq. 4 gives,
    and still integers.

    Args:
        mm_token_type_ids: ``[B, L]``, 0 text, 1 image, 2 video.
        alpha_h: Interval between rows, an integer >= 1.
        alpha_w: Interval between columns, an integer >= 1.
        **layout: Grids, mask and sizes, see :func:`.layout.read_layout`.
    """
    read = read_layout(mm_token_type_ids, **layout)
    one = torch.ones_like(read.interval)
    alpha = torch.stack((read.interval, alpha_h * one, alpha_w * one))
    before = read.rank.flatten()[read.starts]
    lambdas = before + (read.grid.prod(0) + 1 - alpha * (read.grid + 1)) // 2
    vision = alpha[:, read.item] * (read.cell + 1) + lambdas[:, read.item]
    return _place(read, read.rank, vision - 1), torch.zeros_like(read.lengths)


def mcg_released(mm_token_type_ids: Tensor, *, gap: int = 2, **layout: Any) -> tuple[Tensor, Tensor]:
    """The authors' released model file: stock M-RoPE with ``gap`` instead of 1 at each text/image boundary.

    A ``gap`` of 1 is stock. Two adjacent images share no such boundary; an image that ends a row has one with the text
    that is generated next.

    Args:
        mm_token_type_ids: ``[B, L]``, 0 text, 1 image, 2 video.
        gap: Distance from a text token to the image beside it, an integer >= 1.
        **layout: Grids, mask and sizes, see :func:`.layout.read_layout`.
    """
    read = read_layout(mm_token_type_ids, **layout)
    positions, following = _follow_cursor(read, gap=gap)
    return positions, following - read.lengths


def rope_2d(mm_token_type_ids: Tensor, **layout: Any) -> tuple[Tensor, Tensor]:
    """2D-RoPE, Eq. 7-11 without the transformation of Eq. 2: a vision token stands at its own row and column.

    Text keeps its plain index (Eq. 1) and every delta is 0. Eq. 7-11 know no temporal axis; there the item keeps the
    index of its first token, plus the frame, which tells two images apart and vanishes with ``sections=[0, h, w]``.

    Args:
        mm_token_type_ids: ``[B, L]``, 0 text, 1 image, 2 video.
        **layout: Grids, mask and sizes, see :func:`.layout.read_layout`.
    """
    read = read_layout(mm_token_type_ids, **layout)
    frames = read.rank.flatten()[read.starts][read.item] + read.interval[read.item] * read.cell[0]
    vision = torch.cat((frames[None], read.cell[1:]))
    return _place(read, read.rank, vision), torch.zeros_like(read.lengths)


def _follow_cursor(read: Layout, gap: int) -> tuple[Tensor, Tensor]:
    """M-RoPE: an item advances the text by max(h, w), a text/image boundary by ``gap - 1`` more.

    Returns:
        Positions ``[3, B, L]`` and the position ``[B, 1]`` of the text token that would follow each row.
    """
    step = (read.mask & ~read.vision).long()
    step.view(-1)[read.starts] = read.grid[1:].amax(0)
    through = step.cumsum(1)
    cursor = through - step
    following = through[:, -1:]
    if gap != 1:
        boundaries, at_end = _boundaries(read)
        extra = boundaries.cumsum(1) * (gap - 1)
        cursor = cursor + extra
        following = following + extra[:, -1:] + at_end * (gap - 1)

    cell = read.cell.clone()
    cell[0] *= read.interval[read.item]
    return _place(read, cursor, cursor.flatten()[read.starts][read.item] + cell), following


def _boundaries(read: Layout) -> tuple[Tensor, Tensor]:
    """Int64 ``[B, L]``, 1 where vision follows text or text vision; and ``[B, 1]``, 1 where a row ends with vision."""
    columns = torch.arange(read.mask.shape[1], device=read.mask.device)
    last_real = torch.where(read.mask, columns, -1).cummax(1).values
    previous = torch.cat((torch.full_like(last_real[:, :1], -1), last_real[:, :-1]), 1)
    after_vision = torch.where(previous < 0, read.vision, read.vision.gather(1, previous.clamp(min=0)))
    at_end = read.vision.gather(1, last_real[:, -1:].clamp(min=0))
    return (read.mask & (read.vision != after_vision)).long(), at_end.long()


def _place(read: Layout, text: Tensor, vision: Tensor) -> Tensor:
    """Text positions ``[B, L]`` and vision positions ``[3, S]`` put together, 0 at padding: ``[3, B, L]``."""
    positions = (text * read.mask).expand(3, -1, -1).clone()
    positions.view(3, -1)[:, read.tokens] = vision
    return positions
