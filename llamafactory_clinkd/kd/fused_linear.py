# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Projects a few rows at a time to the vocabulary and takes a loss with its gradient before the logits are dropped.

The projection and the loss bypass autograd: each chunk of rows is projected by the student's and the teacher's head,
a kernel computes the loss and its gradient in closed form, and the logits are overwritten by the next chunk. Memory
does not grow with the number of rows. :class:`PrecomputedGradient` hands the gradient to autograd afterwards.

Results of the matrix products are fp32 (or fp64) whatever the operands are: a bf16 product that returns bf16 loses the
digits that a softmax gradient needs near convergence. On CPU the operands are upcast tile by tile; on CUDA the fp32
accumulator of the tensor cores is returned unrounded.

Legend of shapes: ``n`` supervised rows, ``R`` rows of a chunk, ``H`` a hidden size, ``V`` a vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable


CHUNK_BYTES = 224 * 2**20
"""The logits of one chunk, student's and teacher's together, fit in this."""
BLOCK_BYTES = {"cpu": 2 * 2**20, "cuda": 32 * 2**20}
"""One temporary of the kernel fits in this (per thread on CPU, where staying in cache halves the time)."""
TILE_BYTES = {"cpu": 8 * 2**20, "cuda": 64 * 2**20}
"""The converted copy of one tile of a head fits in this."""

Kernel = Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor, bool], torch.Tensor]
"""``(student logits [R, V_s], teacher logits [R, V_t] or None, labels [R], need_grad) -> [5, R]``. It overwrites both
logits and leaves the gradient in the student's if ``need_grad``."""
Gradients = tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]
"""Of the sum over rows, fp32 or fp64, for the rows ``[n, H]`` or ``[n, V]``, the head ``[V, H]`` and its bias."""


def fused_linear_loss(
    hidden: torch.Tensor,
    head: torch.Tensor,
    bias: torch.Tensor | None,
    teacher: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None,
    labels: torch.Tensor,
    kernel: Kernel,
    *,
    need: tuple[bool, bool, bool],
    chunk_size: int | None,
    autocast: torch.dtype | None,
) -> tuple[torch.Tensor, Gradients]:
    """Sums the kernel's results over rows given as hidden states; autocast itself must be off.

    Args:
        hidden: ``[n, H_s]``, supervised rows only.
        head: ``[V_s, H_s]``.
        bias: ``[V_s]`` or None.
        teacher: ``(hidden [n, H_t], head [V_t, H_t], bias [V_t] or None)`` or None.
        labels: ``[n]`` int64 in ``[0, V_s)``.
        kernel: The loss.
        need: Which gradients are needed: of hidden, head, bias.
        chunk_size: Rows projected at once; None chooses by :data:`CHUNK_BYTES`.
        autocast: The dtype of the caller's autocast, else None.

    Returns:
        Sums ``[5]`` and gradients, those not needed as None.
    """
    compute = torch.promote_types(torch.promote_types(hidden.dtype, head.dtype), torch.float32)
    operand = _operand_dtype(hidden, head, compute, autocast)
    teacher_operand = _operand_dtype(teacher[0], teacher[1], compute, autocast) if teacher else None
    n, widths = len(labels), [head.shape[0]] + ([teacher[1].shape[0]] if teacher else [])
    chunk_size = max(1, min(n, chunk_size or _default_chunk_size(widths, compute)))
    z_buffer = hidden.new_empty(chunk_size, widths[0], dtype=compute)
    t_buffer = hidden.new_empty(chunk_size, widths[1], dtype=compute) if teacher else None
    grad_rows = hidden.new_empty(hidden.shape, dtype=compute) if need[0] else None
    grad_head = torch.zeros_like(head, dtype=compute) if need[1] else None
    grad_bias = head.new_zeros(widths[0], dtype=compute) if need[2] else None
    sums = hidden.new_zeros(5, dtype=compute)
    for start in range(0, n, chunk_size):
        rows = slice(start, min(start + chunk_size, n))
        size = rows.stop - rows.start
        z = _project_(hidden[rows], head, bias, z_buffer[:size], operand)
        t = _project_(teacher[0][rows], *teacher[1:], t_buffer[:size], teacher_operand) if teacher else None
        sums += _in_blocks(kernel, z, t, labels[rows], any(need)).sum(dim=1)
        if need[0]:
            _grad_rows_(z, head, grad_rows[rows], operand)
        if need[1]:
            _grad_head_(z, hidden[rows], grad_head, operand)
        if need[2]:
            grad_bias += z.sum(dim=0)
    return sums, (grad_rows, grad_head, grad_bias)


