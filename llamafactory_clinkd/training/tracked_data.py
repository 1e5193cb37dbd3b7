# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Keeps the rows of a data set beside LLaMA-Factory's tokens.

Stock drops a row's id, task and modality. Pseudo-labels, corrections and predictions refer to rows, so the aligned
data set (``_prompt``, ``_response``, ``_images``) is kept in the order of the tokenised one.
"""

import hashlib
import heapq
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..utils.boxes import IMAGE_PLACEHOLDER, modality_of, task_of
from ..utils.row_index import Texts


logger = logging.getLogger(__name__)

ROW_NUMBER = "clinkd_row"
BATCH = 1000
DESCRIBED = ["_prompt", "_response", "_images", "_clinkd_id", "_clinkd_task", "_clinkd_modality"]


class TrackedData:
    """The aligned rows of one stock run.

    Args:
        choose_train: Maps the aligned training rows to those that the phase trains on.
        choose_eval: The same for evaluation rows.
        numbered: Whether tokenised training rows carry their number, for a trainer that records by row.
    """

    def __init__(
        self,
        choose_train: Callable[[Any], Any] | None = None,
        choose_eval: Callable[[Any], Any] | None = None,
        numbered: bool = False,
    ) -> None:
        self.numbered = numbered
        self._choose = {False: choose_train, True: choose_eval}
        self._aligned: dict[bool, Any] = {}
        self._tokenize: Callable[[Any, bool], Any] | None = None

    def choose(self, aligned: Any, is_eval: bool) -> Any:
        """Drops the rows that stock would drop, with a warning, and applies the phase's choice to the rest."""
        valid = (list_lengths(aligned, "_prompt") % 2 == 1) & (list_lengths(aligned, "_response") == 1)
        dropped = len(aligned) - int(valid.sum())
        if dropped:
            logger.warning("Left out %d of %d rows without a question and an answer.", dropped, len(aligned))
            aligned = aligned.select(np.flatnonzero(valid))
        if len(aligned) == 0:
            raise ValueError("The data set has no row with a question and an answer. Run `clinkd data check` on it.")
        choose = self._choose[is_eval]
        return aligned if choose is None else choose(aligned)

    def keep(self, aligned: Any, is_eval: bool, tokenize: Callable[[Any, bool], Any]) -> None:
        """Stores the rows that stock tokenises, and its tokeniser."""
        self._aligned[is_eval] = aligned
        self._tokenize = tokenize

    def aligned(self, is_eval: bool) -> Any:
        """The aligned rows of a split; raises ValueError if stock loaded only tokens."""
        if is_eval not in self._aligned:
            raise ValueError(
                "This phase needs the rows behind the tokens, but the data came from `tokenized_path` or `streaming`. "
                "Set `dataset` (and `eval_dataset`) without them."
            )
        return self._aligned[is_eval]

    def tokenize(self, aligned: Any, *, for_generation: bool) -> Any:
        """Tokenises aligned rows as stock does, with only the answer in ``labels`` if ``for_generation``."""
        return self._tokenize(aligned, for_generation)

    def number(self, tokenized: Any, *, known: bool = True) -> Any:
        """Adds the row numbers to tokenised training rows, ``-1`` for rows that are not of the training set."""
        numbers = np.arange(len(tokenized)) if known else np.full(len(tokenized), -1)
        return tokenized.add_column(ROW_NUMBER, numbers) if self.numbered else tokenized


class DescribedRows(Sequence):
    """Aligned rows as ``{"key", "id", "image", "question", "annotation", "task", "modality"}``, read when used.

    ``key`` (number and id) is unique; empty columns of task and modality are filled from text and image name.
    ``numbers`` are the rows' numbers in their data set, ascending; by default the rows are all of it.
    """

    def __init__(self, aligned: Any, numbers: Sequence[int] | None = None) -> None:
        self._aligned, self._numbers = aligned, range(len(aligned)) if numbers is None else numbers

    def __len__(self) -> int:
        return len(self._aligned)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return _described(self._numbers[index], self._aligned[index])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(_described, self._numbers, _rows(self._aligned.select_columns(DESCRIBED)))

    def keys(self) -> Texts:
        """The keys alone, which takes less time than the rows."""
        rows = _rows(self._aligned.select_columns(["_images", "_clinkd_id"]))
        return Texts(_key(number, _identifier(number, row)) for number, row in zip(self._numbers, rows, strict=True))


def _rows(aligned: Any) -> Iterator[dict[str, Any]]:
    """Rows in batches: one at a time, a data set takes several times as long."""
    for batch in aligned.iter(batch_size=BATCH):
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))


def _described(number: int, row: dict[str, Any]) -> dict[str, Any]:
    image, identifier = _image(row), _identifier(number, row)
    question = row["_prompt"][-1]["content"].replace(IMAGE_PLACEHOLDER, "").strip()
    annotation = row["_response"][0]["content"]
    return {
        "key": _key(number, identifier),
        "id": identifier,
        "image": image,
        "question": question,
        "annotation": annotation,
        "task": row["_clinkd_task"] or task_of(question, annotation),
        "modality": row["_clinkd_modality"] or modality_of(image),
    }


def _key(number: int, identifier: str) -> str:
    return f"{number}:{identifier}"


def _image(row: dict[str, Any]) -> str:
    images = row["_images"] or []
    return images[0] if images and isinstance(images[0], str) else ""


def _identifier(number: int, row: dict[str, Any]) -> str:
    return row["_clinkd_id"] or Path(_image(row)).stem or str(number)


def list_lengths(rows: Any, column: str) -> np.ndarray:
    """The length of each row's list in a column, of a data set without a Python object for a row."""
    if not hasattr(rows, "select_columns"):
        return np.array([len(row[column]) for row in rows], dtype=np.int64)
    import pyarrow.compute as pc

    batches = rows.select_columns([column]).with_format("arrow").iter(batch_size=BATCH)
    lengths = [pc.fill_null(pc.list_value_length(batch[column]), 0).to_numpy() for batch in batches]
    return np.concatenate([np.empty(0, np.int64), *lengths])


def with_answers(aligned: Any, answers: Sequence[str]) -> Any:
    """A copy of aligned rows with other answers; ``answers[i]`` goes to row ``i``."""

    def answer(row: dict[str, Any], index: int) -> dict[str, Any]:
        return {"_response": [{**row["_response"][0], "content": answers[index]}]}

    digest = hashlib.sha256(aligned._fingerprint.encode())  # `datasets` would pickle all answers to compute one
    for text in answers:
        digest.update(json.dumps(text).encode())
    options = {"load_from_cache_file": False, "new_fingerprint": digest.hexdigest()[:16]}
    return aligned.map(answer, with_indices=True, desc="Replacing answers", **options)


def seeded_subset(size: int, wanted: int, seed: int, purpose: str) -> Sequence[int]:
    """``min(wanted, size)`` distinct row numbers, ascending; drawn by a hash, so the same on every machine."""
    if wanted >= size:
        return range(size)
    start = json.dumps([seed, purpose], ensure_ascii=False, separators=(",", ":"))[:-1]  # of `content_hash`'s text
    order = heapq.nsmallest(wanted, range(size), lambda index: hashlib.sha256(f"{start},{index}]".encode()).digest())
    return sorted(order)
