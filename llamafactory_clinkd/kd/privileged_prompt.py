# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A teacher that reads more than the student: the reference answer, written into its prompt.

With the student's own base as the teacher this is on-policy self-distillation (OPSD, Zhao et al. 2026; SDFT, Shenfeld
et al. 2026): the teacher judges the student's tokens with the answer at hand, and no second model is needed.
"""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from ..rope.binding import token_types
from .rollouts import RECOMPUTED_KEYS, Batch


ANSWER = "{answer}"


class PrivilegedPrompt:
    """Writes a hint at the end of the user's last turn, at the tokens, whatever the chat template is.

    Args:
        text: The hint, with ``{answer}`` where the reference answer goes.
        template: Stock's chat template.
        tokenizer: The student's, which is the teacher's too.
        pad_token_id: Fills hints of one batch to one length, with an attention mask of 0.

    Raises:
        ValueError: If ``text`` does not name the answer, or the template has no constant text before an answer.
    """

    def __init__(self, text: str, template: Any, tokenizer: Any, pad_token_id: int) -> None:
        before, found, after = text.partition(ANSWER)
        if not found:
            raise ValueError(f"`kd_teacher_prompt: {text!r}` has no {ANSWER}. Write it where the ground truth goes.")
        self._opening, self._closing = opening_and_closing(template, tokenizer)
        if not self._opening:
            raise ValueError(
                "`kd_teacher_prompt` is written before the template's opening of an answer, and this template has "
                "none. Remove the key."
            )
        self._before, self._after = (
            tokenizer.encode(part, add_special_tokens=False) if part else [] for part in ("\n" + before, after)
        )
        self._pad_token_id = pad_token_id

    def hint(self, reference: Sequence[int]) -> list[int]:
        """The hint's tokens around a reference answer, whose closing tokens are left out."""
        reference, closing = list(reference), self._closing
        if closing and reference[-len(closing) :] == closing:
            reference = reference[: -len(closing)]
        return [*self._before, *reference, *self._after]

    def teacher_batch(self, batch: Batch, starts: Sequence[int], references: Sequence[Sequence[int]], model: Any):
        """The teacher's input for a batch of one answer a row, and how far its answers are shifted.

        Args:
            batch: ``input_ids`` ``[B, S]``, ``attention_mask`` and media; no labels.
            starts: For each row the index of its answer's first token, or -1 for a row without an answer.
            references: For each row the tokens of its reference answer.
            model: The teacher's transformers model, which computes positions from the token types.

        Raises:
            ValueError: If a prompt does not end with the template's opening of an answer.
        """
        rows = zip(starts, references, strict=True)
        hints = [self.hint(reference) if start >= 0 else [] for start, reference in rows]
        shift = max(map(len, hints), default=0)
        table, masks = [], []
        for ids, mask, start, hint in zip(batch["input_ids"], batch["attention_mask"], starts, hints, strict=True):
            place = max(start - len(self._opening), 0)
            if start >= 0 and ids[place:start].tolist() != self._opening:
                raise ValueError(
                    "`kd_teacher_prompt`: a prompt does not end with the template's opening of an answer, probably "
                    "because `cutoff_len` cut it. Raise `cutoff_len`."
                )
            filling = shift - len(hint)
            inserted = torch.tensor([*hint, *[self._pad_token_id] * filling], device=ids.device)
            visible = torch.tensor([1] * len(hint) + [0] * filling, device=ids.device)
            table.append(torch.cat([ids[:place], inserted.to(ids.dtype), ids[place:]]))
            masks.append(torch.cat([mask[:place], visible.to(mask.dtype), mask[place:]]))
        new = {key: value for key, value in batch.items() if key not in RECOMPUTED_KEYS}
        new |= {"input_ids": torch.stack(table), "attention_mask": torch.stack(masks)}
        if "mm_token_type_ids" in signature(type(model).forward).parameters:
            new["mm_token_type_ids"] = token_types(model.config, new["input_ids"])
        return new, shift


def opening_and_closing(template: Any, tokenizer: Any) -> tuple[list[int], list[int]]:
    """The tokens that a chat template writes before and after every answer."""
    turns = [template.encode_oneturn(tokenizer, _conversation(word)) for word in ("A", "xyz 17")]
    prompts, answers = zip(*turns, strict=True)
    return _common_suffix(*prompts), _common_suffix(*answers)


def answer_starts(supervised_idx: Tensor, targets: Tensor, ignore_index: int) -> list[int]:
    """The index of each row's first answer token from positions ``[K]`` that predict ``targets`` ``[B, K]``, or -1."""
    starts = []
    for row in targets:
        supervised = (row != ignore_index).nonzero()
        starts.append(int(supervised_idx[supervised[0]]) + 1 if len(supervised) else -1)
    return starts


def _conversation(word: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": word}, {"role": "assistant", "content": word}]


def _common_suffix(a: Sequence[int], b: Sequence[int]) -> list[int]:
    length = 0
    while length < min(len(a), len(b)) and a[-length - 1] == b[-length - 1]:
        length += 1
    return list(a[len(a) - length :])
