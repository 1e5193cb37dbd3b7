# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The distillation loss of Pseudo-KD (ClinKD paper, section 3.2, Eq. 12-16), exact over the whole vocabulary.

``L = (L_CE + alpha * L_KD) / (1 + alpha)`` with ``L_KD = T^2 * KL(p_t || p_s)``. Two functions give the same result:
:func:`distill_loss` from hidden states and head weights, whose memory does not grow with the number of tokens, and
:func:`logits_distill_loss` for models whose logits are not a plain product with a head (soft-capped, scaled, ...).

Both compute the gradient in the forward pass (see :mod:`llamafactory_clinkd.kd.fused_linear`) and scale it in
backward. Rows whose label is -100 are never projected; a weight that does not require a gradient costs none.
With ``z`` the student's logits, ``y`` the label, ``p_t`` and ``p_s`` the softmaxes of Eq. 15 and ``a`` the weight of
Eq. 16, the gradient of one row is
``dL/dz = [softmax(z) - onehot(y) + a * s / T * (p_s - p_t)] / (1 + a)`` where ``s`` is ``T^2`` (Eq. 13) or 1.
"""

import functools
from typing import Any, NamedTuple

import torch

from .fused_linear import PrecomputedGradient, Projection, fused_linear_loss


IGNORE_INDEX = -100


class DistillLoss(NamedTuple):
    """Result of a distillation loss; every field is a tensor of shape ``[]``, and only ``loss`` carries a graph.

    ``loss``, ``ce`` and ``kl`` are sums over the supervised rows divided by ``num_items``, so they add up over the
    micro-batches of an accumulation window, and ``loss == (ce + alpha * kl) / (1 + alpha)``. The three figures after
    them are means over the rows of this call; weight them by ``items`` to combine calls.
    """

    loss: torch.Tensor
    """Eq. 16."""
    ce: torch.Tensor
    """L_CE of Eq. 12, in nats."""
    kl: torch.Tensor
    """L_KD of Eq. 13 (with T^2 unless switched off), in nats; 0 without a teacher."""
    agreement: torch.Tensor
    """Share of rows in which the teacher's most likely shared id is also the student's, without noise."""
    teacher_entropy: torch.Tensor
    """Entropy of the teacher's distribution of Eq. 15, in nats."""
    teacher_dropped_mass: torch.Tensor
    """Teacher's probability, at temperature T, of ids that the student lacks; 0 if it lacks none."""
    items: torch.Tensor
    """Supervised rows of this call, int64."""


def distill_loss(
    student_hidden: torch.Tensor,
    student_head: torch.Tensor,
    teacher_hidden: torch.Tensor | None,
    teacher_head: torch.Tensor | None,
    labels: torch.Tensor,
    *,
    alpha: float,
    temperature: float,
    temperature_squared: bool = True,
    noise_std: float = 0.0,
    generator: torch.Generator | None = None,
    num_items: int | float | torch.Tensor | None = None,
    student_bias: torch.Tensor | None = None,
    teacher_bias: torch.Tensor | None = None,
    chunk_size: int | None = None,
) -> DistillLoss:
    """Eq. 16 from final hidden states and head weights, in chunks of rows.

    Projection, softmax and gradient are fp32 for fp32, bf16 and fp16 input (operands of a product stay bf16 on CUDA,
    the accumulator is fp32) and fp64 for fp64 input. Vocabularies of different width are compared on their first
    ``min(V_s, V_t)`` ids, both softmaxes renormalised there; CE uses all of the student's.

    Args:
        student_hidden: ``[N, H_s]``, floating point.
        student_head: ``[V_s, H_s]``; may be a tied embedding.
        teacher_hidden: ``[N, H_t]`` or None for plain cross-entropy (then ``alpha`` must be 0).
        teacher_head: ``[V_t, H_t]`` or None. The teacher never gets a gradient.
        labels: ``[N]`` int64, already shifted: row ``i`` predicts ``labels[i]``; -100 is ignored.
        alpha: Weight of the distillation term, Eq. 16, at least 0.
        temperature: T of Eq. 15, above 0.
        temperature_squared: Whether Eq. 13's factor T^2 is applied.
        noise_std: Standard deviation of the Gaussian epsilon_t, epsilon_s of Eq. 14, added to the logits before the
            division by T; the cross-entropy sees none. Drawn row by row, so ``chunk_size`` does not change it.
        generator: Source of the noise (CPU or the tensors' device); None is the device's global one.
        num_items: Denominator, normally the supervised tokens of the accumulation window on all ranks; None is the
            supervised rows of this call.
        student_bias: ``[V_s]`` or None.
        teacher_bias: ``[V_t]`` or None.
        chunk_size: Rows projected at once; None keeps both logit buffers within 224 MiB.

    Returns:
        The loss and its terms. If every label is -100 the loss is 0 and its gradient finite and 0.

    Raises:
        ValueError: If an option is out of range, shapes do not fit, a label is outside the student's vocabulary, or
            ``alpha`` is above 0 without a teacher.
    """
    if (teacher_hidden is None) != (teacher_head is None):
        raise ValueError("teacher_hidden and teacher_head belong together: pass both, or None for both.")
    return _distill(
        Projection(student_hidden, student_head, student_bias),
        None if teacher_hidden is None else Projection(teacher_hidden, teacher_head, teacher_bias),
        labels,
        alpha=alpha,
        temperature=temperature,
        temperature_squared=temperature_squared,
        noise_std=noise_std,
        generator=generator,
        num_items=num_items,
        chunk_size=chunk_size,
    )


