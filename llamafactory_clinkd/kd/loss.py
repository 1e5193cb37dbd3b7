# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The distillation loss of Pseudo-KD (ClinKD paper, section 3.2, Eq. 12-16), exact over the whole vocabulary.

``L = (L_CE + alpha * L_KD) / (1 + alpha)`` with ``L_KD = T^2 * KL(p_t || p_s)``. Two functions give the same result:
:func:`distill_loss` from hidden states and head weights, whose memory does not grow with the number of tokens, and
:func:`logits_distill_loss` for models whose logits are not a plain product with a head (soft-capped, scaled, ...).

Both compute the gradient in the forward pass (see :mod:`llamafactory_clinkd.kd.fused_linear`) and scale it in
backward. Rows whose label is -100 are never projected; a weight that does not require a gradient costs none.
With ``z`` the student's logits, ``y`` the label, ``a`` alpha, ``s`` either ``T^2`` (Eq. 13) or 1, and ``g`` the
gradient of the divergence (:mod:`.divergence`; ``p_s - p_t`` for Eq. 13), one row has
``dL/dz = [softmax(z) - onehot(y) + a * s / T * g] / (1 + a)``.

A row that the student sampled itself (on-policy) has no ground truth: its loss is ``L_KD`` alone.
"""

import functools
from typing import Any, NamedTuple

import torch

from .divergence import beta_of, divergence_
from .fused_linear import PrecomputedGradient, Projection, fused_linear_loss
from .loss_options import LossOptions, check_options, check_projection, check_top, supervised_rows
from .partition import TopLogprobs, partition_divergence


class DistillLoss(NamedTuple):
    """Result of a distillation loss; every field is a tensor of shape ``[]``, and only ``loss`` carries a graph.

    ``loss``, ``ce`` and ``kl`` are sums over the supervised rows divided by ``num_items``: they add up over the
    micro-batches of a window, and ``loss == (ce + alpha * kl) / (1 + alpha) + kl_on_policy``. The three after
    ``kl_on_policy`` are means over the rows of this call; weight them by ``items`` to combine calls.
    """

    loss: torch.Tensor
    """Eq. 16."""
    ce: torch.Tensor
    """L_CE of Eq. 12, in nats, over the rows that are not on-policy."""
    kl: torch.Tensor
    """L_KD of Eq. 13 (with T^2 unless switched off), in nats, over the same rows; 0 without a teacher."""
    kl_on_policy: torch.Tensor
    """L_KD over the on-policy rows; 0 without any."""
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
    divergence: str = "forward_kl",
    beta: float | None = None,
    on_policy: torch.Tensor | bool | None = None,
    teacher_top: TopLogprobs | None = None,
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
            division by T, for the KL only; drawn row by row, so ``chunk_size`` does not change it.
        generator: Source of the noise (CPU or the tensors' device); None is the device's global one.
        num_items: Denominator, normally the supervised tokens of the window on all ranks; None: the rows of this call.
        student_bias: ``[V_s]`` or None.
        teacher_bias: ``[V_t]`` or None.
        chunk_size: Rows projected at once; None keeps both logit buffers within 224 MiB.
        divergence: ``forward_kl`` (Eq. 13), ``reverse_kl`` or ``jsd``, see :mod:`.divergence`.
        beta: Weight of the teacher in the mixture of ``jsd``, 0 to 1; None is 0.5.
        on_policy: ``[N]`` bool, the rows that the student sampled; True for all, None for none. They have no
            cross-entropy, and their L_KD enters the loss with weight 1, whatever ``alpha`` is.
        teacher_top: In place of the teacher's hidden states and head, its likeliest ids of the ``N`` rows; L_KD is
            then that on the cells of :mod:`.partition`. Temperature 1, no noise.

    Returns:
        The loss and its terms. If every label is -100 the loss is 0 and its gradient finite and 0.

    Raises:
        ValueError: If an option is out of range, shapes do not fit, a label is outside the student's vocabulary,
            ``alpha`` is above 0 or a row is on-policy without a teacher, or the divergence is not finite.
    """
    if (teacher_hidden is None) != (teacher_head is None):
        raise ValueError("teacher_hidden and teacher_head belong together: pass both, or None for both.")
    student = Projection(student_hidden, student_head, student_bias)
    teacher = None if teacher_hidden is None else Projection(teacher_hidden, teacher_head, teacher_bias)
    options = LossOptions(
        alpha,
        temperature,
        temperature_squared,
        noise_std,
        generator,
        num_items,
        chunk_size,
        divergence,
        beta,
        on_policy,
        teacher_top,
    )
    return _distill(student, teacher, labels, options)


