# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The distillation loss of Pseudo-KD (ClinKD paper, section 3.2, Eq. 12-16), exact over the whole vocabulary.

``L = (L_CE + alpha * L_KD) / (1 + alpha)`` with ``L_KD = T^2 * KL(p_t || p_s)``. Two entries give the same result:
:func:`distill_loss` from hidden states and head weights, whose memory does not grow with the number of tokens, and
:func:`logits_distill_loss` for models whose logits are not a plain product with a head (soft-capped, scaled, ...).

Both compute the gradient in the forward pass (see :mod:`llamafactory_clinkd.kd.fused`) and only scale it in backward.
Rows whose label is -100 are never projected; a weight that does not require a gradient costs none.
"""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from .fused import Sums, Terms, distill_hidden, distill_logits


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
        The loss and its parts. If every label is -100 the loss is 0 and its gradient finite and 0.

    Raises:
        ValueError: If an option is out of range, shapes do not fit, a label is outside the student's vocabulary, or
            ``alpha`` is above 0 without a teacher.
    """
    terms = _terms(alpha, temperature, temperature_squared, noise_std, generator, chunk_size)
    _check_rows("student_hidden", student_hidden, labels)
    _check_head("student", student_hidden, student_head, student_bias)
    if (teacher_hidden is None) != (teacher_head is None):
        raise ValueError("teacher_hidden and teacher_head belong together: pass both, or None for both.")
    _check_teacher_given(teacher_hidden, alpha)
    rows, row_labels = _supervised(labels, student_head.shape[0])
    teacher = None
    if teacher_hidden is not None:
        _check_rows("teacher_hidden", teacher_hidden, labels)
        _check_head("teacher", teacher_hidden, teacher_head, teacher_bias)
        bias = None if teacher_bias is None else teacher_bias.detach()
        teacher = (teacher_hidden.detach()[rows], teacher_head.detach(), bias)

    weights = (student_hidden, student_head, student_bias)
    need = tuple(torch.is_grad_enabled() and x is not None and x.requires_grad for x in weights)
    device = student_hidden.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    hidden, head, bias = (x if x is None else x.detach() for x in weights)
    with torch.no_grad(), torch.autocast(device, enabled=False):
        sums = distill_hidden(hidden[rows], head, bias, teacher, row_labels, terms, chunk_size, need, autocast)
    return _result(sums, weights, rows, terms, num_items)


def logits_distill_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor | None,
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
    """:func:`distill_loss` for logits that are already there: student ``[N, V_s]``, teacher ``[N, V_t]`` or None.

    Softmax and loss are fp32 (fp64 for fp64 logits); the gradient has the dtype of ``student_logits``. Half-precision
    logits have lost digits before they get here; prefer :func:`distill_loss` where the head can be used directly.

    Raises:
        ValueError: As :func:`distill_loss`.
    """
    terms = _terms(alpha, temperature, temperature_squared, noise_std, generator, chunk_size)
    _check_rows("student_logits", student_logits, labels)
    _check_teacher_given(teacher_logits, alpha)
    if teacher_logits is not None:
        _check_rows("teacher_logits", teacher_logits, labels)
        teacher_logits = teacher_logits.detach()
    rows, row_labels = _supervised(labels, student_logits.shape[1])
    need = torch.is_grad_enabled() and student_logits.requires_grad
    with torch.no_grad(), torch.autocast(student_logits.device.type, enabled=False):
        sums = distill_logits(student_logits.detach(), teacher_logits, rows, row_labels, terms, chunk_size, need)
    return _result(sums, (student_logits, None, None), rows, terms, num_items)


def _result(
    sums: Sums,
    weights: tuple[torch.Tensor | None, ...],
    rows: torch.Tensor,
    terms: Terms,
    num_items: int | float | torch.Tensor | None,
) -> DistillLoss:
    """Divides the sums and ties the gradients to the graph."""
    count, stats = len(rows), sums.stats
    if count == 0:
        denominator = stats.new_ones(())
    elif num_items is None:
        denominator = stats.new_tensor(count)
    else:
        if not isinstance(num_items, torch.Tensor) and num_items <= 0:
            raise ValueError(f"num_items is {num_items} with {count} supervised rows; it must be above 0.")
        denominator = torch.as_tensor(num_items, dtype=stats.dtype, device=stats.device)
    ce, kl = stats[0] / denominator, stats[1] / denominator
    loss = (ce + terms.alpha * kl) / (1 + terms.alpha)
    loss = _GradientFromForward.apply(loss, *weights, rows, denominator, *sums[1:])
    means = (stats[2:] / max(count, 1)).unbind()
    return DistillLoss(loss, ce, kl, *means, torch.tensor(count, device=stats.device))


