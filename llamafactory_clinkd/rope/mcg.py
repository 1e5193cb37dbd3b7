# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Position ids of MCG-RoPE, M-RoPE and 2D-RoPE for a batch of text, images and videos, without a loop over tokens.

Each function takes ``mm_token_type_ids`` (``[B, L]``, 0 text, 1 image, 2 video) and, as keyword arguments, the grids,
the mask and the sizes of :func:`.layout.read_layout`. It returns ``(position_ids, rope_deltas)``:

- ``position_ids``: int64 ``[3, B, L]`` on the temporal, height and width axes; 0 at padding. A text token has the same
  position on all three axes.
- ``rope_deltas``: int64 ``[B, 1]``. The next text token has the position ``number of real tokens + delta`` on every
  axis, so cached decoding at ``cumsum(attention_mask) - 1 + delta`` continues exactly like a full forward pass.

Positions here are the paper's minus 1, as transformers counts from 0; rotary attention uses their differences only.
"""

from typing import Any

import torch
from torch import Tensor

from .layout import Layout, read_layout


VARIANTS = {"mrope": (), "mcg": ("alpha_h", "alpha_w"), "mcg_released": ("gap",), "rope_2d": (), "rope_mixed": ()}
OPTION_DEFAULTS = {"alpha_h": 1, "alpha_w": 1, "gap": 2}
"""Variant -> the options of its function; ``mrope`` and ``rope_mixed`` keep stock's positions."""


def mrope(mm_token_type_ids: Tensor, **layout_args: Any) -> tuple[Tensor, Tensor]:
    """Stock M-RoPE, equal to ``Qwen2VLModel.get_rope_index`` (and Qwen2.5-VL's, given its ``video_intervals``).

    The delta follows the largest position of the row, as in transformers. After a video with more frames than rows and
    columns it overshoots the next text token.
    """
    layout = read_layout(mm_token_type_ids, **layout_args)
    positions, _ = _sequential_positions(layout, gap=1)
    largest = positions.amax((0, 2)).unsqueeze(1)
    return positions, torch.where(layout.lengths > 0, largest + 1 - layout.lengths, 0)


def mcg(mm_token_type_ids: Tensor, *, alpha_h: int = 1, alpha_w: int = 1, **layout_args: Any) -> tuple[Tensor, Tensor]:
    """MCG-RoPE, Eq. 1-6 of the paper: the gaps before and after an image are equal on every axis.

    Let l be the (1-based) index of the token before an image of n = t * h * w tokens. Row r, counted from 1, has the
    position ``alpha_h * r + lambda_1`` with ``lambda_1 = l + (n + 1 - alpha_h * (h + 1)) / 2`` (Eq. 4), columns alike.
    The next token has ``l + n + 1``: text keeps its plain index and every delta is 0. The paper does not treat the
    temporal axis; here it is one more axis of extent t and interval 1 (``video_intervals`` where the model has them).

    Halves are floored; the gap before is then smaller by 1 than the gap after. Where ``alpha * (extent - 1) > n + 1``,
    Eq. 4 gives positions below l (even below 0) and above the next token's; they are used as they are.
    ``alpha_h`` and ``alpha_w``, the intervals between rows and between columns, are integers >= 1.
    """
    layout = read_layout(mm_token_type_ids, **layout_args)
    one = torch.ones_like(layout.interval)
    alpha = torch.stack((layout.interval, alpha_h * one, alpha_w * one))
    before = layout.text_index.flatten()[layout.starts]
    lambdas = before + (layout.grid.prod(0) + 1 - alpha * (layout.grid + 1)) // 2
    vision = alpha[:, layout.item] * (layout.cell + 1) + lambdas[:, layout.item]
    return _merge_positions(layout, layout.text_index, vision - 1), torch.zeros_like(layout.lengths)


def mcg_released(mm_token_type_ids: Tensor, *, gap: int = 2, **layout_args: Any) -> tuple[Tensor, Tensor]:
    """The authors' released model file: stock M-RoPE with ``gap`` instead of 1 at each text/image boundary.

    ``gap`` is the distance from a text token to the adjacent image, an integer >= 1; 1 is stock. There is no boundary
    between two adjacent images; an image at the end of a row has one with the text that is generated next.
    """
    layout = read_layout(mm_token_type_ids, **layout_args)
    positions, next_position = _sequential_positions(layout, gap=gap)
    return positions, next_position - layout.lengths


def rope_2d(mm_token_type_ids: Tensor, **layout_args: Any) -> tuple[Tensor, Tensor]:
    """2D-RoPE, Eq. 7-11 without the shift of Eq. 2: the position of a vision token is its row and column.

    Text keeps its plain index (Eq. 1) and every delta is 0. Eq. 7-11 have no temporal axis. On that axis a token gets
    the index of its item's first token plus its frame, which distinguishes two images; ``sections=[0, h, w]`` removes
    the axis.
    """
    layout = read_layout(mm_token_type_ids, **layout_args)
    first = layout.text_index.flatten()[layout.starts][layout.item]
    frames = first + layout.interval[layout.item] * layout.cell[0]
    vision = torch.cat((frames[None], layout.cell[1:]))
    return _merge_positions(layout, layout.text_index, vision), torch.zeros_like(layout.lengths)


def _sequential_positions(layout: Layout, gap: int) -> tuple[Tensor, Tensor]:
    """M-RoPE positions ``[3, B, L]``, and the position ``[B, 1]`` of the text token that would follow each row.

    An item advances the text by max(h, w), a text/image boundary by ``gap - 1`` more.
    """
    step = (layout.mask & ~layout.vision_mask).long()
    step.view(-1)[layout.starts] = layout.grid[1:].amax(0)
    total = step.cumsum(1)
    text, next_position = total - step, total[:, -1:]
    if gap != 1:
        boundaries, ends_with_vision = _boundaries(layout)
        extra = boundaries.cumsum(1) * (gap - 1)
        text = text + extra
        next_position = next_position + extra[:, -1:] + ends_with_vision * (gap - 1)

    cell = layout.cell.clone()
    cell[0] *= layout.interval[layout.item]
    return _merge_positions(layout, text, text.flatten()[layout.starts][layout.item] + cell), next_position


def _boundaries(layout: Layout) -> tuple[Tensor, Tensor]:
    """Int64 ``[B, L]``, 1 where vision follows text or text vision; and ``[B, 1]``, 1 where a row ends with vision."""
    columns = torch.arange(layout.mask.shape[1], device=layout.mask.device)
    last_real = torch.where(layout.mask, columns, -1).cummax(1).values
    previous = torch.cat((torch.full_like(last_real[:, :1], -1), last_real[:, :-1]), 1)
    vision = layout.vision_mask
    after_vision = torch.where(previous < 0, vision, vision.gather(1, previous.clamp(min=0)))
    ends_with_vision = vision.gather(1, last_real[:, -1:].clamp(min=0))
    return (layout.mask & (vision != after_vision)).long(), ends_with_vision.long()


def _merge_positions(layout: Layout, text: Tensor, vision: Tensor) -> Tensor:
    """Combines text positions ``[B, L]`` and vision positions ``[3, S]`` to ``[3, B, L]``, 0 at padding."""
    positions = (text * layout.mask).expand(3, -1, -1).clone()
    positions.view(3, -1)[:, layout.tokens] = vision
    return positions