def logits_distill_loss(
    student_logits: torch.Tensor, teacher_logits: torch.Tensor | None, labels: torch.Tensor, **options: Any
) -> DistillLoss:
    """:func:`distill_loss` from logits ``[N, V_s]`` and ``[N, V_t]`` or None, with its errors and options but no bias.

    Softmax and loss are fp32 (fp64 for fp64 logits); the gradient has the dtype of ``student_logits``. Half-precision
    logits are already rounded; prefer :func:`distill_loss` where the head can be used directly.
    """
    teacher = None if teacher_logits is None else Projection(teacher_logits)
    return _distill(Projection(student_logits), teacher, labels, LossOptions(**options))


def _distill(
    student: Projection, teacher: Projection | None, labels: torch.Tensor, options: LossOptions
) -> DistillLoss:
    """Checks the input, computes sums and gradients, normalises them and ties them to the graph."""
    top = options.teacher_top
    check_options(options, teacher)
    check_projection("student", student, labels)
    if top is not None:
        check_top(top, labels, student.width)
    if teacher is not None:
        check_projection("teacher", teacher, labels)
        teacher = teacher.detach()
    rows, row_labels = supervised_rows(labels, student.width)
    if top is not None:
        top = TopLogprobs(top.ids[rows], top.logprobs[rows])
    if options.on_policy is True:
        row_labels = torch.stack([row_labels, torch.ones_like(row_labels)], dim=1)
    elif options.on_policy is not None:
        if options.on_policy.shape != labels.shape or options.on_policy.dtype != torch.bool:
            found = f"{list(options.on_policy.shape)} {options.on_policy.dtype}"
            raise ValueError(f"on_policy is {found}; expected bool of the labels' shape {list(labels.shape)}.")
        row_labels = torch.stack([row_labels, options.on_policy[rows].long()], dim=1)
    elif top is not None:
        row_labels = torch.stack([row_labels, torch.zeros_like(row_labels)], dim=1)
    if top is not None:
        row_labels = torch.cat([row_labels, torch.arange(len(rows), device=rows.device)[:, None]], dim=1)
    need = tuple(torch.is_grad_enabled() and x is not None and x.requires_grad for x in student)
    device = student.x.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    with torch.no_grad(), torch.autocast(device, enabled=False):
        sums, gradients = fused_linear_loss(
            student.detach(), teacher, rows, row_labels, functools.partial(_ce_kl_block_, options=options, top=top),
            stats=6, need=need, chunk_size=options.chunk_size, autocast=autocast,
        )  # fmt: skip

    alpha, num_items, count = options.alpha, options.num_items, len(rows)
    if num_items is None or count == 0:
        num_items = max(count, 1)
    elif not isinstance(num_items, torch.Tensor) and num_items <= 0:
        raise ValueError(f"num_items is {num_items} with {count} supervised rows; it must be above 0.")
    denominator = torch.as_tensor(num_items, dtype=sums.dtype, device=sums.device)
    if options.divergence != "forward_kl" and not bool((sums[1:3] < torch.finfo(sums.dtype).max ** 0.5).all()):
        raise ValueError(
            f"The divergence {options.divergence!r} is not finite. The student gives probability to ids that the "
            "teacher forbids with a logit of -inf, or a model's weights are not finite. Choose divergence 'jsd' or "
            "'forward_kl'."
        )
    ce, kl, kl_on_policy = (sums[:3] / denominator).unbind()
    loss = (ce + alpha * kl) / (1 + alpha) + kl_on_policy
    loss = PrecomputedGradient.apply(loss, *student, rows, denominator, *gradients)
    means = (sums[3:] / max(count, 1)).unbind()
    return DistillLoss(loss, ce, kl, kl_on_policy, *means, torch.tensor(count, device=sums.device))


