# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Loss and gradient of logits that are projected a few rows at a time and then dropped (a fused linear loss).

Each chunk of rows is projected by the student's and the teacher's head, a kernel computes the loss and its gradient in
closed form without autograd, and the next chunk overwrites the logits: memory does not grow with the number of rows.
:class:`PrecomputedGradient` passes the gradient to autograd afterwards.

The head's gradient ``[V, H]`` is summed over chunks. Where the logits' gradient ``[n, V]`` is at most half as large
(``2 n <= H``), that is kept instead, and the head's is one product of the backward pass, in the head's dtype.

Matrix products return fp32 (or fp64) whatever their operands are: a bf16 result loses the digits that a softmax
gradient needs near convergence. On CPU the operands are upcast tile by tile; on CUDA the fp32 accumulator of the
tensor cores is returned unrounded.

Shapes: ``n`` supervised rows of ``N``, ``R`` rows of a chunk, ``H`` a hidden size, ``V`` a vocabulary.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable


# Upper limits: both models' logits of one chunk together; one temporary of the kernel (for each thread on CPU, where
# staying in cache halves the time); the converted copy of one tile of a head.
CHUNK_BYTES = 224 * 2**20
BLOCK_BYTES = {"cpu": 2 * 2**20, "cuda": 32 * 2**20}
TILE_BYTES = {"cpu": 8 * 2**20, "cuda": 64 * 2**20}

Kernel = Callable[[torch.Tensor, torch.Tensor | None, torch.Tensor, bool], torch.Tensor]
"""``(student logits [R, V_s], teacher logits [R, V_t] or None, labels [R, ...], need_grad) -> [S, R]``. It overwrites
both logits and leaves the gradient in the student's if ``need_grad``."""


class Projection(NamedTuple):
    """Logits ``x @ weight.T + bias`` of ``N`` rows with ``x`` ``[N, H]``, or ``x`` ``[N, V]`` itself."""

    x: torch.Tensor
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None

    @property
    def width(self) -> int:
        """``V``."""
        return self.x.shape[1] if self.weight is None else self.weight.shape[0]

    def detach(self) -> "Projection":
        """Without the graph."""
        return Projection(*(tensor if tensor is None else tensor.detach() for tensor in self))