def chunked_logits_loss(
    logits: torch.Tensor,
    teacher: torch.Tensor | None,
    rows: torch.Tensor,
    labels: torch.Tensor,
    kernel: Kernel,
    *,
    need_grad: bool,
    chunk_size: int | None,
) -> tuple[torch.Tensor, Gradients]:
    """:func:`fused_linear_loss` for rows ``[n]`` of logits ``[N, V_s]`` and ``[N, V_t]``, upcast chunk by chunk."""
    compute = torch.float64 if logits.dtype == torch.float64 else torch.float32
    widths = [logits.shape[1]] + ([] if teacher is None else [teacher.shape[1]])
    chunk_size = chunk_size or _default_chunk_size(widths, compute)
    grad_rows = logits.new_empty(len(rows), logits.shape[1]) if need_grad else None
    sums = logits.new_zeros(5, dtype=compute)
    for start in range(0, len(rows), chunk_size):
        chunk = slice(start, start + chunk_size)
        z = logits[rows[chunk]].to(compute)
        t = None if teacher is None else teacher[rows[chunk]].to(compute)
        sums += _in_blocks(kernel, z, t, labels[chunk], need_grad).sum(dim=1)
        if need_grad:
            grad_rows[chunk] = z
    return sums, (grad_rows, None, None)


class PrecomputedGradient(torch.autograd.Function):
    """A loss whose gradient (of the sum over rows) is known; backward scales it, casts it and scatters its rows."""

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


def _in_blocks(
    kernel: Kernel, z: torch.Tensor, t: torch.Tensor | None, labels: torch.Tensor, need_grad: bool
) -> torch.Tensor:
    """The kernel over a chunk, a few rows at a time so that its temporaries stay small."""
    budget = BLOCK_BYTES.get(z.device.type, BLOCK_BYTES["cuda"])
    budget *= torch.get_num_threads() if z.device.type == "cpu" else 1
    step = max(1, budget // (z.shape[1] * z.element_size()))
    results = [
        kernel(z[i : i + step], None if t is None else t[i : i + step], labels[i : i + step], need_grad)
        for i in range(0, z.shape[0], step)
    ]
    return torch.cat(results, dim=1)


def _default_chunk_size(widths: list[int], dtype: torch.dtype) -> int:
    return max(1, CHUNK_BYTES // (sum(widths) * dtype.itemsize))


def _project_(
    rows: torch.Tensor, head: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor, operand: torch.dtype
) -> torch.Tensor:
    """``out = rows @ head.T + bias``: ``[R, H] @ [H, V]``."""
    rows = rows.to(operand)
    for tile in _tiles(head, operand):
        _matmul_(out[:, tile], rows, head[tile].to(operand).t(), accumulate=False)
    return out if bias is None else out.add_(bias)


def _grad_rows_(grad_z: torch.Tensor, head: torch.Tensor, out: torch.Tensor, operand: torch.dtype) -> None:
    """``out = grad_z @ head``: ``[R, V] @ [V, H]``."""
    for tile in _tiles(head, operand):
        _matmul_(out, grad_z[:, tile].to(operand), head[tile].to(operand), accumulate=tile.start > 0)


def _grad_head_(grad_z: torch.Tensor, rows: torch.Tensor, out: torch.Tensor, operand: torch.dtype) -> None:
    """``out += grad_z.T @ rows``: ``[V, R] @ [R, H]``."""
    rows = rows.to(operand)
    for tile in _tiles(out, operand):
        _matmul_(out[tile], grad_z[:, tile].t().to(operand), rows, accumulate=True)


def _matmul_(out: torch.Tensor, a: torch.Tensor, b: torch.Tensor, accumulate: bool) -> None:
    """``out = a @ b`` or ``out += a @ b``; bf16 operands keep the fp32 accumulator of the tensor cores."""
    if a.dtype == out.dtype:
        out.addmm_(a, b, beta=float(accumulate))
    elif accumulate:
        out.add_(torch.mm(a, b, out_dtype=out.dtype))
    else:
        out.copy_(torch.mm(a, b, out_dtype=out.dtype))


def _tiles(matrix: torch.Tensor, operand: torch.dtype) -> list[slice]:
    """Slices of the first dimension: one if nothing is converted, else small enough for :data:`TILE_BYTES`."""
    length, step = matrix.shape[0], matrix.shape[0]
    if matrix.dtype != operand:
        budget = TILE_BYTES.get(matrix.device.type, TILE_BYTES["cuda"])
        step = max(1, budget // (matrix.shape[1] * operand.itemsize))
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _operand_dtype(
    rows: torch.Tensor, head: torch.Tensor, compute: torch.dtype, autocast: torch.dtype | None
) -> torch.dtype:
    """The dtype that a product's operands are converted to.

    bf16 stays bf16 on CUDA (also under bf16 autocast), where ``torch.mm(out_dtype=)``, new in torch 2.8, returns the
    fp32 accumulator. Everything else, fp16 included (its range is too small for softmax gradients), is multiplied in
    ``compute``, fp32 or fp64.
    """
    if rows.device.type == "cuda" and compute == torch.float32 and torch.__version__ >= (2, 8):
        if autocast == torch.bfloat16 or rows.dtype == head.dtype == torch.bfloat16:
            return torch.bfloat16
    return compute
