# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The three matrix products of a fused head loss, with results in fp32 (or fp64) whatever the operands are.

A bf16 product that returns bf16 loses the digits that a softmax gradient needs near convergence, so operands are
upcast tile by tile on CPU, and on CUDA the tensor cores' fp32 accumulator is returned as it is.

Legend of shapes: ``R`` rows, ``H`` hidden size, ``V`` vocabulary.
"""

import torch


# The converted copy of one tile of a matrix takes at most this many bytes.
TILE_BYTES = {"cpu": 8 * 2**20, "cuda": 64 * 2**20}


def project_(
    rows: torch.Tensor, head: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor, operand: torch.dtype
) -> torch.Tensor:
    """``out = rows @ head.T + bias``: ``[R, H] @ [H, V]``, operands converted to ``operand``, result as ``out``."""
    rows = rows.to(operand)
    for tile in _tiles(head, operand):
        _matmul_(out[:, tile], rows, head[tile].to(operand).t(), accumulate=False)
    return out if bias is None else out.add_(bias)


def grad_rows_(grad_z: torch.Tensor, head: torch.Tensor, out: torch.Tensor, operand: torch.dtype) -> None:
    """``out = grad_z @ head``: ``[R, V] @ [V, H]``."""
    for tile in _tiles(head, operand):
        _matmul_(out, grad_z[:, tile].to(operand), head[tile].to(operand), accumulate=tile.start > 0)


def grad_head_(grad_z: torch.Tensor, rows: torch.Tensor, out: torch.Tensor, operand: torch.dtype) -> None:
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
    """Slices of the first dimension: one if ``matrix`` is multiplied as it is, else small enough to be converted."""
    length, step = matrix.shape[0], matrix.shape[0]
    if matrix.dtype != operand:
        budget = TILE_BYTES.get(matrix.device.type, TILE_BYTES["cuda"])
        step = max(1, budget // (matrix.shape[1] * operand.itemsize))
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def compute_dtype(hidden: torch.Tensor, head: torch.Tensor) -> torch.dtype:
    """fp32, or fp64 as soon as one of the two is."""
    return torch.promote_types(torch.promote_types(hidden.dtype, head.dtype), torch.float32)


def operand_dtype(
    rows: torch.Tensor, head: torch.Tensor, compute: torch.dtype, autocast: torch.dtype | None
) -> torch.dtype:
    """The dtype that a product's operands are converted to.

    bf16 stays bf16 on CUDA (also under bf16 autocast), where ``torch.mm(out_dtype=)``, new in torch 2.8, returns the
    fp32 accumulator unrounded. Everything else, fp16 included, whose range is too small for softmax gradients, is
    multiplied in fp32 or fp64.
    """
    if rows.device.type == "cuda" and compute == torch.float32 and torch.__version__ >= (2, 8):
        if autocast == torch.bfloat16 or rows.dtype == head.dtype == torch.bfloat16:
            return torch.bfloat16
    return compute
