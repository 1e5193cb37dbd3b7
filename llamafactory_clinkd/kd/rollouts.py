# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Rollouts: the student's own answers to the prompts of collated training batches.

A batch keeps its prompts and media; the answers, padding, labels and token types are new. The labels of a rollout are
the sampled tokens, end token included; they mark the positions of the divergence and are no ground truth.

======================================= ====================================================================
outcome                                 what happens
======================================= ====================================================================
answer with an end token                counted as ended
answer without one                      it has ``max_new_tokens`` tokens, and is not counted as ended
row that would exceed ``cutoff_len``    the answer stops there, counted as truncated
sampled image or video token            the answer stops before it, counted as cut
nothing left before that token          the row has no supervised token, counted as empty
no prompt or no answer in the row       the same
prompt cut before its answer's opening  the same
row repeated to fill an epoch's end     not sampled and not counted
======================================= ====================================================================
"""

import random
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any, NamedTuple

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn

from ..generation.decode import base_model, model_inputs, seed_model
from ..rope.binding import token_types
from ..training.lm_head import IGNORE_INDEX
from ..training.sft_trainer import REPEATED
from ..utils.value_checks import bad_value
from .cache_keys import CACHE_KEY


Batch = dict[str, Any]
TOKEN_KEYS = ("input_ids", "attention_mask", "labels")
RECOMPUTED_KEYS = ("position_ids", "rope_deltas", "mm_token_type_ids", "token_type_ids")
MEDIA_PREFIXES = ("pixel_", "image_", "video_", "audio_", "second_per_grid", "input_features", "clinkd_")
MEDIA_TOKENS = (
    "image_token_id", "video_token_id", "audio_token_id", "vision_start_token_id", "vision_end_token_id",
    "image_start_token_id", "image_end_token_id", "video_start_token_id", "video_end_token_id",
    "audio_start_token_id", "audio_end_token_id",
)  # fmt: skip
ANSWER_FILES = "rollouts-*.json"  # of a checkpoint, one a rank: answers that it has not used yet
PAD_TO_MULTIPLE_OF = 8  # as stock's collator in training


def check_on_policy(data: Any, max_new_tokens: int) -> None:
    """Raises ValueError if the recipe's batches have answers that cannot be replaced, or the new ones no tokens."""
    for key in ("neat_packing", "packing", "streaming", "train_on_prompt"):
        if getattr(data, key):
            raise ValueError(
                f"`kd_on_policy` replaces each row's answer by one that the student samples, and with `{key}: true` "
                f"there are no rows with one answer. Set `{key}: false`, or `kd_on_policy: 0`."
            )
    if max_new_tokens < 1:
        raise bad_value("max_new_tokens", max_new_tokens, "at least 1 with `kd_on_policy`", "raise it")


class Rollouts(NamedTuple):
    """Sampled answers and what became of them."""

    answers: list[list[int]]
    """Token ids of each row's answer, end token included; empty where the row has none, or is a repeated one."""
    ended: int
    """Rows whose answer has an end token."""
    cut: int
    """Rows whose answer was cut before an image or video token."""
    truncated: int = 0
    """Rows whose answer stopped at ``cutoff_len``."""


def is_on_policy(share: float, seed: int, step: int, micro_batch: int) -> bool:
    """Whether a micro-batch of an optimizer step is sampled; the same on all ranks and in a resumed run."""
    return random.Random(f"{seed}:{step}:{micro_batch}").random() < share


def prompts_of(batch: Mapping[str, Any]) -> list[list[int]]:
    """The tokens before the last answer of each row; empty for a row without one."""
    spans = map(_last_answer, batch["labels"])
    return [
        ids[:start][mask[:start] != 0].tolist()
        for ids, mask, (start, _) in zip(batch["input_ids"], batch["attention_mask"], spans, strict=True)
    ]


def answers_of(batch: Mapping[str, Any]) -> list[list[int]]:
    """The tokens of the last answer of each row, its ground truth; empty for a row without one."""
    return [labels[slice(*_last_answer(labels))].tolist() for labels in batch["labels"]]


def _last_answer(labels: Tensor) -> tuple[int, int]:
    """Start and end of the last run of supervised tokens; ``(0, 0)`` without one."""
    supervised = labels != IGNORE_INDEX
    if not supervised.any():
        return 0, 0
    last = int(supervised.nonzero()[-1])
    before = (~supervised[:last]).nonzero()
    return int(before[-1]) + 1 if len(before) else 0, last + 1


