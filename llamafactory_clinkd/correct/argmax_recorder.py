# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``correction_outputs: forward``: what the model would have said while it was trained, at no further pass.

With teacher forcing each token is the model's first choice after the *true* beginning of the answer, so these outputs
are better than what it would generate by itself; that is the price of their being free.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..utils.io import append_jsonl, read_jsonl, write_jsonl


IGNORE_INDEX = -100
LOGITS_ROWS = 128


class ForwardRecorder:
    """Keeps each training row's argmax answer of a round: ``round-N.forward.rank<i>.jsonl``, then ``.outputs.jsonl``.

    Only the last turn's answer is kept. A row that is trained again after a resume is recorded again; the last one
    counts.

    Args:
        folder: ``clinkd/corrections``.
        tokenizer: Decodes answers; its end-of-sequence token ends them.
        training: The training arguments, for the rank.
    """

    def __init__(self, folder: Path, tokenizer: Any, training: Any) -> None:
        self._folder = folder
        self._tokenizer = tokenizer
        self._rank = training.process_index
        self._pending: dict[int, list[dict[str, Any]]] = {}

    @torch.no_grad()
    def record(
        self,
        number: int,
        rows: list[int],
        kept: torch.Tensor,
        targets: torch.Tensor,
        logits_of: Callable[[torch.Tensor], torch.Tensor],
    ) -> None:
        """Records one batch of round ``number``.

        Args:
            number: The round, from 1.
            rows: Row numbers ``[B]``; ``-1`` is not recorded.
            kept: Positions ``[K]`` of the kept columns.
            targets: Next tokens ``[B, K]``, ``-100`` where none is supervised.
            logits_of: Logits ``[N, V]`` of given rows ``[N]`` of the flattened ``[B * K]``.
        """
        width = targets.shape[1]
        for index, row in enumerate(rows):
            if row < 0:
                continue
            columns = answer_columns(kept, targets[index], self._tokenizer.eos_token_id)
            chosen = [
                logits_of(index * width + part).argmax(dim=-1) for part in columns.split(LOGITS_ROWS) if part.numel()
            ]
            tokens = torch.cat(chosen).tolist() if chosen else []
            text = self._tokenizer.decode(tokens, skip_special_tokens=False).strip()
            self._pending.setdefault(number, []).append({"row": row, "text": text})

    def flush(self) -> None:
        """Writes what is waiting."""
        for number, records in self._pending.items():
            append_jsonl(self._folder / f"round-{number}.forward.rank{self._rank}.jsonl", records)
        self._pending.clear()

    def collect(self, number: int, rows: list[int], keys: list[str]) -> list[dict[str, Any]]:
        """The answers of a round as :func:`llamafactory_clinkd.generation.generate_rows` would give them.

        Rank 0 writes them to ``round-N.outputs.jsonl``.

        Args:
            number: The round, from 1.
            rows: The row numbers wanted.
            keys: Their keys.
        """
        self.flush()
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        found: dict[int, str] = {}
        for path in sorted(self._folder.glob(f"round-{number}.forward.rank*.jsonl")):
            found.update({record["row"]: record["text"] for record in read_jsonl(path)})
        answers = [
            {"id": key, "candidates": [{"text": found[row], "logprob": None}] if row in found else []}
            for row, key in zip(rows, keys, strict=True)
        ]
        if self._rank == 0:
            write_jsonl(self._folder / f"round-{number}.outputs.jsonl", answers)
        return answers


def answer_columns(kept: torch.Tensor, targets: torch.Tensor, end: int) -> torch.Tensor:
    """Columns of one row's last answer: its last run of adjacent supervised positions, up to the end token.

    Args:
        kept: ``[K]`` ascending positions.
        targets: ``[K]`` next tokens, ``-100`` where none is supervised.
        end: Token that ends an answer; neither it nor what follows belongs to the text.
    """
    columns = (targets != IGNORE_INDEX).nonzero().flatten()
    if columns.numel() == 0:
        return columns
    breaks = (kept[columns][1:] - kept[columns][:-1] > 1).nonzero().flatten()
    columns = columns[int(breaks[-1]) + 1 :] if breaks.numel() else columns
    ends = (targets[columns] == end).nonzero().flatten()
    return columns[: int(ends[0])] if ends.numel() else columns