def _ce_kl_block_(
    z: torch.Tensor,
    t: torch.Tensor | None,
    labels: torch.Tensor,
    need_grad: bool,
    options: LossOptions,
    top: TopLogprobs | None,
) -> torch.Tensor:
    """The :data:`.fused_linear.Kernel`, Eq. 12-16 for a few rows.

    ``labels`` is ``[R]``, or ``[R, 2]`` with on-policy, or ``[R, 3]`` with the numbers of the rows in ``top``. Returns
    ``[6, R]``: CE, KD (scaled), KD on-policy, top-1 agreement, teacher entropy, teacher mass outside the shared ids.
    """
    sampled = numbers = None
    if labels.dim() == 2:
        labels, sampled, *rest = labels.unbind(1)
        sampled, numbers = sampled.to(z.dtype), rest[0] if rest else None
    alpha, temperature, generator = options.alpha, options.temperature, options.generator
    beta = beta_of(options.divergence, options.beta)
    kd_scale = temperature**2 if options.temperature_squared else 1.0
    stats = z.new_zeros(6, z.shape[0])
    log_p = torch.log_softmax(z, dim=-1)
    stats[0] = -log_p.gather(1, labels[:, None]).squeeze(1)
    shared = z.shape[1] if t is None else min(z.shape[1], t.shape[1])
    z_k, has_teacher = z[:, :shared], t is not None or top is not None
    if has_teacher:
        first = t[:, :shared].argmax(dim=-1, keepdim=True) if top is None else top.ids[numbers, :1]
        stats[3] = (z_k.gather(1, first) >= z_k.amax(dim=-1, keepdim=True)).squeeze(1)
    if top is not None:
        some = TopLogprobs(top.ids[numbers], top.logprobs[numbers])
        stats[1], gradient, stats[4] = partition_divergence(z, some, beta)
    elif t is not None:
        t_k = t[:, :shared]
        if t.shape[1] > shared:
            scaled = t / temperature
            stats[5] = (scaled[:, shared:].logsumexp(dim=-1) - scaled.logsumexp(dim=-1)).exp()
        if options.noise_std > 0:  # drawn row by row: the ends of chunks do not matter
            device = z.device if generator is None else generator.device
            noise = [torch.randn(2, shared, generator=generator, device=device, dtype=z.dtype) for _ in range(len(z))]
            noise = torch.stack(noise).to(z.device).mul_(options.noise_std)
            t_k.add_(noise[:, 0])
            z_k.add_(noise[:, 1])
        # A logit of -inf (a masked id) has no mass: the clamp turns 0 * inf into 0.
        lowest = torch.finfo(z.dtype).min
        log_ps = torch.log_softmax(z_k / temperature, dim=-1).clamp_(min=lowest)
        log_pt = torch.log_softmax(t_k / temperature, dim=-1).clamp_(min=lowest)
        p_t = log_pt.exp()
        stats[4] = -torch.linalg.vecdot(p_t, log_pt)
        divergence, gradient = divergence_(log_pt, log_ps, p_t, beta)
        stats[1] = divergence * kd_scale
    if sampled is not None:
        stats[2] = stats[1] * sampled
        stats[:2] *= 1 - sampled
    if need_grad:
        torch.exp(log_p, out=z)
        if has_teacher and sampled is not None:
            z.mul_((1 - sampled)[:, None])
            weight = alpha + sampled  # of the KD term: 1 + alpha for on-policy rows, divided by it below
            z_k.addcmul_(gradient, weight[:, None], value=kd_scale / temperature)
        elif has_teacher:
            z_k.add_(gradient, alpha=alpha * kd_scale / temperature)
        # The gradient of a softmax sums to 0. Late in training 1 - p(label) has no digits left; the others have all.
        z.scatter_(1, labels[:, None], 0.0)
        z.scatter_(1, labels[:, None], -z.sum(dim=-1, keepdim=True))
        z.mul_(1 / (1 + alpha))
    return stats
