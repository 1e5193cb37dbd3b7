# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""First step of the demo's pretraining: the vision tower learns to see structures, then is frozen.

Each patch of 14 pixels tells what its 2 x 2 cells of 7 pixels show, over all structures of all scans, and the box of
that structure: dense supervision, so a few hundred steps suffice. Base and teacher share the tower, as the sizes of
Qwen2-VL share one. For the second step its output is computed once for each picture, so a step costs what the language
model and the merger cost.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .demo.corpora import Pictures
from .loop import batches, train
from .model_inputs import pixel_values


BACKGROUND_WEIGHT = 0.3  # beside 1 for a structure: half of all cells are background
BOX_WEIGHT = 5.0  # an error of a fifth of the picture weighs as one nat


def patch_order(cells: Tensor) -> Tensor:
    """Reorders cells to the order of the processor's patches, which is row by row where no patches are merged.

    Args:
        cells: ``[n, 2h, 2w, ...]``, a grid of cells; a patch has 2 x 2 of them.

    Returns:
        ``[n * hw, 4, ...]``: for each patch its cells, row by row.
    """
    n, height, width, *rest = cells.shape
    grid = cells.reshape(n, height // 2, 2, width // 2, 2, -1)  # n, patch and cell row, patch and cell column
    return grid.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, *rest)


class CellReader(nn.Module):
    """A vision tower with a linear head that names the four cells of each patch and gives their structures' boxes."""

    def __init__(self, tower: nn.Module, classes: int):
        """Takes Qwen2-VL's vision tower and the number of classes, background included."""
        super().__init__()
        self.tower = tower
        self.classes = classes
        self.head = nn.Linear(tower.config.embed_dim, 4 * (classes + 4))

    def forward(self, pixels: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
        """``pixel_values`` and ``image_grid_thw`` -> logits ``[patches, 4, classes]``, boxes ``[patches, 4, 4]``."""
        output = self.head(self.tower(pixels, grid_thw=grid).last_hidden_state).view(-1, 4, self.classes + 4)
        return output[..., : self.classes], output[..., self.classes :]


def train_tower(
    tower: nn.Module,
    corpus: Pictures,
    processor,
    *,
    steps: int,
    checkpoint: Path,
    batch_size: int = 32,
    peak: float = 1.5e-3,
    seed: int = 0,
    advance: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> float:
    """Trains ``tower`` on the pictures of ``corpus``; returns the mean loss of the last steps."""
    batch = batches(len(corpus.pictures), batch_size, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = CellReader(tower, corpus.classes)
    reader.tower.merger.requires_grad_(False)  # the language model of each size learns its own
    weight = torch.ones(corpus.classes)
    weight[0] = BACKGROUND_WEIGHT

    def loss_of(step: int) -> Tensor:
        rows = batch(step)
        logits, boxes = reader(*pixel_values(corpus.pictures[rows], processor))
        target = patch_order(torch.from_numpy(corpus.cells[rows].astype(np.int64)))
        naming = F.cross_entropy(logits.flatten(0, 1), target.flatten(), weight)
        reach = patch_order(torch.from_numpy(corpus.boxes[rows])).float() / 1000
        return naming + BOX_WEIGHT * F.l1_loss(boxes[target > 0], reach[target > 0])

    return train(reader, loss_of, steps=steps, peak=peak, checkpoint=checkpoint, advance=advance)


class SeenTower(nn.Module):
    """Stands in for a vision tower: takes its last hidden states in place of pixels and merges them."""

    def __init__(self, tower: nn.Module):
        """Shares the merger of ``tower``."""
        super().__init__()
        self.merger = tower.merger
        self.spatial_merge_size = tower.spatial_merge_size
        self.config = tower.config

    @property
    def dtype(self) -> torch.dtype:
        """Qwen2-VL casts the pixels to it."""
        return self.merger.ln_q.weight.dtype

    def forward(self, hidden: Tensor, grid_thw: Tensor | None = None, **_):
        """``hidden [patches, embed_dim]`` -> what the tower returns for the same pictures."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=self.merger(hidden))


@torch.no_grad()
def see(tower: nn.Module, pictures: np.ndarray, processor, batch_size: int = 64) -> Tensor:
    """The tower's last hidden states for every picture: float16 ``[N, patches, embed_dim]``."""
    seen = []
    for start in range(0, len(pictures), batch_size):
        pixels, grid = pixel_values(pictures[start : start + batch_size], processor)
        seen.append(tower(pixels, grid_thw=grid).last_hidden_state.half().view(len(grid), -1, tower.config.embed_dim))
    return torch.cat(seen)