def fused_linear_loss(
    student: Projection,
    teacher: Projection | None,
    rows: torch.Tensor,
    labels: torch.Tensor,
    kernel: Kernel,
    *,
    stats: int,
    need: tuple[bool, bool, bool],
    chunk_size: int | None,
    autocast: torch.dtype | None,
) -> tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]:
    """Sums the kernel's results over rows; autograd and autocast must be off, both projections detached.

    ``rows`` ``[n]`` int64 are the supervised ones of ``N``, with ``labels`` ``[n, ...]`` for the kernel, which
    returns ``S = stats`` numbers a row. ``need`` selects the gradients of the student's rows, weight and bias;
    ``chunk_size`` rows are projected at once (None: within :data:`CHUNK_BYTES`); ``autocast`` is the dtype of the
    caller's autocast, or None.

    Returns:
        Sums ``[S]``, and gradients of the sum: fp32 or fp64 (of given logits their dtype), None where not needed. The
        weight's is ``[V, H]``, or of few rows the two factors of :class:`PrecomputedGradient`.
    """
    x, weight, _ = student
    compute = torch.promote_types(x.dtype if weight is None else weight.dtype, x.dtype)
    compute = torch.promote_types(compute, torch.float32)
    width = student.width + (0 if teacher is None else teacher.width)
    chunk_size = max(1, min(len(rows), chunk_size or CHUNK_BYTES // (width * compute.itemsize)))
    operand = _operand_dtype(student, compute, autocast)
    keep = need[1] and 2 * len(rows) <= weight.shape[1]
    project_student = _Projector(student, compute, operand, len(rows) if keep else chunk_size)
    if teacher is not None:
        project_teacher = _Projector(teacher, compute, _operand_dtype(teacher, compute, autocast), chunk_size)
    grad_rows = x.new_empty(len(rows), x.shape[1], dtype=x.dtype if weight is None else compute) if need[0] else None
    grad_weight = torch.zeros_like(weight, dtype=compute) if need[1] and not keep else None
    grad_bias = weight.new_zeros(student.width, dtype=compute) if need[2] else None
    sums = x.new_zeros(stats, dtype=compute)
    for start in range(0, len(rows), chunk_size):
        chunk = slice(start, min(start + chunk_size, len(rows)))
        z = project_student(rows[chunk], start if keep else 0)
        t = None if teacher is None else project_teacher(rows[chunk])
        sums += _in_blocks(kernel, z, t, labels[chunk], any(need)).sum(dim=1)
        if need[0] and weight is None:
            grad_rows[chunk] = z
        elif need[0]:
            _grad_rows_(z, weight, grad_rows[chunk], operand)
        if need[1] and not keep:
            _grad_weight_(z, x[rows[chunk]], grad_weight, operand)
        if need[2]:
            grad_bias += z.sum(dim=0)
    kept = (project_student.buffer, x[rows].to(operand)) if keep else (None, None)
    return sums, (grad_rows, grad_weight, grad_bias, *kept)


class PrecomputedGradient(torch.autograd.Function):
    """A loss whose gradient (of the sum over rows) is known; backward scales it, casts it and scatters its rows.

    ``gradients`` are those of rows, weight and bias, then the factors ``[n, V]`` and ``[n, H]`` of the weight's where
    that is None.
    """

    @staticmethod
    def forward(loss, x, weight, bias, rows, denominator, *gradients):  # noqa: D102
        return loss.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:  # noqa: D102
        _, x, weight, bias, *saved = inputs
        ctx.shape = x.shape
        ctx.dtypes = [tensor if tensor is None else tensor.dtype for tensor in (x, weight, bias)]
        ctx.save_for_backward(*saved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple:  # noqa: D102
        rows, denominator, *gradients, grad_logits, x_rows = ctx.saved_tensors
        scale = grad_output / denominator
        gradients = [
            gradient if gradient is None else _scaled(gradient, scale, dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        ]
        if gradients[0] is not None:
            gradients[0] = gradients[0].new_zeros(ctx.shape).index_copy_(0, rows, gradients[0])
        if grad_logits is not None:
            gradients[1] = _weight_gradient(grad_logits, x_rows, scale, ctx.dtypes[1])
        return None, *gradients, *(None,) * 7


def _scaled(gradient: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """``(gradient * scale).to(dtype)`` without a second fp32 tensor of that size."""
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
    budget = BLOCK_BYTES["cpu"] * torch.get_num_threads() if z.device.type == "cpu" else BLOCK_BYTES["cuda"]
    step = max(1, budget // (z.shape[1] * z.element_size()))
    results = [
        kernel(z[i : i + step], None if t is None else t[i : i + step], labels[i : i + step], need_grad)
        for i in range(0, z.shape[0], step)
    ]
    return torch.cat(results, dim=1)


class _Projector:
    """From row numbers ``[R]`` to logits ``[R, V]``, at a row of a buffer that the next call may overwrite."""

    def __init__(self, side: Projection, compute: torch.dtype, operand: torch.dtype, size: int) -> None:
        self.side, self.compute, self.operand = side, compute, operand
        self.buffer = None if side.weight is None else side.x.new_empty(size, side.width, dtype=compute)

    def __call__(self, rows: torch.Tensor, at: int = 0) -> torch.Tensor:
        x, weight, bias = self.side
        if weight is None:
            return x[rows].to(self.compute)
        out, chunk = self.buffer[at : at + len(rows)], x[rows].to(self.operand)
        for tile in _tiles(weight, self.operand):
            _matmul_(out[:, tile], chunk, weight[tile].to(self.operand).t(), accumulate=False)
        return out if bias is None else out.add_(bias)


def _grad_rows_(grad_z: torch.Tensor, head: torch.Tensor, out: torch.Tensor, operand: torch.dtype) -> None:
    """``out = grad_z @ head``: ``[R, V] @ [V, H]``."""
    for tile in _tiles(head, operand):
        _matmul_(out, grad_z[:, tile].to(operand), head[tile].to(operand), accumulate=tile.start > 0)


def _grad_weight_(grad_z: torch.Tensor, rows: torch.Tensor, out: torch.Tensor, operand: torch.dtype) -> None:
    """``out += grad_z.T @ rows``: ``[V, R] @ [R, H]``."""
    rows = rows.to(operand)
    for tile in _tiles(out, operand):
        _matmul_(out[tile], grad_z[:, tile].t().to(operand), rows, accumulate=True)


def _weight_gradient(
    grad_z: torch.Tensor, rows: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """``(scale * grad_z.T @ rows).to(dtype)``: ``[V, n] @ [n, H]``, rounded once."""
    out = rows.new_empty(grad_z.shape[1], rows.shape[1], dtype=dtype)
    for tile in _slices(out, grad_z.dtype):
        product = grad_z.new_empty(out[tile].shape)
        _matmul_(product, grad_z[:, tile].t().to(rows.dtype), rows, accumulate=False)
        out[tile] = product.mul_(scale)
    return out


def _matmul_(out: torch.Tensor, a: torch.Tensor, b: torch.Tensor, accumulate: bool) -> None:
    """``out = a @ b`` or ``out += a @ b``; bf16 operands keep the fp32 accumulator of the tensor cores."""
    if a.dtype == out.dtype:
        out.addmm_(a, b, beta=float(accumulate))
    elif accumulate:
        out.add_(torch.mm(a, b, out_dtype=out.dtype))
    else:
        out.copy_(torch.mm(a, b, out_dtype=out.dtype))


def _tiles(matrix: torch.Tensor, operand: torch.dtype) -> list[slice]:
    """Slices of the first dimension: one if nothing is converted, else those of :func:`_slices`."""
    return [slice(0, len(matrix))] if matrix.dtype == operand else _slices(matrix, operand)


def _slices(matrix: torch.Tensor, dtype: torch.dtype) -> list[slice]:
    """Slices of the first dimension of at most :data:`TILE_BYTES` each in ``dtype``."""
    budget = TILE_BYTES["cpu" if matrix.device.type == "cpu" else "cuda"]
    step = max(1, budget // (matrix.shape[1] * dtype.itemsize))
    return [slice(start, min(start + step, len(matrix))) for start in range(0, len(matrix), step)]


def _operand_dtype(side: Projection, compute: torch.dtype, autocast: torch.dtype | None) -> torch.dtype:
    """bf16 on CUDA with torch 2.8 (``torch.mm(out_dtype=)``), else ``compute``; fp16 is too narrow for gradients."""
    if side.weight is not None and side.x.is_cuda and compute == torch.float32 and torch.__version__ >= (2, 8):
        if autocast == torch.bfloat16 or side.x.dtype == side.weight.dtype == torch.bfloat16:
            return torch.bfloat16
    return compute