def sample(
    model: nn.Module,
    batches: Sequence[Batch],
    *,
    settings: Mapping[str, Any],
    seed: int,
    synced_gpus: bool = False,
    opening: Sequence[int] = (),
    cutoff_len: int | None = None,
) -> Rollouts:
    """Samples one answer to every prompt of ``batches`` in one call of ``generate``.

    Args:
        model: The student in evaluation mode, wrapped by an engine or not.
        batches: Collated training batches, padded on the right.
        settings: Arguments of ``generate``, from :func:`..generation.decode.generation_settings`.
        seed: Of the sampling.
        synced_gpus: All ranks run the model together (ZeRO-3, FSDP).
        opening: What the chat template writes before an answer.
        cutoff_len: The recipe's, the limit of prompt and answer together. A row of that length whose prompt has no
            ``opening`` was cut, and is not sampled.

    Raises:
        ValueError: If a batch has a tensor by token that is not understood.
    """
    config, device = base_model(model).config, next(model.parameters()).device
    prompts = [prompt for batch in batches for prompt in prompts_of(batch)]
    if cutoff_len is not None:
        lengths = [int(mask.sum()) for batch in batches for mask in batch["attention_mask"]]
        ends = [prompt[len(prompt) - len(opening) :] == list(opening) for prompt in prompts]
        found = zip(prompts, lengths, ends, strict=True)
        prompts = [prompt if whole or length < cutoff_len else [] for prompt, length, whole in found]
    limit = settings["max_new_tokens"]
    room = [limit if cutoff_len is None else min(limit, cutoff_len - len(prompt)) for prompt in prompts]
    sizes = [(len(batch["labels"]), batch.get(REPEATED, 0)) for batch in batches]
    real = [number < size - repeated for size, repeated in sizes for number in range(size)]
    rows = {row for row, prompt in enumerate(prompts) if prompt and room[row] > 0 and real[row]}
    answers: list[list[int]] = [[] for _ in prompts]
    if not rows and not synced_gpus:
        return Rollouts(answers, 0, 0)
    if len(rows) < len(prompts):  # media belong to rows by order: keep every row, and drop the answer afterwards
        filler = [int(settings["pad_token_id"])]
        prompts = [prompt or _whole_row(batches, row) or filler for row, prompt in enumerate(prompts)]
    media, hidden = _joined_media(batches, config), [[] for _ in prompts]
    if synced_gpus and all(_has_dummy_media(batch, config) for batch in batches):
        # Other ranks may have images: the vision tower runs here, too, for the placeholder, with a mask of 0.
        media = {name: value for name, value in batches[0].items() if name.startswith(MEDIA_PREFIXES)}
        tokens = _dummy_tokens(batches[0], config, int(settings["pad_token_id"]))
        hidden[: len(tokens)] = tokens
    pairs = list(zip(hidden, prompts, strict=True))
    rows_of_ids = [torch.tensor([*before, *prompt]) for before, prompt in pairs]
    padded = _pad(rows_of_ids, int(settings["pad_token_id"]), left=True)
    mask = _pad([torch.tensor([0] * len(before) + [1] * len(prompt)) for before, prompt in pairs], 0, left=True)
    inputs = model_inputs(model, {"input_ids": padded, "attention_mask": mask, **media}, device)
    if settings["do_sample"]:
        seed_model(model, seed)
    with torch.no_grad():
        sequences = extract_model_from_parallel(model).generate(
            **inputs,
            **settings | {"max_new_tokens": max((room[row] for row in rows), default=1)},
            use_cache=True,
            synced_gpus=synced_gpus,
        )
    ends = set(settings["eos_token_id"] or [])
    media = {getattr(config, name, None) for name in MEDIA_TOKENS} - {None}
    ended = cut = truncated = 0
    for row, tokens in enumerate(sequences[:, padded.shape[1] :].tolist()):
        if row not in rows:
            continue
        tokens = tokens[: room[row]]
        stop = next((i for i, token in enumerate(tokens) if token in ends or token in media), None)
        if stop is None:
            answers[row], truncated = tokens, truncated + (room[row] < limit)
        elif tokens[stop] in ends:
            answers[row], ended = tokens[: stop + 1], ended + 1
        else:
            answers[row], cut = tokens[:stop], cut + 1
    return Rollouts(answers, ended, cut, truncated)


