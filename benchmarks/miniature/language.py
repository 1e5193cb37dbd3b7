# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Second step of the demo's pretraining: the language model learns to answer, on the frozen tower's output.

The tower's output is computed once for each picture, so a step costs what the language model and the merger cost.
Pointing, which takes by far the most examples, is taught alone at first: after 22,000 boxes it reached a mean IoU of
0.13 alone and of 0.05 with the other questions mixed in from the start.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .cells import IGNORED
from .corpus import Corpus, encode, pixel_values, pointing_turns
from .loop import batches, train


POINTING_PART = 0.7  # of all steps


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


def collate(rows: Sequence[tuple[list[int], list[int]]], pad: int, image: int) -> dict[str, Tensor]:
    """Pads (ids, labels) on the right.

    Returns:
        ``input_ids``, ``attention_mask``, ``labels``, ``mm_token_type_ids``: int64 or int32 ``[b, s]``.
    """
    width = max(len(ids) for ids, _ in rows)
    ids, labels = torch.full((len(rows), width), pad), torch.full((len(rows), width), IGNORED)
    for number, (row, row_labels) in enumerate(rows):
        ids[number, : len(row)] = torch.tensor(row)
        labels[number, : len(row)] = torch.tensor(row_labels)
    lengths = torch.tensor([len(row) for row, _ in rows])
    mask = (torch.arange(width)[None] < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "mm_token_type_ids": (ids == image).int()}


def train_language(
    model: nn.Module,
    corpus: Corpus,
    processor,
    *,
    steps: int,
    checkpoint: Path,
    batch_size: int = 8,
    peak: float = 2e-3,
    seed: int = 0,
    advance: Callable[[int, int, float], None] = lambda step, steps, loss: None,
) -> float:
    """Trains language model and merger of a small Qwen2-VL, on pointing, then on every row.

    Returns the mean loss of the last steps.
    """
    inner, tokenizer = model.model, processor.tokenizer
    tower = inner.visual
    rows = [encode(messages, tokenizer) for messages in corpus.messages]
    pad, image = tokenizer.pad_token_id, tokenizer.convert_tokens_to_ids("<|image_pad|>")
    turns = [pointing_turns(messages) for messages in corpus.messages]
    pointing = {number: encode(kept, tokenizer) for number, kept in enumerate(turns) if kept}
    numbers, first = np.array(list(pointing)), round(POINTING_PART * steps) if pointing else 0
    batch, point = batches(len(rows), batch_size, seed), batches(len(numbers), batch_size, seed)
    seen = see(tower, corpus.pictures, processor)
    side = round(seen.shape[1] ** 0.5)

    def loss_of(step: int) -> Tensor:
        chosen, texts = (numbers[point(step)], pointing) if step < first else (batch(step), rows)
        grid = torch.tensor([[1, side, side]]).repeat(len(chosen), 1)
        inputs = collate([texts[row] for row in chosen], pad, image)
        return model(pixel_values=seen[chosen].float().flatten(0, 1), image_grid_thw=grid, **inputs).loss

    inner.visual = SeenTower(tower)
    try:
        model.train()
        return train(model, loss_of, steps=steps, peak=peak, checkpoint=checkpoint, advance=advance)
    finally:
        inner.visual = tower
        model.eval()