def logits_distill_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, labels: torch.Tensor, **options: Any
) -> DistillLoss:
    """:func:`distill_loss` from logits: student ``[N, V_s]``, teacher ``[N, V_t]`` or None.

    Softmax and loss are fp32 (fp64 for fp64 logits); the gradient has the dtype of ``student_logits``. Half-precision
    logits are already rounded; prefer :func:`distill_loss` where the head can be used directly.

    Args:
        student_logits: ``[N, V_s]``, floating point.
        teacher_logits: ``[N, V_t]`` or None. They never get a gradient.
        labels: ``[N]`` int64, already shifted; -100 is ignored.
        **options: ``alpha``, ``temperature``, ``temperature_squared``, ``noise_std``, ``generator``, ``num_items`` and
            ``chunk_size`` of :func:`distill_loss`, with the same defaults.

    Raises:
        ValueError: As :func:`distill_loss`.
    """
    teacher = None if teacher_logits is None else Projection(teacher_logits)
    return _distill(Projection(student_logits), teacher, labels, **options)


def _distill(
    student: Projection,
    teacher: Projection | None,
    labels: torch.Tensor,
    *,
    alpha: float,
    temperature: float,
    temperature_squared: bool = True,
    noise_std: float = 0.0,
    generator: torch.Generator | None = None,
    num_items: int | float | torch.Tensor | None = None,
    chunk_size: int | None = None,
) -> DistillLoss:
    """Checks the input, computes sums and gradients, normalises them and ties them to the graph."""
    _check_options(alpha, temperature, noise_std, chunk_size, teacher)
    _check_projection("student", student, labels)
    if teacher is not None:
        _check_projection("teacher", teacher, labels)
        teacher = teacher.detach()
    rows, row_labels = _supervised_rows(labels, student.width)
    kernel = functools.partial(
        _ce_kl_block_,
        alpha=alpha,
        temperature=temperature,
        kd_scale=temperature**2 if temperature_squared else 1.0,
        noise_std=noise_std,
        generator=generator,
    )
    need = tuple(torch.is_grad_enabled() and x is not None and x.requires_grad for x in student)
    device = student.x.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    options = {"need": need, "chunk_size": chunk_size, "autocast": autocast}
    with torch.no_grad(), torch.autocast(device, enabled=False):
        sums, gradients = fused_linear_loss(student.detach(), teacher, rows, row_labels, kernel, **options)

    count = len(rows)
    if num_items is None or count == 0:
        num_items = max(count, 1)
    elif not isinstance(num_items, torch.Tensor) and num_items <= 0:
        raise ValueError(f"num_items is {num_items} with {count} supervised rows; it must be above 0.")
    denominator = torch.as_tensor(num_items, dtype=sums.dtype, device=sums.device)
    ce, kl = sums[0] / denominator, sums[1] / denominator
    loss = PrecomputedGradient.apply((ce + alpha * kl) / (1 + alpha), *student, rows, denominator, *gradients)
    means = (sums[2:] / max(count, 1)).unbind()
    return DistillLoss(loss, ce, kl, *means, torch.tensor(count, device=sums.device))


