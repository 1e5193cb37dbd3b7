# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``correction_outputs: forward``: answers from the argmax of the training logits, without an extra forward pass.

With teacher forcing each token is the model's first choice after the *true* beginning of the answer, so these answers
are better than those that the model would generate.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ..training.lm_head import IGNORE_INDEX
from ..utils.io import append_jsonl, read_jsonl, write_jsonl


CHUNK_ROWS = 128


class ArgmaxRecorder:
    """Records the argmax answer of each training row to ``round-N.forward.rank<i>.jsonl``.

    Only the answer of the last turn is recorded, up to the tokenizer's end-of-sequence token. A row that is trained
    again after a resume is recorded again; the last record counts. ``folder`` is ``clinkd/corrections``.
    """

    def __init__(self, folder: Path, tokenizer: Any, training: Any) -> None:
        self._folder = folder
        self._tokenizer = tokenizer
        self._rank = training.process_index
        self._unwritten: dict[int, list[dict[str, Any]]] = {}

    @torch.no_grad()
    def record(
        self,
        number: int,
        rows: list[int],  # [B] row numbers; -1 is not recorded
        supervised_idx: torch.Tensor,  # [K] positions that are supervised in any row
        targets: torch.Tensor,  # [B, K] next tokens, -100 where a row is not supervised
        logits_of: Callable[[torch.Tensor], torch.Tensor],  # indices [N] into the flattened [B * K] -> logits [N, V]
    ) -> None:
        """Records one batch of round ``number``, counted from 1."""
        width = targets.shape[1]
        for index, row in enumerate(rows):
            if row < 0:
                continue
            columns = answer_columns(supervised_idx, targets[index], self._tokenizer.eos_token_id)
            tokens: list[int] = []
            for chunk in columns.split(CHUNK_ROWS) if columns.numel() else ():
                tokens += logits_of(index * width + chunk).argmax(dim=-1).tolist()
            text = self._tokenizer.decode(tokens, skip_special_tokens=False).strip()
            self._unwritten.setdefault(number, []).append({"row": row, "text": text})

    def flush(self) -> None:
        """Writes the recorded answers to disk."""
        for number, records in self._unwritten.items():
            append_jsonl(self._folder / f"round-{number}.forward.rank{self._rank}.jsonl", records)
        self._unwritten.clear()

    def collect(self, number: int, rows: list[int], keys: list[str]) -> list[dict[str, Any]]:
        """The answers of a round as :func:`llamafactory_clinkd.generation.generate_rows` returns them.

        All ranks call it together, with row numbers and the rows' keys; rank 0 writes ``round-N.outputs.jsonl``.
        """
        self.flush()
        if torch.distributed.is_initialized():
            torch.distributed.barrier()
        texts: dict[int, str] = {}
        for path in sorted(self._folder.glob(f"round-{number}.forward.rank*.jsonl")):
            texts.update({record["row"]: record["text"] for record in read_jsonl(path)})
        answers = [
            {"id": key, "candidates": [{"text": texts[row], "logprob": None}] if row in texts else []}
            for row, key in zip(rows, keys, strict=True)
        ]
        if self._rank == 0:
            write_jsonl(self._folder / f"round-{number}.outputs.jsonl", answers)
        return answers


def answer_columns(supervised_idx: torch.Tensor, targets: torch.Tensor, eos_token_id: int) -> torch.Tensor:
    """Columns of one row's last answer: its last run of adjacent supervised positions, without end token.

    ``supervised_idx`` ``[K]`` ascends; ``targets`` ``[K]`` are next tokens, ``-100`` where the row is not supervised.
    """
    columns = (targets != IGNORE_INDEX).nonzero().flatten()
    gaps = (supervised_idx[columns].diff() > 1).nonzero().flatten()
    columns = columns[int(gaps[-1]) + 1 :] if gaps.numel() else columns
    ends = (targets[columns] == eos_token_id).nonzero().flatten()
    return columns[: int(ends[0])] if ends.numel() else columns
