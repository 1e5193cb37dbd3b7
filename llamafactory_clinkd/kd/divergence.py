# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Divergences between teacher and student with their gradients in closed form.

With ``p`` the teacher's softmax, ``q = softmax(u)`` the student's, ``b`` beta and ``m = b * p + (1 - b) * q``:

=========== ============================================ ======================================
divergence  definition                                   gradient with respect to ``u``
=========== ============================================ ======================================
forward_kl  ``KL(p || q)``                               ``q - p``
reverse_kl  ``KL(q || p)``                               ``q * (log q - log p - KL(q || p))``
jsd         ``b * KL(p || m) + (1 - b) * KL(q || m)``    ``(1-b) * q * (log q - log m - KL(q || m))``
=========== ============================================ ======================================

Forward KL is Eq. 13-15 of the ClinKD paper. The generalised Jensen-Shannon divergence is Eq. 1 of GKD (Agarwal et al.,
"On-Policy Distillation of Language Models", ICLR 2024). At its ends it is 0 and useless; as in TRL, ``b = 0`` stands
for forward and ``b = 1`` for reverse KL.
"""

import math

import torch


DIVERGENCES = ("forward_kl", "reverse_kl", "jsd")
DEFAULT_BETA = 0.5


def beta_of(divergence: str, beta: float | None) -> float:
    """The weight ``b`` in [0, 1] of a divergence: 0 for forward KL, 1 for reverse KL, ``beta`` (or 0.5) for the JSD.

    Raises:
        ValueError: If the divergence is unknown, ``beta`` is out of range, or it is given without ``jsd``.
    """
    if divergence not in DIVERGENCES:
        raise ValueError(f"divergence is {divergence!r}; it must be one of {', '.join(DIVERGENCES)}.")
    if divergence != "jsd":
        if beta is not None:
            raise ValueError(f"beta is {beta}, but divergence {divergence!r} has none. Remove it, or choose 'jsd'.")
        return float(divergence == "reverse_kl")
    beta = DEFAULT_BETA if beta is None else beta
    if not 0 <= beta <= 1:
        raise ValueError(f"beta is {beta}; it must be between 0 (forward KL) and 1 (reverse KL).")
    return float(beta)


def divergence_(
    log_p: torch.Tensor, log_q: torch.Tensor, p: torch.Tensor, beta: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The divergence of each row and its gradient with respect to the student's logits; overwrites both logarithms.

    Args:
        log_p: The teacher's log-probabilities, ``[R, V]``, finite.
        log_q: The student's, ``[R, V]``, finite.
        p: ``exp(log_p)``; it stays as it is.
        beta: From :func:`beta_of`.

    Returns:
        Divergence ``[R]`` in nats, and gradient ``[R, V]``.
    """
    if beta == 0.0:
        value = torch.linalg.vecdot(p, log_p.sub_(log_q))
        return value, log_q.exp_().sub_(p)
    q = log_q.exp()
    if beta == 1.0:
        ratio = log_q.sub_(log_p)
        value = torch.linalg.vecdot(q, ratio)
        return value, q.mul_(ratio.sub_(value[:, None]))
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    ratio = log_q.sub_(log_m)
    student = torch.linalg.vecdot(q, ratio)
    value = beta * torch.linalg.vecdot(p, log_p.sub_(log_m)) + (1 - beta) * student
    return value, q.mul_(ratio.sub_(student[:, None])).mul_(1 - beta)
