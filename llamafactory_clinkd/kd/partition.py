# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The divergence between a student and a teacher of which only the likeliest ids are known.

At each position the vocabulary is divided into the teacher's ``k`` likeliest ids and one cell, the tail, with all the
others. On these ``k + 1`` cells the divergence is exact. By the data processing inequality it is at most that over the
vocabulary, and equal to it for ``k = V``, where there is no tail.

With ``u`` the logarithms of the student's masses of the cells, and ``g = dD/du`` of :mod:`.divergence`, the gradient
with respect to its logits is ``g_j`` for an id ``j`` with a cell of its own, and ``g_tail * exp(z_j - z_tail)`` for
the others, where ``z_tail`` is the log-sum-exp of their logits.
"""

import math
from typing import NamedTuple

import torch

from .divergence import divergence_


# A server's log-probabilities are fp32: one minus their sum has no smaller value that is not rounding.
SMALLEST_TAIL = torch.finfo(torch.float32).eps


class TopLogprobs(NamedTuple):
    """A teacher's likeliest ids, the likeliest first and none twice, of ``N`` rows."""

    ids: torch.Tensor
    """``[N, k]`` int64."""
    logprobs: torch.Tensor
    """``[N, k]``, their natural-log probabilities among all of the teacher's ids, floating point and finite."""


def partition_divergence(
    z: torch.Tensor, top: TopLogprobs, beta: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The divergence of each row on the cells and its gradient with respect to the student's logits ``z`` ``[R, V]``.

    Returns:
        Divergence ``[R]``, gradient ``[R, V]``, entropy of the teacher's cells ``[R]``, in nats.
    """
    log_p, log_q = top.logprobs.to(z.dtype), z.gather(1, top.ids)
    has_tail = top.ids.shape[1] < z.shape[1]
    if has_tail:
        tail = (1 - top.logprobs.double().exp().sum(dim=1, keepdim=True)).clamp_(min=SMALLEST_TAIL).log()
        log_p = torch.cat([log_p, tail.to(z.dtype)], dim=1)
        z_tail = z.scatter(1, top.ids, -math.inf).logsumexp(dim=1, keepdim=True)
        log_q = torch.cat([log_q, z_tail], dim=1)
    lowest = torch.finfo(z.dtype).min  # an id or tail with a logit of -inf has no mass
    log_p = torch.log_softmax(log_p, dim=1).clamp_(min=lowest)
    log_q = torch.log_softmax(log_q, dim=1).clamp_(min=lowest)
    p = log_p.exp()
    entropy = -torch.linalg.vecdot(p, log_p)
    divergence, cells = divergence_(log_p, log_q, p, beta)
    if not has_tail:
        return divergence, torch.zeros_like(z).scatter_(1, top.ids, cells), entropy
    gradient = (z - z_tail.clamp(min=lowest)).clamp_(max=0).exp_().mul_(cells[:, -1:])
    return divergence, gradient.scatter_(1, top.ids, cells[:, :-1]), entropy
