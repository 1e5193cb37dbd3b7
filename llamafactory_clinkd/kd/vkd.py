# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""VkD (Miles et al., CVPR 2024, arXiv:2403.06213): rotated student features are pulled towards the teacher's.

The projection between the two widths is orthogonal, so that it rotates the student's features and cannot compensate
for them. As in the authors' released code, the loss is smooth L1 between ``orthogonal(Linear(student_dim, teacher_dim,
bias=False))`` of the student's features and ``layer_norm`` (no affine) of the teacher's; a sample is a supervised
position here, a pooled feature there.

One deviation: the matrix is parametrised by the Cayley map, not by torch's default for rectangles, Householder
reflections. Those keep their signs on a diagonal that is truncated to integers, so AdamW's weight decay zeroes the
whole matrix; and they are slow (896 to 1536 on two CPU cores, forward and backward: 67 s, Cayley 2 s).
"""

import logging
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils.parametrizations import orthogonal
from transformers import TrainerCallback

from ..training.lm_head import IGNORE_INDEX
from ..utils.models import text_config
from .kd_trainer import DistillTrainer
from .loss import DistillLoss
from .separate_optimizer import SeparateOptimizer, attach_non_persistent


logger = logging.getLogger(__name__)

PROJECTOR = "clinkd_vkd"
PROJECTOR_FILE = f"{PROJECTOR}.safetensors"
OPTIMIZER_PREFIX = "optimizer."  # of the separate optimizer's state in that file
UNSUPPORTED_ENGINE = (
    "`kd_method: vkd` needs whole hidden states and heads, which FSDP does not provide, and an unscaled loss, which "
    "`fp16: true` with `deepspeed` does not. Train with `bf16: true`, without `fsdp`, or set `kd_method: pseudo_kd`."
)


class VkdLoss(NamedTuple):
    """Result of :func:`vkd_loss`: the loss and the supervised rows of this call, tensors of shape ``[]``."""

    loss: torch.Tensor
    items: torch.Tensor


class VkdProjector(nn.Module):
    """Projects student features ``H_s`` to the teacher's width ``H_t`` by a trainable matrix that stays orthogonal.

    The weight ``[H_t, H_s]`` has orthonormal columns if ``H_t >= H_s`` (lengths and angles are then preserved), else
    orthonormal rows. It stays in fp32 under autocast: the parametrization has no half-precision kernels.
    """

    def __init__(self, student_dim: int, teacher_dim: int) -> None:
        super().__init__()
        if student_dim < 1 or teacher_dim < 1:
            raise ValueError(f"student_dim is {student_dim}, teacher_dim is {teacher_dim}; both must be at least 1.")
        linear = nn.Linear(student_dim, teacher_dim, bias=False, dtype=torch.float32)
        self.projection = orthogonal(linear, orthogonal_map="cayley")

    def forward(self, student: torch.Tensor) -> torch.Tensor:
        """Projects floating ``[N, H_s]`` to fp32 ``[N, H_t]``; ValueError for another width, or after a cast."""
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
    """Smooth L1 on the supervised positions: mean over the teacher's width, sum over rows, divided by ``num_items``.

    Args:
        projector: ``H_s`` to ``H_t``; gets a gradient, as the student does. The teacher gets none.
        student_hidden: ``[N, H_s]``.
        teacher_hidden: ``[N, H_t]``.
        labels: ``[N]`` int64, already shifted; rows of -100 are ignored. If all are, the loss and its gradient are 0.
        num_items: As of :func:`.loss.distill_loss`.

    Raises:
        ValueError: If the teacher's width is not the projector's.
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


