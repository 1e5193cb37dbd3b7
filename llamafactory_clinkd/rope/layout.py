# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Locates the images and videos of a batch: the one input that every rope variant computes positions from.

Shapes: B rows, L tokens per row, K images and videos ("items") in the batch, S vision tokens in the batch. An item of
merged grid t x h x w has n = t * h * w consecutive tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """The vision items of a batch, in one flat list. Every tensor is int64, except the two masks."""

    mask: Tensor  # bool [B, L], false at padding
    text_index: Tensor  # [B, L], number of real tokens before this one in its row (a text-only row's positions)
    vision_mask: Tensor  # bool [B, L], real tokens that belong to an item
    starts: Tensor  # [K], flat index `row * L + column` of each item's first token
    grid: Tensor  # [3, K], merged t, h, w
    interval: Tensor  # [K], distance between two frames on the temporal axis: 1, except for Qwen2.5-VL's videos
    item: Tensor  # [S], the item of each vision token
    tokens: Tensor  # [S], flat index of each vision token
    cell: Tensor  # [3, S], frame, row and column of each vision token inside its item, counted from 0

    @property
    def lengths(self) -> Tensor:
        """``[B, 1]``: real tokens in each row."""
        return self.mask.sum(1, keepdim=True)


def read_layout(
    mm_token_type_ids: Tensor,
    *,
    image_grid_thw: Tensor | None = None,
    video_grid_thw: Tensor | None = None,
    attention_mask: Tensor | None = None,
    merge_size: int = 2,
    video_intervals: Tensor | None = None,
) -> Layout:
    """Finds every image and video in ``mm_token_type_ids``, ``[B, L]``: 0 text, 1 image, 2 video.

    The grids, ``[images, 3]`` and ``[videos, 3]`` in patches before merging and in the order of the tokens, separate
    adjacent images. Tokens with a zero in ``attention_mask`` (``[B, L]``, any dtype) are padding, whatever their type.
    An item that is masked entirely (the dummy image that LLaMA-Factory adds to a text-only batch) is dropped, with or
    without a grid. One token merges ``merge_size`` patches along each spatial axis. ``video_intervals`` ``[videos]``
    is the temporal distance between two frames, 1 by default.

    Raises:
        ValueError: If the shapes disagree, a grid has no token, or the tokens of an image do not match its grid in
            number, are interrupted, span two rows or are masked in part (a sequence cut off in the middle of it).
    """
    device = mm_token_type_ids.device
    mask = (torch.ones_like(mm_token_type_ids) if attention_mask is None else attention_mask.to(device)).bool()
    if mask.shape != mm_token_type_ids.shape:
        raise ValueError(
            f"attention_mask has the shape {tuple(mask.shape)}, mm_token_type_ids {tuple(mm_token_type_ids.shape)}: "
            "both must be [rows, tokens]. A 4D mask of packed sequences has no positions of its own: compute them per "
            "sub-sequence, as the collator does."
        )

    tokens, grids, intervals = [], [], []
    for token_type, name, thw in ((1, "image", image_grid_thw), (2, "video", video_grid_thw)):
        if thw is None or len(thw) == 0:
            thw = torch.zeros(0, 3, dtype=torch.int64)
        grid = thw.to(device=device, dtype=torch.int64).t().clone()
        grid[1:] //= merge_size
        if (grid < 1).any():
            raise ValueError(f"{name}_grid_thw has a side below {merge_size} patches: {thw.tolist()}.")
        tokens.append(_vision_tokens(name, mm_token_type_ids == token_type, mask, grid))
        grids.append(grid)
        ones = torch.ones(grid.shape[1], dtype=torch.int64, device=device)
        intervals.append(ones if name == "image" or video_intervals is None else video_intervals.to(ones))

    return _split_items(mask, torch.cat(tokens), torch.cat(grids, 1), torch.cat(intervals))


def _vision_tokens(name: str, type_mask: Tensor, mask: Tensor, grid: Tensor) -> Tensor:
    """Flat indices of the tokens that the grids of one modality describe: all of them, or only the unmasked ones."""
    sizes = grid.prod(0)
    expected = int(sizes.sum())
    for candidates in (type_mask, type_mask & mask):
        tokens = candidates.flatten().nonzero()[:, 0]
        if len(tokens) == expected:
            return tokens
    raise ValueError(
        f"The batch holds {len(tokens)} {name} tokens ({(type_mask & mask).sum(1).tolist()} by row), but "
        f"{name}_grid_thw describes {len(sizes)} {name}(s) of {sizes.tolist()} tokens, {expected} together. "
        f"Fewer tokens than that mean that a sequence was cut off in the middle of an {name}: raise `cutoff_len` or "
        f"lower `{name}_max_pixels`; more mean that a grid is missing."
    )


def _split_items(mask: Tensor, tokens: Tensor, grid: Tensor, interval: Tensor) -> Layout:
    """Splits the vision tokens (flat indices, in the order of the grids) into items and drops the masked ones."""
    length = mask.shape[1]
    flat_mask = mask.flatten()
    sizes = grid.prod(0)
    ends = sizes.cumsum(0)
    item = torch.repeat_interleave(sizes)
    starts, lasts, unmasked = tokens[ends - sizes], tokens[ends - 1], flat_mask[tokens]
    all_unmasked = bool(unmasked.all())

    # Tokens ascend, so an item is one run if its ends are n - 1 apart.
    broken = (lasts - starts != sizes - 1) | (starts // length != lasts // length)
    if not all_unmasked:
        count = torch.zeros_like(sizes).index_add_(0, item, unmasked.long())
        broken |= (count != 0) & (count != sizes)
    if broken.any():
        index = int(broken.nonzero()[0, 0])
        row, column = divmod(int(starts[index]), length)
        raise ValueError(
            f"The image or video with the merged grid {grid[:, index].tolist()} (t, h, w) should own "
            f"{int(sizes[index])} consecutive tokens from token {column} of row {row} on, all masked or none; its run "
            "there is shorter. The sequence was cut off in the middle of it, or the grids are not in the order of the "
            "tokens: raise `cutoff_len`, lower `image_max_pixels`, or reorder the grids."
        )

    # Integer division is the slowest step of all: two of them give all three coordinates.
    offset = torch.arange(len(tokens), device=mask.device) - (ends - sizes)[item]
    line = torch.div(offset, grid[2][item], rounding_mode="trunc")
    frame = torch.div(line, grid[1][item], rounding_mode="trunc") if bool((grid[0] > 1).any()) else line * 0
    cell = torch.stack((frame, line - frame * grid[1][item], offset - line * grid[2][item]))
    if not all_unmasked:
        keep = flat_mask[starts]
        item = (keep.cumsum(0) - 1)[item[unmasked]]
        starts, grid, interval = starts[keep], grid[:, keep], interval[keep]
        tokens, cell = tokens[unmasked], cell[:, unmasked]
    vision_mask = torch.zeros_like(flat_mask)
    vision_mask[tokens] = True
    text_index = mask.cumsum(1) - mask.long()
    return Layout(mask, text_index, vision_mask.view_as(mask), starts, grid, interval, item, tokens, cell)