def _ce_kl_block_(
    z: torch.Tensor,
    t: torch.Tensor | None,
    labels: torch.Tensor,
    need_grad: bool,
    *,
    alpha: float,
    temperature: float,
    kd_scale: float,
    noise_std: float,
    generator: torch.Generator | None,
) -> torch.Tensor:
    """The :data:`.fused_linear.Kernel`: Eq. 12-16 for a few rows, ``kd_scale`` is T^2 or 1.

    Returns ``[5, R]``: CE, KD (scaled), top-1 agreement, teacher entropy, teacher mass outside the shared ids.
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
            scaled = t / temperature
            stats[4] = (scaled[:, shared:].logsumexp(dim=-1) - scaled.logsumexp(dim=-1)).exp()
        if noise_std > 0:  # drawn row by row: the ends of chunks do not matter
            device = z.device if generator is None else generator.device
            noise = [torch.randn(2, shared, generator=generator, device=device, dtype=z.dtype) for _ in range(len(z))]
            noise = torch.stack(noise).to(z.device).mul_(noise_std)
            t_k.add_(noise[:, 0])
            z_k.add_(noise[:, 1])
        # A logit of -inf (a masked id) has no mass: the clamp turns 0 * inf into 0.
        lowest = torch.finfo(z.dtype).min
        log_ps = torch.log_softmax(z_k / temperature, dim=-1).clamp_(min=lowest)
        log_pt = torch.log_softmax(t_k / temperature, dim=-1).clamp_(min=lowest)
        p_t = log_pt.exp()
        stats[3] = -torch.linalg.vecdot(p_t, log_pt)
        stats[1] = torch.linalg.vecdot(p_t, log_pt.sub_(log_ps)) * kd_scale
    if need_grad:
        torch.exp(log_p, out=z)
        if t is not None:
            z_k.add_(log_ps.exp_().sub_(p_t), alpha=alpha * kd_scale / temperature)
        # The gradient of a softmax sums to 0. Late in training 1 - p(label) has no digits left; the others have all.
        z.scatter_(1, labels[:, None], 0.0)
        z.scatter_(1, labels[:, None], -z.sum(dim=-1, keepdim=True))
        z.mul_(1 / (1 + alpha))
    return stats


def _check_options(alpha: float, temperature: float, noise_std: float, chunk_size: int | None, teacher: Any) -> None:
    if not alpha >= 0:
        raise ValueError(f"alpha is {alpha}; it must be at least 0 (the paper uses 0.5).")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0 (the paper uses 0.5).")
    if not noise_std >= 0:
        raise ValueError(f"noise_std is {noise_std}; it must be at least 0, and 0 switches the noise off.")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; it must be at least 1, or None to choose by memory.")
    if teacher is None and alpha != 0:
        raise ValueError(f"alpha is {alpha} but there is no teacher. Pass the teacher, or alpha=0 for plain CE.")


def _check_projection(who: str, side: Projection, labels: torch.Tensor) -> None:
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


def _supervised_rows(labels: torch.Tensor, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the supervised rows and their labels, both ``[n]``."""
    rows = (labels != IGNORE_INDEX).nonzero().squeeze(1)
    row_labels = labels[rows]
    if len(rows) and not (0 <= int(row_labels.min()) and int(row_labels.max()) < vocabulary):
        raise ValueError(
            f"labels span {int(row_labels.min())} to {int(row_labels.max())}, but the student has {vocabulary} ids. "
            f"Use {IGNORE_INDEX} for rows without supervision, and check that the tokenizer is the student's."
        )
    return rows, row_labels
