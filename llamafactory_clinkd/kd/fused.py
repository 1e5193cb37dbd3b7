# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Cross-entropy and Kullback-Leibler divergence of row chunks, with their gradient in closed form.

What is unusual here: nothing goes through autograd. One pass projects a chunk of rows with both heads, computes the
loss of Eq. 12-16 of the ClinKD paper and its gradient while the logits are still there, and forgets them. So memory
does not grow with the number of rows, and the student's projection is shared by both terms.

With ``z`` the student's logits, ``y`` the label, ``p_t`` and ``p_s`` the softmaxes of Eq. 15 and ``a`` the weight of
Eq. 16, the gradient of one row is
``dL/dz = [softmax(z) - onehot(y) + a * s / T * (p_s - p_t)] / (1 + a)`` where ``s`` is ``T^2`` (Eq. 13) or 1.

Legend of shapes: ``R`` rows of a chunk, ``H`` a hidden size, ``V`` a vocabulary, ``K`` the ids that both have.
"""

from typing import NamedTuple

import torch

from .matmul import compute_dtype, grad_head_, grad_rows_, operand_dtype, project_


# Two logit buffers of one chunk (teacher, student) fit in this many bytes, ...
CHUNK_BYTES = 224 * 2**20
# ... and one temporary of the element-wise part in this (per thread on CPU, where staying in cache halves the time).
BLOCK_BYTES = {"cpu": 2 * 2**20, "cuda": 32 * 2**20}


class Terms(NamedTuple):
    """What Eq. 13-16 need besides logits and labels."""

    alpha: float
    """Weight of the distillation term, Eq. 16."""
    temperature: float
    """T of Eq. 15."""
    kd_scale: float
    """T^2 (Eq. 13) or 1."""
    noise_std: float
    """Standard deviation of epsilon_t and epsilon_s in Eq. 14."""
    generator: torch.Generator | None
    """Where the noise comes from; None is the global generator of the logits' device."""


class Sums(NamedTuple):
    """Row sums and the gradient of ``(sum CE + alpha * sum KD) / (1 + alpha)``, all in fp32 (fp64 for fp64 input)."""

    stats: torch.Tensor
    """``[5]``: CE, KD (with T^2), top-1 agreements, teacher entropy, teacher mass outside the shared ids."""
    grad_rows: torch.Tensor | None
    """Gradient for the rows given: ``[n, H]`` for hidden states, ``[n, V]`` for logits."""
    grad_head: torch.Tensor | None = None
    """``[V, H]``."""
    grad_bias: torch.Tensor | None = None
    """``[V]``."""


def distill_block_(
    z: torch.Tensor, t: torch.Tensor | None, labels: torch.Tensor, terms: Terms, need_grad: bool
) -> torch.Tensor:
    """Loss terms of a few rows; overwrites both logit tensors.

    Args:
        z: Student logits ``[R, V_s]``; holds their gradient afterwards if ``need_grad``, else is spoilt.
        t: Teacher logits ``[R, V_t]`` or None for cross-entropy alone; spoilt.
        labels: ``[R]`` int64, each in ``[0, V_s)``.
        terms: Constants of Eq. 13-16.
        need_grad: Whether to leave the gradient in ``z``.

    Returns:
        ``[5, R]``, the columns of :attr:`Sums.stats` for each row.
    """
    stats = z.new_zeros(5, z.shape[0])
    log_p = torch.log_softmax(z, dim=-1)
    stats[0] = -log_p.gather(1, labels[:, None]).squeeze(1)
    if t is not None:
        shared = min(z.shape[1], t.shape[1])
        z_k, t_k = z[:, :shared], t[:, :shared]
        top = t_k.argmax(dim=-1, keepdim=True)
        stats[2] = (z_k.gather(1, top) >= z_k.amax(dim=-1, keepdim=True)).squeeze(1)
        if t.shape[1] > shared:
            scaled = t / terms.temperature
            stats[4] = (scaled[:, shared:].logsumexp(dim=-1) - scaled.logsumexp(dim=-1)).exp()
        if terms.noise_std > 0:
            noise = _row_noise(z.shape[0], shared, z, terms)
            t_k.add_(noise[:, 0])
            z_k.add_(noise[:, 1])
        # A logit of -inf (a masked id) has no mass: the clamp turns 0 * inf into 0.
        lowest = torch.finfo(z.dtype).min
        log_ps = torch.log_softmax(z_k / terms.temperature, dim=-1).clamp_(min=lowest)
        log_pt = torch.log_softmax(t_k / terms.temperature, dim=-1).clamp_(min=lowest)
        p_t = log_pt.exp()
        stats[3] = -torch.linalg.vecdot(p_t, log_pt)
        stats[1] = torch.linalg.vecdot(p_t, log_pt.sub_(log_ps)) * terms.kd_scale
    if need_grad:
        torch.exp(log_p, out=z)
        if t is not None:
            z_k.add_(log_ps.exp_().sub_(p_t), alpha=terms.alpha * terms.kd_scale / terms.temperature)
        # The gradient of a softmax sums to 0. Late in training 1 - p(label) has no digits left; the others have all.
        z.scatter_(1, labels[:, None], 0.0)
        z.scatter_(1, labels[:, None], -z.sum(dim=-1, keepdim=True))
        z.mul_(1 / (1 + terms.alpha))
    return stats