def with_rollouts(batch: Batch, answers: Sequence[Sequence[int]], model: nn.Module, pad_token_id: int) -> Batch:
    """The batch with ``answers[b]`` in place of row ``b``'s last answer, padded on the right.

    Positions are left to the model, which computes them from the new token types. The tokens of stock's placeholder
    image, which it appends with a mask of 0 to a batch without images, stay at the end of their row.

    Raises:
        ValueError: If the numbers of rows differ, or the batch has a tensor by token that is not understood.
    """
    _check_keys(batch)
    if len(answers) != len(batch["input_ids"]):
        raise ValueError(f"{len(answers)} rollouts for a batch of {len(batch['input_ids'])} rows.")
    hf_model = base_model(model)
    device, rows = batch["input_ids"].device, {name: [] for name in TOKEN_KEYS}
    tails = _dummy_tokens(batch, hf_model.config, pad_token_id)
    for prompt, answer, tail in zip(prompts_of(batch), answers, tails, strict=True):
        prompt = prompt or [pad_token_id]
        rows["input_ids"].append(torch.tensor([*prompt, *answer, *tail]))
        rows["attention_mask"].append(torch.tensor([1] * (len(prompt) + len(answer)) + [0] * len(tail)))
        ignored = [IGNORE_INDEX]
        rows["labels"].append(torch.tensor([*ignored * len(prompt), *answer, *ignored * len(tail)]))
    fillers = {"input_ids": pad_token_id, "attention_mask": 0, "labels": IGNORE_INDEX}
    new = {key: value for key, value in batch.items() if key not in TOKEN_KEYS + RECOMPUTED_KEYS}
    for name, filler in fillers.items():
        new[name] = _pad(rows[name], filler, multiple=PAD_TO_MULTIPLE_OF).to(device, dtype=batch[name].dtype)
    if "mm_token_type_ids" in signature(type(hf_model).forward).parameters:
        new["mm_token_type_ids"] = token_types(hf_model.config, new["input_ids"])
    return new


def _check_keys(batch: Batch) -> None:
    """Raises ValueError for tensors with one entry a token that a rollout would make wrong."""
    shape = batch["input_ids"].shape
    unknown = [
        name
        for name, value in batch.items()
        if name not in TOKEN_KEYS + RECOMPUTED_KEYS
        and not name.startswith(MEDIA_PREFIXES)
        and isinstance(value, Tensor)
        and value.shape[:2] == shape
    ]
    if unknown or batch["attention_mask"].dim() != 2 or int(batch["attention_mask"].max()) > 1:
        found = ", ".join(unknown) or "an attention mask of packed rows"
        raise ValueError(
            f"`kd_on_policy` cannot replace the answers of this model's batches: {found} depends on every token. Set "
            "`kd_on_policy: 0`, and `packing: false`."
        )


def _media_ids(config: Any) -> list[int]:
    return [getattr(config, name) for name in MEDIA_TOKENS[:3] if getattr(config, name, None) is not None]


def _has_dummy_media(batch: Batch, config: Any) -> bool:
    """Whether stock added a placeholder image or video, because no row of the batch has one."""
    is_media = torch.isin(batch["input_ids"], torch.tensor(_media_ids(config), device=batch["input_ids"].device))
    return bool((is_media & (batch["attention_mask"] == 0)).any())


def _dummy_tokens(batch: Batch, config: Any, pad_token_id: int) -> list[list[int]]:
    """The tokens of that placeholder in each row, usually none."""
    if not _has_dummy_media(batch, config):
        return [[] for _ in batch["input_ids"]]
    tails = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
        tail = ids[mask == 0].tolist()
        while tail and tail[-1] == pad_token_id:
            tail.pop()
        tails.append(tail)
    return tails


def _whole_row(batches: Sequence[Batch], row: int) -> list[int]:
    """All tokens of a row, counted over the batches."""
    for batch in batches:
        if row < len(batch["input_ids"]):
            return batch["input_ids"][row][batch["attention_mask"][row] != 0].tolist()
        row -= len(batch["input_ids"])
    raise IndexError(row)


def _joined_media(batches: Sequence[Batch], config: Any) -> dict[str, Any]:
    """The media tensors of all batches in the order of their rows, without placeholders."""
    joined: dict[str, list[Any]] = {}
    for batch in batches:
        _check_keys(batch)
        if _has_dummy_media(batch, config):
            continue
        for name, value in batch.items():
            if name not in (*TOKEN_KEYS, *RECOMPUTED_KEYS, REPEATED, CACHE_KEY) and value is not None:
                joined.setdefault(name, []).append(value)
    return {
        name: torch.cat(values) if isinstance(values[0], Tensor) else [item for value in values for item in value]
        for name, values in joined.items()
    }


def _pad(rows: Sequence[Tensor], filler: int, *, left: bool = False, multiple: int = 1) -> Tensor:
    """Rows ``[n_i]`` as one tensor ``[B, max n_i]``, int64, padded on one side to a multiple."""
    width = max(max((len(row) for row in rows), default=0), 1)
    width = -(-width // multiple) * multiple
    out = torch.full((len(rows), width), filler, dtype=torch.long)
    for line, row in zip(out, rows, strict=True):
        line[slice(width - len(row), width) if left else slice(len(row))] = row
    return out
