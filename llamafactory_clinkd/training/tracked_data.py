# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Keeps the rows of a data set beside LLaMA-Factory's tokens.

Stock drops a row's id, task and modality. Pseudo-labels, corrections and predictions refer to rows, so the aligned
data set (``_prompt``, ``_response``, ``_images``) is kept in the order of the tokenised one.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..utils.boxes import IMAGE_PLACEHOLDER, modality_of, task_of
from ..utils.io import content_hash


logger = logging.getLogger(__name__)

ROW_NUMBER = "clinkd_row"


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
        valid = [
            index
            for index, (prompt, response) in enumerate(zip(aligned["_prompt"], aligned["_response"], strict=True))
            if len(prompt) % 2 == 1 and len(response) == 1
        ]
        dropped = len(aligned) - len(valid)
        if dropped:
            logger.warning("Left out %d of %d rows without a question and an answer.", dropped, len(aligned))
            aligned = aligned.select(valid)
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
        numbers = list(range(len(tokenized))) if known else [-1] * len(tokenized)
        return tokenized.add_column(ROW_NUMBER, numbers) if self.numbered else tokenized


def describe_rows(aligned: Any) -> list[dict[str, Any]]:
    """Aligned rows as ``{"key", "id", "image", "question", "annotation", "task", "modality"}``.

    ``key`` (index and id) is unique; empty columns of task and modality are filled from text and image name.
    """
    described = []
    for index, row in enumerate(aligned):
        images = row["_images"] or []
        image = images[0] if images and isinstance(images[0], str) else ""
        question = row["_prompt"][-1]["content"].replace(IMAGE_PLACEHOLDER, "").strip()
        annotation = row["_response"][0]["content"]
        identifier = row["_clinkd_id"] or Path(image).stem or str(index)
        described.append(
            {
                "key": f"{index}:{identifier}",
                "id": identifier,
                "image": image,
                "question": question,
                "annotation": annotation,
                "task": row["_clinkd_task"] or task_of(question, annotation),
                "modality": row["_clinkd_modality"] or modality_of(image),
            }
        )
    return described


def with_answers(aligned: Any, answers: list[str]) -> Any:
    """A copy of aligned rows with other answers; ``answers[i]`` goes to row ``i``."""

    def answer(row: dict[str, Any], index: int) -> dict[str, Any]:
        return {"_response": [{**row["_response"][0], "content": answers[index]}]}

    return aligned.map(answer, with_indices=True, load_from_cache_file=False, desc="Replacing answers")


def seeded_subset(size: int, wanted: int, seed: int, purpose: str) -> list[int]:
    """``min(wanted, size)`` distinct row numbers, ascending; drawn by a hash, so the same on every machine."""
    if wanted >= size:
        return list(range(size))
    order = sorted(range(size), key=lambda index: content_hash([seed, purpose, index]))
    return sorted(order[:wanted])
