# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""VkD (Miles et al., CVPR 2024, arXiv:2403.06213): student features, rotated, are pulled onto the teacher's.

The paper constrains the projection between the two widths to be orthogonal, so that it can only rotate the student's
features and never learn to mend them, and standardises the teacher's for discriminative tasks. Loss and normalisation
follow the authors' released code: smooth L1 between ``orthogonal(Linear(student_dim, teacher_dim, bias=False))`` of
the student's features and ``layer_norm`` (no affine) of the teacher's. It averages over a batch of pooled features;
here a "sample" is a supervised position.

One deviation: the matrix is parametrised by the Cayley map instead of torch's default for rectangles, Householder
reflections. Those keep their signs on a diagonal that is truncated to integers, so the weight decay of AdamW turns the
whole matrix into zeros; and they are slow (896 to 1536 on two busy CPU cores, forward and backward: Householder 67 s,
matrix exponential 38 s, Cayley 2 s).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import orthogonal


IGNORE_INDEX = -100
PARTITIONED = (
    "`kd_method: vkd` needs hidden states and heads whole, which FSDP does not give, and a loss that is not scaled "
    "as by `fp16: true` with `deepspeed`. Train with `bf16: true`, without `fsdp`, or set `kd_method: pseudo_kd`."
)
"""Said at the start of a recipe that names them, and by the trainer where only the launcher does."""


class VkdLoss(NamedTuple):
    """Result of :func:`vkd_loss`: two tensors of shape ``[]``."""

    loss: torch.Tensor
    """Smooth L1, mean over the teacher's width, summed over supervised rows and divided by ``num_items``."""
    items: torch.Tensor
    """Supervised rows of this call, int64."""


class VkdProjector(nn.Module):
    """Student features to the teacher's width by a trainable matrix that stays orthogonal.

    The weight ``[teacher_dim, student_dim]`` has orthonormal columns if the teacher is at least as wide as the student
    (lengths and angles are then kept), else orthonormal rows. It is kept and applied in fp32 whatever the model's
    dtype and autocast are: the parametrization has no half-precision kernels.

    Args:
        student_dim: Width of the student's hidden states, ``H_s``.
        teacher_dim: Width of the teacher's, ``H_t``.
    """

    def __init__(self, student_dim: int, teacher_dim: int) -> None:
        super().__init__()
        if student_dim < 1 or teacher_dim < 1:
            raise ValueError(f"student_dim is {student_dim}, teacher_dim is {teacher_dim}; both must be at least 1.")
        linear = nn.Linear(student_dim, teacher_dim, bias=False, dtype=torch.float32)
        self.projection = orthogonal(linear, orthogonal_map="cayley")

    def forward(self, student: torch.Tensor) -> torch.Tensor:
        """Projects ``[N, H_s]`` (any floating dtype) to fp32 ``[N, H_t]``.

        Raises:
            ValueError: If the width is not ``student_dim``, or the module was cast to another dtype.
        """
        if self.projection.parametrizations.weight.original.dtype != torch.float32:
            raise ValueError(
                "VkdProjector was cast to another dtype; keep it in float32, built after the model is cast."
            )
        if student.dim() != 2 or student.shape[1] != self.projection.in_features:
            raise ValueError(f"student is {list(student.shape)}; expected [N, {self.projection.in_features}].")
        with torch.autocast(student.device.type, enabled=False):
            return self.projection(student.float())


def standardise(teacher: torch.Tensor) -> torch.Tensor:
    """Each row of ``[N, H_t]`` to mean 0 and variance 1 over its features, in fp32 (eps 1e-5, as released)."""
    return F.layer_norm(teacher.float(), teacher.shape[-1:])


def vkd_loss(
    projector: VkdProjector,
    student_hidden: torch.Tensor,
    teacher_hidden: torch.Tensor,
    labels: torch.Tensor,
    *,
    num_items: int | float | torch.Tensor | None = None,
) -> VkdLoss:
    """Feature distillation on the supervised positions.

    Args:
        projector: ``H_s`` to ``H_t``; gets a gradient, as the student does. The teacher gets none.
        student_hidden: ``[N, H_s]``.
        teacher_hidden: ``[N, H_t]``.
        labels: ``[N]`` int64, already shifted; rows of -100 take no part.
        num_items: Denominator, normally the supervised tokens of the accumulation window on all ranks; None is the
            supervised rows of this call.

    Returns:
        The loss and its number of rows; 0 with a finite zero gradient if every label is -100.

    Raises:
        ValueError: If shapes do not fit.
    """
    rows = (labels != IGNORE_INDEX).nonzero().squeeze(1)
    projected = projector(student_hidden[rows])
    target = standardise(teacher_hidden.detach()[rows])
    if projected.shape != target.shape:
        raise ValueError(
            f"teacher_hidden is {list(teacher_hidden.shape)} but the projector gives a width of {projected.shape[1]}; "
            "build VkdProjector with the teacher's hidden size."
        )
    denominator = max(len(rows), 1) if num_items is None or len(rows) == 0 else num_items
    distance = F.smooth_l1_loss(projected, target, reduction="sum") / target.shape[1]
    return VkdLoss(distance / denominator, torch.tensor(len(rows), device=labels.device))
