# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Where the images and videos of a batch stand: the one thing that every rope variant computes from.

Legend of shapes: B rows, L tokens a row, K images and videos ("items") in the batch, S vision tokens in the batch.
An item of merged grid t x h x w owns n = t * h * w consecutive tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor


KINDS = {1: "image", 2: "video"}


class Layout(NamedTuple):
    """The vision items of a batch, in one flat list; every tensor is int64 but for ``mask``.

    Attributes:
        mask: Bool ``[B, L]``, false at padding.
        rank: ``[B, L]``, how many real tokens of the row stand before this one (a text-only row's positions).
        vision: Bool ``[B, L]``, real tokens that belong to an item.
        starts: ``[K]``, flat index ``row * L + column`` of each item's first token.
        grid: ``[3, K]``, merged t, h, w.
        interval: ``[K]``, distance between two frames on the temporal axis: 1, but for Qwen2.5-VL's videos.
        item: ``[S]``, the item that a vision token belongs to.
        tokens: ``[S]``, flat index of each vision token.
        cell: ``[3, S]``, frame, row and column of each vision token inside its item, counted from 0.
    """

    mask: Tensor
    rank: Tensor
    vision: Tensor
    starts: Tensor
    grid: Tensor
    interval: Tensor
    item: Tensor
    tokens: Tensor
    cell: Tensor

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
    """Finds every image and video of a batch.

    Adjacent images form one run of the same token type; the grids say where one ends and the next begins. Tokens under
    a zero of the attention mask are padding, whatever their type; an item that lies there entirely (the dummy image
    that LLaMA-Factory adds to a text-only batch) is dropped, with its grid or without one.

    Args:
        mm_token_type_ids: ``[B, L]``, 0 text, 1 image, 2 video.
        image_grid_thw: ``[images, 3]``, patches before merging, in the order of the tokens, or None.
        video_grid_thw: ``[videos, 3]``, alike.
        attention_mask: ``[B, L]`` of any dtype, 0 at padding, or None for no padding.
        merge_size: Patches that one token merges along each spatial axis (2 in Qwen2-VL).
        video_intervals: ``[videos]``, the temporal distance between two frames; None for 1.

    Raises:
        ValueError: If the shapes disagree, a grid has no token, or the tokens of an image are fewer or more than its
            grid says, interrupted, split over two rows or masked in part: a sequence cut off in the middle of an image
            does that.
    """
    batch, length = mm_token_type_ids.shape
    device = mm_token_type_ids.device
    if attention_mask is None:
        mask = torch.ones(batch, length, dtype=torch.bool, device=device)
    elif attention_mask.shape == mm_token_type_ids.shape:
        mask = attention_mask.to(device).bool()
    else:
        raise ValueError(
            f"attention_mask has the shape {tuple(attention_mask.shape)}, mm_token_type_ids {(batch, length)}: "
            "both must be [rows, tokens]. A 4D mask of packed sequences has no positions of its own: compute them per "
            "sub-sequence, as the collator does."
        )

    tokens, grids, intervals = [], [], []
    for kind, thw in ((1, image_grid_thw), (2, video_grid_thw)):
        if thw is None or len(thw) == 0:
            thw = torch.zeros(0, 3, dtype=torch.int64)
        grid = thw.to(device=device, dtype=torch.int64).t().clone()
        grid[1:] //= merge_size
        if (grid < 1).any():
            raise ValueError(f"{KINDS[kind]}_grid_thw has a side below {merge_size} patches: {thw.tolist()}.")
        tokens.append(_tokens_of(kind, mm_token_type_ids == kind, mask, grid))
        grids.append(grid)
        ones = torch.ones(grid.shape[1], dtype=torch.int64, device=device)
        intervals.append(ones if kind == 1 or video_intervals is None else video_intervals.to(ones))

    return _lay_out(mask, torch.cat(tokens), torch.cat(grids, 1), torch.cat(intervals))


def _lay_out(mask: Tensor, tokens: Tensor, grid: Tensor, interval: Tensor) -> Layout:
    """Splits the vision tokens (flat indices, in the order of the grids) into items and drops the masked ones."""
    length = mask.shape[1]
    flat = mask.flatten()
    sizes = grid.prod(0)
    ends = sizes.cumsum(0)
    item = torch.repeat_interleave(sizes)
    starts, lasts, real = tokens[ends - sizes], tokens[ends - 1], flat[tokens]
    all_real = bool(real.all())

    # Tokens ascend, so an item is one run if its ends are n - 1 apart.
    broken = (lasts - starts != sizes - 1) | (starts // length != lasts // length)
    if not all_real:
        count = torch.zeros_like(sizes).index_add_(0, item, real.long())
        broken |= (count != 0) & (count != sizes)
    if broken.any():
        raise ValueError(_describe_broken(int(broken.nonzero()[0, 0]), starts, sizes, grid, length))

    # Integer division is the slowest step of all: two of them give all three coordinates.
    offset = torch.arange(len(tokens), device=mask.device) - (ends - sizes)[item]
    line = torch.div(offset, grid[2][item], rounding_mode="trunc")
    frame = torch.div(line, grid[1][item], rounding_mode="trunc") if bool((grid[0] > 1).any()) else line * 0
    cell = torch.stack((frame, line - frame * grid[1][item], offset - line * grid[2][item]))
    if not all_real:
        keep = flat[starts]
        item = (keep.cumsum(0) - 1)[item[real]]
        starts, grid, interval = starts[keep], grid[:, keep], interval[keep]
        tokens, cell = tokens[real], cell[:, real]
    vision = torch.zeros_like(flat)
    vision[tokens] = True
    rank = mask.cumsum(1) - mask.long()
    return Layout(mask, rank, vision.view_as(mask), starts, grid, interval, item, tokens, cell)


def _tokens_of(kind: int, of_kind: Tensor, mask: Tensor, grid: Tensor) -> Tensor:
    """Flat indices of the tokens that the grids of one kind describe: all of them, or only those not masked."""
    tokens = of_kind.flatten().nonzero()[:, 0]
    needed = int(grid.prod(0).sum())
    if len(tokens) == needed:
        return tokens

    unmasked = (of_kind & mask).flatten().nonzero()[:, 0]
    if len(unmasked) == needed:
        return unmasked

    name = KINDS[kind]
    per_row = (of_kind & mask).sum(1).tolist()
    sizes = grid.prod(0).tolist()
    raise ValueError(
        f"The batch holds {len(unmasked)} {name} tokens ({per_row} by row), but {name}_grid_thw describes "
        f"{len(sizes)} {name}(s) of {sizes} tokens, {needed} together. "
        f"Fewer tokens than that mean that a sequence was cut off in the middle of an {name}: raise `cutoff_len` or "
        f"lower `{name}_max_pixels`; more mean that a grid is missing."
    )


def _describe_broken(index: int, starts: Tensor, sizes: Tensor, grid: Tensor, length: int) -> str:
    """The message for an item whose tokens are not one unbroken run in one row."""
    row, column = divmod(int(starts[index]), length)
    return (
        f"The image or video with the merged grid {grid[:, index].tolist()} (t, h, w) should own {int(sizes[index])} "
        f"consecutive tokens from token {column} of row {row} on, all masked or none; its run there is shorter. The "
        "sequence was cut off in the middle of it, or the grids are not in the order of the tokens: raise "
        "`cutoff_len`, lower `image_max_pixels`, or reorder the grids."
    )
