# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Batched, length-sorted, sharded, resumable generation for pseudo-labels, correction and prediction.

The batches depend on the data and the batch size alone, and the seed of a batch on ``seed`` and the ids in it. A batch
that is on disk in part is generated again as a whole. So a run that was killed and resumed, even with another number
of ranks, has the result of an uninterrupted one. The next run retries rows that could not be read or generated.
"""

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..training.tracked_data import list_lengths
from ..utils.console import bars_of_parts, console
from ..utils.io import JsonlRows, append_jsonl, content_hash
from ..utils.row_index import RowNumbers
from .decode import decode_batch, generation_settings, model_inputs, preserve_training_state
from .shards import Row, UnfinishedError, check_settings, is_merged, merge_shards, read_shards, shard_path


logger = logging.getLogger(__name__)
MAX_FAILED_FIRST = 16  # this many failed rows without a good one mean a broken set-up, not bad rows


def generate_rows(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    dataset: Sequence[Mapping[str, Any]],
    collate: Callable[[list[dict[str, Any]]], Mapping[str, Any]],
    row_ids: Sequence[str],
    out_path: str | Path,
    *,
    gen_kwargs: Mapping[str, Any],
    num_candidates: int = 1,
    batch_size: int = 8,
    process_index: int = 0,
    num_processes: int = 1,
    barrier: Callable[[], Any] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    progress: bool | str | None = None,
    synced_gpus: bool = False,
    skip_special_tokens: bool = False,
    seed: int = 0,
    identity: Mapping[str, Any] | None = None,
) -> Sequence[Row]:
    """Generates ``num_candidates`` answers for every row into ``out_path`` (JSONL, in the order of the dataset).

    The model's modes and all random generators are restored. Each rank appends to ``<out_path>.rank<i>`` batch by
    batch; rank 0 merges these shards at the end.

    Args:
        model: A causal language model, wrapped (DDP, DeepSpeed, PEFT) or not.
        tokenizer: Decodes the answers and defines the padding token.
        dataset: Rows with ``input_ids`` (the prompt), ``attention_mask``, ``labels`` and possibly ``images``.
        collate: Turns copies of such rows into tensors, padded on the left (LLaMA-Factory's collator).
        row_ids: A unique id for each row.
        out_path: The result; ``<out_path>.settings.json`` beside it records how it was generated.
        gen_kwargs: For ``model.generate``. Sampling happens only with ``do_sample`` true.
        num_candidates: Answers per row: the best beams, or the greedy answer and samples (see
            :func:`.decode.generation_settings`).
        batch_size: Rows per ``generate`` call.
        process_index: This rank.
        num_processes: The number of ranks.
        barrier: Waits for all ranks; by default ``torch.distributed.barrier``.
        should_stop: Called between two batches; if true, the rank (all, with ``synced_gpus``) stops.
        progress: Show a progress bar with the remaining time on rank 0; a string is its title.
        synced_gpus: For ZeRO-3 and FSDP, where all ranks must run the model together. Ranks without work of their own
            then repeat a row, and an error inside the model is raised instead of being recorded at its row.
        skip_special_tokens: Leave special tokens, tags included, out of the texts.
        seed: For sampling.
        identity: Anything else that must be equal for a run to be resumed, for example the weights; JSON-able.

    Returns:
        On every rank, all rows, read from the file when they are used: ``{"id", "candidates": [{"text", "logprob"}],
        "tokens"}``, or ``{"id", "candidates": [], "tokens": 0, "error"}``. See :func:`.decode.decode_batch` for the
        meaning of the numbers.

    Raises:
        ValueError: If ids and rows do not match, ``out_path`` was written with other settings or from other data, or
            the collator pads on the right.
        RuntimeError: If the first rows all fail: the set-up is broken, not the rows.
        UnfinishedError: On every rank, if a rank stopped early; the next run generates the rest.
    """
    out_path = Path(out_path)
    barrier, numbers = check_arguments(dataset, row_ids, num_processes, barrier)
    settings = generation_settings(model, tokenizer, gen_kwargs, num_candidates)
    recorded = {**settings, "seed": seed, "skip_special_tokens": skip_special_tokens, **(identity or {})}
    check_settings(out_path, recorded, process_index)
    done = read_shards(out_path, numbers).good
    barrier()  # no rank writes before all have read, so that all plan the same

    plan = plan_batches(list_lengths(dataset, "input_ids"), batch_size)
    batches = plan.with_any_of(~done, process_index, num_processes)
    device = next(model.parameters()).device
    options = {"settings": settings, "synced_gpus": synced_gpus, "skip_special_tokens": skip_special_tokens}
    worker = _Worker(
        row_ids=row_ids,
        collate=lambda indices: collate([dict(dataset[i]) for i in indices]),
        to_inputs=partial(model_inputs, model, device=device),
        decode=partial(decode_batch, model, tokenizer, **options),
        seed=seed,
        device=device,
        synced_gpus=synced_gpus,
        should_stop=should_stop,
    )
    title = progress if isinstance(progress, str) else "generate"
    title += f" (rank 0 of {num_processes})" if num_processes > 1 else ""
    shown = console if progress and process_index == 0 and batches else None
    count, total = 0, batches.rows
    with preserve_training_state(model), bars_of_parts(shown) as show:
        show(title, 0, total)
        for rows in worker.run(batches):
            new = [not done[number] for number in numbers.find([row["id"] for row in rows])]
            append_jsonl(shard_path(out_path, process_index), itertools.compress(rows, new))
            show(title, count := count + len(rows), total)

    return merge_all(out_path, numbers, process_index, barrier)


def merge_all(out_path: Path, numbers: RowNumbers, process_index: int, barrier: Callable[[], Any]) -> Sequence[Row]:
    """All rows in order, on every rank; raises UnfinishedError if one is missing."""
    barrier()
    if process_index == 0:
        merge_shards(out_path, numbers)
    barrier()
    if not is_merged(out_path):
        raise UnfinishedError(
            f"{out_path} is not complete: generation stopped early. The next run generates the rest."
        )
    return JsonlRows(out_path)


def plan_batches(lengths: Sequence[int], batch_size: int) -> "Batches":
    """Row numbers in batches of similar length, longest first: memory runs out at once or never."""
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, found {batch_size}.")
    return Batches(np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable"), batch_size)


class Batches(Sequence[list[int]]):
    """Batches of row numbers; 8 bytes a row and batch, whatever the size of the batches."""

    def __init__(self, order: np.ndarray, size: int, chosen: np.ndarray | None = None) -> None:
        self._order, self._size = order, size
        self._starts = np.arange(0, len(order), size) if chosen is None else chosen

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> list[int]:
        start = self._starts[index]
        return self._order[start : start + self._size].tolist()

    @property
    def rows(self) -> int:
        """The number of rows in all batches."""
        return int(np.minimum(self._size, len(self._order) - self._starts).sum())

    def with_any_of(self, wanted: np.ndarray, part: int = 0, parts: int = 1) -> "Batches":
        """The batches with a row that ``wanted`` has true, of these every ``parts``-th from number ``part``."""
        if not len(self):
            return self
        chosen = self._starts[np.logical_or.reduceat(wanted[self._order], self._starts)]
        return Batches(self._order, self._size, chosen[part::parts])


def check_arguments(
    dataset, row_ids, num_processes: int, barrier: Callable | None
) -> tuple[Callable[[], Any], RowNumbers]:
    """Checks the arguments; the barrier to use, and the numbers of the rows."""
    if len(dataset) != len(row_ids):
        raise ValueError(f"`row_ids` must name every row: found {len(row_ids)} ids for {len(dataset)} rows.")
    numbers = RowNumbers(row_ids)
    if numbers.repeated:
        raise ValueError(f"`row_ids` must be unique: {len(numbers.repeated)} of them occur twice or more.")
    if barrier is not None:
        return barrier, numbers
    if num_processes == 1:
        return lambda: None, numbers
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        raise ValueError(f"{num_processes} ranks need a `barrier`: torch.distributed is not initialised here.")
    return torch.distributed.barrier, numbers


@dataclass
class _Worker:
    """Generates the batches of one rank."""

    row_ids: Sequence[str]
    collate: Callable[[list[int]], Mapping[str, Any]]  # row numbers -> collated batch
    to_inputs: Callable[[Mapping[str, Any]], dict[str, Any]]  # collated batch -> arguments of `generate`
    decode: Callable[..., list[Row]]  # arguments of `generate`, seed -> rows, see `decode_batch`
    seed: int
    device: torch.device
    synced_gpus: bool
    should_stop: Callable[[], bool]
    num_ok: int = 0
    num_failed: int = 0

    def run(self, batches: Iterable[list[int]]) -> Iterator[list[Row]]:
        """Yields the rows of each batch; a batch that fails is split into single rows."""
        waiting, queue = iter(batches), deque()
        while True:
            queue.extend(itertools.islice(waiting, not queue))
            if not self._continues(queue):
                return
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
                self.num_ok += len(rows)
                yield rows
            elif len(batch) > 1:
                queue.extendleft([i] for i in reversed(batch))
            else:
                yield [self._failed_row(batch[0], error)]

    def _continues(self, queue: deque) -> bool:
        """Whether there is work (with ``synced_gpus`` on any rank) and no request to stop."""
        if not self.synced_gpus:
            return bool(queue) and not self.should_stop()
        state = torch.tensor([len(queue), int(self.should_stop())], device=self.device)
        torch.distributed.all_reduce(state, op=torch.distributed.ReduceOp.MAX)
        remaining, stop = state.tolist()
        return remaining > 0 and not stop

    def _collate(self, batch: list[int]) -> tuple[Mapping[str, Any] | None, Exception | None]:
        try:
            return self.collate(batch), None
        except Exception as error:  # any error of an unreadable image or a malformed row; it is recorded at the row
            return None, error.with_traceback(None)

    def _decode(self, batch: list[int], collated: Mapping[str, Any]) -> tuple[list[Row], Exception | None]:
        inputs = self.to_inputs(collated)
        ids = [self.row_ids[i] for i in batch]
        try:
            outputs = self.decode(inputs, seed=int(content_hash([self.seed, ids])[:15], 16))
        except Exception as error:  # e.g. a prompt cut in the middle of its image, or no memory for a whole batch
            if self.synced_gpus:
                raise
            return [], error.with_traceback(None)  # its frames would keep the batch in memory
        return [{"id": id_, **output} for id_, output in zip(ids, outputs, strict=bool(ids))], None

    def _spare_batch(self) -> Mapping[str, Any]:
        """The first readable row, for a rank without work that must take part in ``generate``."""
        for i in range(len(self.row_ids)):
            collated, error = self._collate([i])
            if error is None:
                return collated
        raise RuntimeError(f"No row of the data can be collated; the last one fails with: {_reason(error)}")

    def _failed_row(self, i: int, error: Exception) -> Row:
        self.num_failed += 1
        reason = _reason(error)
        logger.warning("Row %s cannot be generated and is set aside: %s", self.row_ids[i], reason)
        if self.num_failed >= MAX_FAILED_FIRST and not self.num_ok:
            raise RuntimeError(f"The first {self.num_failed} rows all failed, the last one with: {reason}") from error
        return {"id": self.row_ids[i], "candidates": [], "tokens": 0, "error": reason}


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]
