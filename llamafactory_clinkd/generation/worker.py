# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""One rank's work: batches in, rows out, a failing batch row by row."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..utils.io import content_hash
from .decode import decode_batch, model_inputs


logger = logging.getLogger(__name__)

# This many failed rows without a single good one are no bad rows but a broken set-up.
_HOPELESS = 16

Row = dict[str, Any]


@dataclass
class Worker:
    """One rank's generation.

    Attributes:
        model, tokenizer, dataset, collate, row_ids, seed, synced_gpus, skip_special_tokens, should_stop: See
            `generate_rows`.
        settings: From :func:`.decode.generation_settings`.
        device: Where the batches go.
        good: Rows generated so far.
        bad: Rows set aside so far.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    dataset: Sequence[Mapping[str, Any]]
    collate: Callable[[list[dict[str, Any]]], Mapping[str, Any]]
    row_ids: Sequence[str]
    settings: Mapping[str, Any]
    device: torch.device | str
    seed: int = 0
    synced_gpus: bool = False
    skip_special_tokens: bool = False
    should_stop: Callable[[], bool] = lambda: False
    good: int = 0
    bad: int = 0

    def run(self, batches: list[list[int]]) -> Iterator[list[Row]]:
        """Yields the rows of each batch, or of each row where a batch had to be taken apart.

        Raises:
            ValueError: If the collator pads on the right.
            RuntimeError: If the first rows all fail: the set-up is broken, not the rows.
        """
        queue = deque(batches)
        while self._goes_on(queue):
            if not queue:
                self._decode([], self._spare_batch())
                continue
            batch = queue.popleft()
            collated, error = self._collate(batch)
            if error is not None and self.synced_gpus:
                self._decode([], self._spare_batch())  # the other ranks are waiting in `generate`
            if error is None:
                rows, error = self._decode(batch, collated)
            if error is None:
                self.good += len(rows)
                yield rows
            elif len(batch) > 1:
                queue.extendleft([i] for i in reversed(batch))
            else:
                yield [self._failed(batch[0], error)]

    def _goes_on(self, queue: deque) -> bool:
        """Whether there is work, here or (where all run together) on any rank, and nobody is to stop."""
        if not self.synced_gpus:
            return bool(queue) and not self.should_stop()
        state = torch.tensor([len(queue), int(self.should_stop())], device=self.device)
        torch.distributed.all_reduce(state, op=torch.distributed.ReduceOp.MAX)
        left, stops = state.tolist()
        return left > 0 and not stops

    def _collate(self, batch: list[int]) -> tuple[Mapping[str, Any] | None, Exception | None]:
        try:
            return self.collate([dict(self.dataset[i]) for i in batch]), None
        except Exception as error:  # whatever an unreadable image or a strange row raises; it is noted at the row
            return None, error.with_traceback(None)

    def _decode(self, batch: list[int], collated: Mapping[str, Any]) -> tuple[list[Row], Exception | None]:
        inputs = model_inputs(self.model, collated, self.device)
        ids = [self.row_ids[i] for i in batch]
        try:
            outputs = decode_batch(
                self.model,
                self.tokenizer,
                inputs,
                self.settings,
                seed=int(content_hash([self.seed, ids])[:15], 16),
                synced_gpus=self.synced_gpus,
                skip_special_tokens=self.skip_special_tokens,
            )
        except Exception as error:  # e.g. a prompt cut in the middle of its image, or no memory for a whole batch
            if self.synced_gpus:
                raise
            return [], error.with_traceback(None)  # its frames would keep the batch in memory
        return [{"id": id_, **output} for id_, output in zip(ids, outputs, strict=bool(ids))], None

    def _spare_batch(self) -> Mapping[str, Any]:
        """A batch for a rank that must take part in ``generate`` without work of its own: the first readable row."""
        for i in range(len(self.dataset)):
            collated, error = self._collate([i])
            if error is None:
                return collated
        raise RuntimeError(f"No row of the data can be collated; the last one fails with: {_reason(error)}")

    def _failed(self, i: int, error: Exception) -> Row:
        self.bad += 1
        reason = _reason(error)
        logger.warning("Row %s cannot be generated and is set aside: %s", self.row_ids[i], reason)
        if self.bad >= _HOPELESS and not self.good:
            raise RuntimeError(f"The first {self.bad} rows all failed, the last one with: {reason}") from error
        return {"id": self.row_ids[i], "candidates": [], "tokens": 0, "error": reason}


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]