class _GradientFromForward(torch.autograd.Function):
    """A loss whose gradient (of the sum, in fp32) is already known: backward scales, casts and scatters it."""

    @staticmethod
    def forward(loss, student, head, bias, rows, denominator, grad_rows, grad_head, grad_bias):  # noqa: D102
        return loss.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:  # noqa: D102
        _, student, head, bias, *saved = inputs
        ctx.shape = student.shape
        ctx.dtypes = [x if x is None else x.dtype for x in (student, head, bias)]
        ctx.save_for_backward(*saved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple:  # noqa: D102
        rows, denominator, grad_rows, grad_head, grad_bias = ctx.saved_tensors
        scale = grad_output / denominator
        student, head, bias = ctx.dtypes
        if grad_rows is not None:
            dense = grad_rows.new_zeros(ctx.shape, dtype=student)
            dense[rows] = (grad_rows * scale).to(student)
            grad_rows = dense
        if grad_head is not None:
            grad_head = _scaled(grad_head, scale, head)
        if grad_bias is not None:
            grad_bias = (grad_bias * scale).to(bias)
        return None, grad_rows, grad_head, grad_bias, None, None, None, None, None


def _scaled(gradient: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``(gradient * scale).to(dtype)`` for ``[V, H]`` without a second fp32 tensor of that size."""
    if gradient.dtype == dtype:
        return gradient * scale
    result = torch.empty_like(gradient, dtype=dtype)
    for source, target in zip(gradient.split(4096), result.split(4096), strict=True):
        target.copy_(source * scale)
    return result


def _supervised(labels: torch.Tensor, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the supervised rows and their labels, both ``[n]``."""
    rows = (labels != IGNORE_INDEX).nonzero().squeeze(1)
    picked = labels[rows]
    if len(rows) and not (0 <= int(picked.min()) and int(picked.max()) < vocabulary):
        raise ValueError(
            f"labels span {int(picked.min())} to {int(picked.max())}, but the student has {vocabulary} ids. "
            f"Use {IGNORE_INDEX} for rows without supervision, and check that the tokenizer is the student's."
        )
    return rows, picked


def _terms(
    alpha: float,
    temperature: float,
    temperature_squared: bool,
    noise_std: float,
    generator: torch.Generator | None,
    chunk_size: int | None,
) -> Terms:
    """Checks the options."""
    if not alpha >= 0:
        raise ValueError(f"alpha is {alpha}; it must be at least 0 (the paper uses 0.5).")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0 (the paper uses 0.5).")
    if not noise_std >= 0:
        raise ValueError(f"noise_std is {noise_std}; it must be at least 0, and 0 switches the noise off.")
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}; it must be at least 1, or None to choose by memory.")
    return Terms(alpha, temperature, temperature**2 if temperature_squared else 1.0, noise_std, generator)


def _check_rows(name: str, tensor: torch.Tensor, labels: torch.Tensor) -> None:
    if labels.dim() != 1 or tensor.dim() != 2 or tensor.shape[0] != labels.shape[0]:
        raise ValueError(
            f"{name} is {list(tensor.shape)} and labels are {list(labels.shape)}; expected [N, width] and [N] with "
            "one N. Flatten batch and sequence first."
        )


def _check_head(who: str, hidden: torch.Tensor, head: torch.Tensor, bias: torch.Tensor | None) -> None:
    if head.dim() != 2 or head.shape[1] != hidden.shape[1]:
        raise ValueError(
            f"{who}_head is {list(head.shape)}, but {who}_hidden is {list(hidden.shape)}; expected "
            f"[V, {hidden.shape[1]}]. Under ZeRO-3 or FSDP gather the weight first."
        )
    if bias is not None and bias.shape != head.shape[:1]:
        raise ValueError(f"{who}_bias is {list(bias.shape)}; expected [{head.shape[0]}].")


def _check_teacher_given(teacher: torch.Tensor | None, alpha: float) -> None:
    if teacher is None and alpha != 0:
        raise ValueError(f"alpha is {alpha} but there is no teacher. Pass the teacher, or alpha=0 for plain CE.")
