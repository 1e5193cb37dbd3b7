# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Random batches of text, images and videos, and slow references written per token from the paper's equations."""

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from hypothesis import strategies as st


@dataclass(frozen=True)
class Segment:
    """``size`` text tokens (kind 0), or an image (1) or video (2) of the merged grid ``size = (t, h, w)``."""

    kind: int
    size: tuple[int, ...]

    @property
    def tokens(self) -> int:
        return math.prod(self.size)


@dataclass(frozen=True)
class Row:
    segments: tuple[Segment, ...]
    left_pad: int = 0

    @property
    def tokens(self) -> int:
        return sum(segment.tokens for segment in self.segments)


def text(size: int) -> Segment:
    return Segment(0, (size,))


def image(h: int, w: int) -> Segment:
    return Segment(1, (1, h, w))


def video(t: int, h: int, w: int) -> Segment:
    return Segment(2, (t, h, w))


def batch_of(rows: list[Row]) -> dict:
    """The arguments of a position function: types, mask and grids in patches; short rows are padded on the right."""
    length = max(row.left_pad + row.tokens for row in rows)
    types = torch.zeros(len(rows), length, dtype=torch.long)
    mask = torch.zeros(len(rows), length, dtype=torch.long)
    grids = {1: [], 2: []}
    for index, row in enumerate(rows):
        at = row.left_pad
        mask[index, at : at + row.tokens] = 1
        for segment in row.segments:
            types[index, at : at + segment.tokens] = segment.kind
            at += segment.tokens
            if segment.kind:
                t, h, w = segment.size
                grids[segment.kind].append([t, 2 * h, 2 * w])
    as_tensor = {kind: torch.tensor(grid) if grid else None for kind, grid in grids.items()}
    return {
        "mm_token_type_ids": types,
        "attention_mask": mask,
        "image_grid_thw": as_tensor[1],
        "video_grid_thw": as_tensor[2],
    }


@st.composite
def rows(draw, videos: bool = True, adjacent: bool = True):
    """One to four rows; with ``adjacent=False`` a text token stands between any two images, as stock needs."""
    side = st.integers(1, 6)
    frames = st.integers(1, 5)
    kinds = [
        st.builds(text, st.integers(1, 6)),
        st.builds(image, side, side),
        *([st.builds(video, frames, side, side)] if videos else []),
    ]
    drawn = []
    for _ in range(draw(st.integers(1, 4))):
        segments = draw(st.lists(st.one_of(kinds), min_size=1, max_size=6))
        if not adjacent:
            segments = [
                part
                for i, segment in enumerate(segments)
                for part in ([text(1), segment] if i and segment.kind and segments[i - 1].kind else [segment])
            ]
        drawn.append(Row(tuple(segments), draw(st.integers(0, 3))))
    return drawn


def cells(segment: Segment):
    """(frame, row, column), each from 1, of every token of an image or video, in the order of the tokens."""
    t, h, w = segment.size
    return [(f, r, c) for f in range(1, t + 1) for r in range(1, h + 1) for c in range(1, w + 1)]


def mcg_reference(segments, alpha_h: int = 1, alpha_w: int = 1):
    """Eq. 1-6 per token, 1-based as in the paper.

    Returns:
        A list of positions (time, height, width), and the position of the next text token.
    """
    positions, index = [], 0
    for segment in segments:
        if segment.kind == 0:
            positions += [(index + i + 1,) * 3 for i in range(segment.tokens)]
        else:
            n = segment.tokens
            alphas = (1, alpha_h, alpha_w)
            lambdas = [
                math.floor(index + Fraction(n + 1 - alpha * (extent + 1), 2))
                for alpha, extent in zip(alphas, segment.size, strict=True)
            ]
            positions += [
                tuple(alpha * v + shift for alpha, v, shift in zip(alphas, cell, lambdas, strict=True))
                for cell in cells(segment)
            ]
        index += segment.tokens
    return positions, index + 1


def rope_2d_reference(segments):
    """Eq. 1 and 7-11 per token, 1-based: text at its index, an image token at its own row and column."""
    positions, index = [], 0
    for segment in segments:
        if segment.kind == 0:
            positions += [(index + i + 1,) * 3 for i in range(segment.tokens)]
        else:
            positions += [(index + f, r, c) for f, r, c in cells(segment)]
        index += segment.tokens
    return positions, index + 1


def released_reference(segments, gap: int):
    """M-RoPE per token with ``gap`` between a text token and an image beside it, 1-based."""
    positions, cursor, before = [], 1, None
    for segment in segments:
        is_vision = segment.kind > 0
        if before is not None and before != is_vision:
            cursor += gap - 1
        if is_vision:
            positions += [tuple(cursor + v - 1 for v in cell) for cell in cells(segment)]
            cursor += max(segment.size[1:])
        else:
            positions += [(cursor + i,) * 3 for i in range(segment.tokens)]
            cursor += segment.tokens
        before = is_vision
    return positions, cursor + (gap - 1 if before else 0)
