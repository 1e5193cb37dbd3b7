# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""``corrector: teacher``: the recipe's teacher rewords here, by the prompt of a server and without an image."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ..generation.decode import decode_batch, generation_settings, model_inputs
from ..utils.control_text import special_token
from ..utils.io import content_hash
from .corrector import CorrectionItem, CorrectionResult, PromptTemplate, Usage
from .server_answers import AnswerError, parse_answer


FORM_TOKENS = 64  # of the JSON around the candidates
TOKENS_ADDED = 24  # to each candidate, beyond twice the tokens of its ground truth: longer ones are rejected


class LoadedTeacher(NamedTuple):
    """A teacher in evaluation mode."""

    model: Any
    tokenizer: Any
    encode: Callable[[str], list[int]]
    """The token ids of a question without an image, by the recipe's template, up to where the answer begins."""


class TeacherCorrector:
    """Rewords in batches by greedy decoding, so that equal rows get equal rewordings; nothing leaves the machine.

    Args:
        name: Identifies the teacher in the records.
        load: Enters with the loaded teacher, and frees it at the end; entered only if a row needs correction.
        candidates: Rewordings for each row, >= 1.
        batch_size: Rows in one batch.
        prompt_path: A template in place of the built-in one.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], AbstractContextManager[LoadedTeacher]],
        *,
        candidates: int,
        batch_size: int = 8,
        prompt_path: str | Path | None = None,
    ):
        if candidates < 1:
            raise ValueError(f"correction_candidates is {candidates}: expected at least 1.")
        self._load, self._candidates, self._batch_size = load, candidates, batch_size
        self._prompt = PromptTemplate(prompt_path)
        self.prompt_text = self._prompt.fixed_text
        self.name = f"teacher:{name}:{content_hash(self.prompt_text)[:12]}:{candidates}"
        self.start_round(Usage())

    def start_round(self, usage: Usage) -> None:
        """See :meth:`.Corrector.start_round`."""
        self.usage = usage

    def correct(self, items: Iterable[CorrectionItem]) -> Iterator[list[CorrectionResult]]:
        """See :meth:`.Corrector.correct`."""
        items = iter(items)
        with self._load() as teacher:
            try:
                while batch := list(islice(items, self._batch_size)):
                    yield self._correct_batch(teacher, batch)
            finally:
                del teacher  # before `load` frees its memory

    def _correct_batch(self, teacher: LoadedTeacher, batch: list[CorrectionItem]) -> list[CorrectionResult]:
        model, tokenizer, encode = teacher
        prompts = [encode(without_special_tokens(self._prompt.render(item, self._candidates))) for item in batch]
        longest = max(len(tokenizer.encode(item.annotation, add_special_tokens=False)) for item in batch)
        limit = FORM_TOKENS + self._candidates * (2 * longest + TOKENS_ADDED)
        collated = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
        settings = generation_settings(model, tokenizer, {"max_new_tokens": limit}, 1)
        inputs = model_inputs(model, collated, next(model.parameters()).device)
        replies = decode_batch(model, tokenizer, inputs, settings)
        self.usage.requests += len(batch)
        self.usage.prompt_tokens += sum(map(len, prompts))
        self.usage.completion_tokens += sum(reply["tokens"] for reply in replies)
        return [self._result(item, reply, limit) for item, reply in zip(batch, replies, strict=True)]

    def _result(self, item: CorrectionItem, reply: dict[str, Any], limit: int) -> CorrectionResult:
        try:
            if reply["tokens"] >= limit:
                raise AnswerError("length")
            return CorrectionResult(item.id, parse_answer(reply["candidates"][0]["text"], self._candidates))
        except AnswerError as error:
            return CorrectionResult(item.id, (), str(error))


def without_special_tokens(text: str) -> str:
    """The text without special tokens and media placeholders: an answer of the model may have some."""
    while token := special_token(text):
        text = text.replace(token, "")
    return text.replace("<image>", "")