def distill_chunk_(
    z: torch.Tensor, t: torch.Tensor | None, labels: torch.Tensor, terms: Terms, need_grad: bool
) -> torch.Tensor:
    """:func:`distill_block_` over a whole chunk, a few rows at a time so that the temporaries stay small."""
    budget = BLOCK_BYTES.get(z.device.type, BLOCK_BYTES["cuda"])
    budget *= torch.get_num_threads() if z.device.type == "cpu" else 1
    step = max(1, budget // (z.shape[1] * z.element_size()))
    stats = [
        distill_block_(z[i : i + step], None if t is None else t[i : i + step], labels[i : i + step], terms, need_grad)
        for i in range(0, z.shape[0], step)
    ]
    return torch.cat(stats, dim=1)


def distill_hidden(
    hidden: torch.Tensor,
    head: torch.Tensor,
    bias: torch.Tensor | None,
    teacher: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None,
    labels: torch.Tensor,
    terms: Terms,
    chunk: int | None,
    need: tuple[bool, bool, bool],
    autocast: torch.dtype | None = None,
) -> Sums:
    """Loss and gradient of supervised rows from hidden states and head weights.

    Args:
        hidden: ``[n, H_s]``, supervised rows only.
        head: ``[V_s, H_s]``.
        bias: ``[V_s]`` or None.
        teacher: ``(hidden [n, H_t], head [V_t, H_t], bias [V_t] or None)`` or None.
        labels: ``[n]`` int64 in ``[0, V_s)``.
        terms: Constants of Eq. 13-16.
        chunk: Rows projected at once; None picks :func:`default_chunk`.
        need: Which gradients are wanted: of hidden, head, bias.
        autocast: The dtype of the autocast that the caller is in, else None. Autocast itself must be off here.
    """
    compute = compute_dtype(hidden, head)
    operand = operand_dtype(hidden, head, compute, autocast)
    n, widths = len(labels), [head.shape[0]] + ([teacher[1].shape[0]] if teacher else [])
    chunk = max(1, min(n, chunk or default_chunk(widths, compute)))
    z_buffer = hidden.new_empty(chunk, widths[0], dtype=compute)
    t_buffer = hidden.new_empty(chunk, widths[1], dtype=compute) if teacher else None
    grad_rows = hidden.new_empty(hidden.shape, dtype=compute) if need[0] else None
    grad_head = torch.zeros_like(head, dtype=compute) if need[1] else None
    grad_bias = head.new_zeros(widths[0], dtype=compute) if need[2] else None
    stats = hidden.new_zeros(5, dtype=compute)
    for start in range(0, n, chunk):
        rows = slice(start, min(start + chunk, n))
        size = rows.stop - rows.start
        z = project_(hidden[rows], head, bias, z_buffer[:size], operand)
        t = None
        if teacher:
            teacher_operand = operand_dtype(teacher[0], teacher[1], compute, autocast)
            t = project_(teacher[0][rows], teacher[1], teacher[2], t_buffer[:size], teacher_operand)
        stats += distill_chunk_(z, t, labels[rows], terms, any(need)).sum(dim=1)
        if need[0]:
            grad_rows_(z, head, grad_rows[rows], operand)
        if need[1]:
            grad_head_(z, hidden[rows], grad_head, operand)
        if need[2]:
            grad_bias += z.sum(dim=0)
    return Sums(stats, grad_rows, grad_head, grad_bias)


def distill_logits(
    logits: torch.Tensor,
    teacher: torch.Tensor | None,
    rows: torch.Tensor,
    labels: torch.Tensor,
    terms: Terms,
    chunk: int | None,
    need_grad: bool,
) -> Sums:
    """:func:`distill_hidden` for logits that are already there.

    Args:
        logits: ``[N, V_s]``.
        teacher: ``[N, V_t]`` or None.
        rows: ``[n]`` int64, the supervised rows.
        labels: ``[n]``, their labels.
        terms: Constants of Eq. 13-16.
        chunk: Rows upcast at once.
        need_grad: Whether the gradient, ``[n, V_s]`` in the dtype of ``logits``, is wanted.
    """
    compute = torch.float64 if logits.dtype == torch.float64 else torch.float32
    widths = [logits.shape[1]] + ([] if teacher is None else [teacher.shape[1]])
    chunk = chunk or default_chunk(widths, compute)
    grad_rows = logits.new_empty(len(rows), logits.shape[1]) if need_grad else None
    stats = logits.new_zeros(5, dtype=compute)
    for start in range(0, len(rows), chunk):
        picked = rows[start : start + chunk]
        z = logits[picked].to(compute)
        t = None if teacher is None else teacher[picked].to(compute)
        stats += distill_chunk_(z, t, labels[start : start + chunk], terms, need_grad).sum(dim=1)
        if need_grad:
            grad_rows[start : start + chunk] = z
    return Sums(stats, grad_rows)


def default_chunk(widths: list[int], dtype: torch.dtype) -> int:
    """Rows whose logits, for every vocabulary in ``widths``, fit into :data:`CHUNK_BYTES` together."""
    return max(1, CHUNK_BYTES // (sum(widths) * dtype.itemsize))


def _row_noise(rows: int, width: int, like: torch.Tensor, terms: Terms) -> torch.Tensor:
    """Gaussian noise ``[R, 2, K]`` (teacher, student), drawn row by row: where chunks end does not matter."""
    device = like.device if terms.generator is None else terms.generator.device
    drawn = [torch.randn(2, width, generator=terms.generator, device=device, dtype=like.dtype) for _ in range(rows)]
    return torch.stack(drawn).to(like.device).mul_(terms.noise_std)