class VkdTrainer(DistillTrainer):
    """Trains the student and the projection between the widths together.

    The projection is saved in checkpoints, not with the final model. It shares the student's optimizer, except under
    DeepSpeed, which would partition it and cast it to half precision.
    """

    def __init__(self, **kwargs: Any) -> None:
        student, teacher, training = kwargs["model"], kwargs["teacher"], kwargs["args"]
        self._projector = VkdProjector(text_config(student.config).hidden_size, teacher.hidden_size)
        self._projector.to(training.device)
        if training.deepspeed_plugin is None:
            attach_non_persistent(student, PROJECTOR, self._projector)
        super().__init__(**kwargs)
        if self.is_fsdp_enabled or (self.is_deepspeed_enabled and training.fp16):
            raise ValueError(UNSUPPORTED_ENGINE)
        self._separate_optimizer: SeparateOptimizer | None = None
        if self.is_deepspeed_enabled:
            self._separate_optimizer = SeparateOptimizer(self._projector, training, self.accelerator)
            self.add_callback(_ProjectorStep(self._separate_optimizer, self._get_learning_rate))
        if not self._uses_hidden or self._head is None:
            raise ValueError(
                "`kd_method: vkd` needs the hidden states in front of both heads, and one of the heads cannot be used "
                "directly (see the warning above). Set `kd_method: pseudo_kd`."
            )

    def loss_of_hidden(
        self, hidden: torch.Tensor, targets: torch.Tensor, teacher: dict[str, torch.Tensor], num_items: Any
    ) -> DistillLoss:
        """Eq. 16 with the features' distance as its second term, ``kl``."""
        options = {"alpha": 0.0, "temperature": 1.0, "student_bias": self._head.bias, "num_items": num_items}
        plain = self._hidden_loss(hidden, self._head.weight, None, None, targets, **options)
        features = vkd_loss(self._projector, hidden, teacher["hidden"], targets, num_items=num_items)
        alpha = self._settings.kd_alpha
        loss = (plain.loss + alpha * features.loss) / (1 + alpha)
        return plain._replace(loss=loss, kl=features.loss.detach())

    def logged_terms(self, result: DistillLoss, num_items: Any) -> dict[str, torch.Tensor]:
        """Cross-entropy and the features' distance."""
        if self.is_first_batch(result):
            per_token = num_items / result.items
            logger.info(
                "First batch, %d supervised tokens: cross-entropy %.3f nats, distance of features %.4f.",
                int(result.items), float(result.ce * per_token), float(result.kl * per_token),
            )  # fmt: skip
        return {"ce": result.ce, "vkd": result.kl}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the student; in a checkpoint also the projection."""
        super().save_model(output_dir, _internal_call)
        if _internal_call and self.is_world_process_zero():
            tensors = self._projector.state_dict()
            if self._separate_optimizer is not None:
                state = self._separate_optimizer.flat_state()
                tensors |= {OPTIMIZER_PREFIX + name: tensor for name, tensor in state.items()}
            tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
            save_file(tensors, os.path.join(output_dir, PROJECTOR_FILE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_projector(resume_from_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and self._separate_optimizer is not None:  # DeepSpeed loads only the student
            self._separate_optimizer.load_flat_state(self._load_projector(checkpoint))

    def _load_projector(self, checkpoint: str) -> dict[str, torch.Tensor]:
        """Loads the projection; returns the state of its separate optimizer, if any."""
        path = os.path.join(checkpoint, PROJECTOR_FILE)
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"{path} does not exist: the checkpoint is not of a run with `kd_method: vkd`. Choose a new "
                "`output_dir`."
            )
        tensors = load_file(path)
        state = {name: tensors.pop(name) for name in list(tensors) if name.startswith(OPTIMIZER_PREFIX)}
        self._projector.load_state_dict(tensors)
        return {name.removeprefix(OPTIMIZER_PREFIX): tensor for name, tensor in state.items()}


class _ProjectorStep(TrainerCallback):
    """Steps the separate optimizer when the student's steps, at the same learning rate."""

    def __init__(self, optimizer: SeparateOptimizer, learning_rate: Callable[[], float]) -> None:
        self._optimizer, self._learning_rate = optimizer, learning_rate

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._optimizer.step(self._learning_rate())
