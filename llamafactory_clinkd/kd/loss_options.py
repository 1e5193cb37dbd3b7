# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The options of the distillation loss, and what is refused of them and of its input."""

from typing import NamedTuple

import torch

from ..training.lm_head import IGNORE_INDEX
from .divergence import beta_of
from .fused_linear import Projection
from .partition import TopLogprobs


class LossOptions(NamedTuple):
    """The options of :func:`.loss.distill_loss`."""

    alpha: float
    temperature: float
    temperature_squared: bool = True
    noise_std: float = 0.0
    generator: torch.Generator | None = None
    num_items: int | float | torch.Tensor | None = None
    chunk_size: int | None = None
    divergence: str = "forward_kl"
    beta: float | None = None
    on_policy: torch.Tensor | bool | None = None
    teacher_top: TopLogprobs | None = None


def check_options(options: LossOptions, teacher: Projection | None) -> None:
    """Raises ValueError for an option out of range, or that does not go with the others."""
    if not options.alpha >= 0:
        raise ValueError(f"alpha is {options.alpha}; it must be at least 0 (the paper uses 0.5).")
    if not options.temperature > 0:
        raise ValueError(f"temperature is {options.temperature}; it must be above 0 (the paper uses 0.5).")
    if not options.noise_std >= 0:
        raise ValueError(f"noise_std is {options.noise_std}; it must be at least 0, and 0 switches the noise off.")
    if options.chunk_size is not None and options.chunk_size < 1:
        raise ValueError(f"chunk_size is {options.chunk_size}; it must be at least 1, or None to choose by memory.")
    beta_of(options.divergence, options.beta)
    if options.teacher_top is not None:
        if teacher is not None or options.temperature != 1 or options.noise_std:
            raise ValueError(
                "teacher_top stands in place of a teacher's logits, at temperature 1 and without noise: the logits "
                f"behind its tail are unknown. Found temperature {options.temperature}, noise_std {options.noise_std}."
            )
        return
    if teacher is None and options.on_policy is not None:
        raise ValueError("on_policy marks rows without a ground truth, but there is no teacher. Pass one.")
    if teacher is None and options.alpha != 0:
        raise ValueError(f"alpha is {options.alpha} but there is no teacher. Pass one, or alpha=0 for plain CE.")


def check_projection(who: str, side: Projection, labels: torch.Tensor) -> None:
    """Raises ValueError if the shapes of one side do not fit."""
    x, weight, bias = side
    kind = "logits" if weight is None else "hidden"
    if labels.dim() != 1 or x.dim() != 2 or x.shape[0] != labels.shape[0]:
        raise ValueError(
            f"{who}_{kind} is {list(x.shape)} and labels are {list(labels.shape)}; expected [N, width] and [N] with "
            "one N. Flatten batch and sequence first."
        )
    if weight is not None and (weight.dim() != 2 or weight.shape[1] != x.shape[1]):
        raise ValueError(
            f"{who}_head is {list(weight.shape)}, but {who}_hidden is {list(x.shape)}; expected "
            f"[V, {x.shape[1]}]. Under ZeRO-3 or FSDP gather the weight first."
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"{who}_bias is {list(bias.shape)}; expected [{weight.shape[0]}].")


def check_top(top: TopLogprobs, labels: torch.Tensor, vocabulary: int) -> None:
    """Raises ValueError if a teacher's likeliest ids are not the student's, or their shapes do not fit."""
    if top.ids.dim() != 2 or top.ids.shape != top.logprobs.shape or len(top.ids) != len(labels):
        raise ValueError(
            f"teacher_top has ids {list(top.ids.shape)} and logprobs {list(top.logprobs.shape)} for {len(labels)} "
            "rows; expected [N, k] twice."
        )
    if top.ids.numel() and not (0 <= int(top.ids.min()) and int(top.ids.max()) < vocabulary):
        raise ValueError(
            f"The teacher's likeliest ids span {int(top.ids.min())} to {int(top.ids.max())}, but the student has "
            f"{vocabulary} ids. Distil from a teacher with the student's tokenizer."
        )


def supervised_rows(labels: torch.Tensor, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the supervised rows and their labels, both ``[n]``."""
    rows = (labels != IGNORE_INDEX).nonzero().squeeze(1)
    row_labels = labels[rows]
    if len(rows) and not (0 <= int(row_labels.min()) and int(row_labels.max()) < vocabulary):
        raise ValueError(
            f"labels span {int(row_labels.min())} to {int(row_labels.max())}, but the student has {vocabulary} ids. "
            f"Use {IGNORE_INDEX} for rows without supervision, and check that the tokenizer is the student's."
        )
    return rows, row_labels
