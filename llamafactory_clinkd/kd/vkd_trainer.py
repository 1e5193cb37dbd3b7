# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Distillation by features (``kd_method: vkd``): cross-entropy, and VkD in place of Eq. 13's divergence."""

import logging
import os
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback

from .kd_trainer import DistillTrainer
from .separate_optimizer import OwnStep
from .teacher import text_config
from .unsaved import attach_unsaved
from .vkd import PARTITIONED, VkdProjector, vkd_loss


logger = logging.getLogger(__name__)

PROJECTOR = "clinkd_vkd"
FILE = f"{PROJECTOR}.safetensors"
OPTIMIZER = "optimizer."
"""Prefix of the projection's own optimiser's state in that file, where an engine has the student's."""


class VkdParts(NamedTuple):
    """The loss of one call, tensors of shape ``[]``; ``loss == (ce + alpha * vkd) / (1 + alpha)``."""

    loss: torch.Tensor
    ce: torch.Tensor
    vkd: torch.Tensor
    items: torch.Tensor


class VkdTrainer(DistillTrainer):
    """Trains the student and the projection between the widths together.

    The projection lies in each checkpoint and not in the model that the run leaves. To the optimiser it is a part of
    the student; DeepSpeed would partition it and cast it to half precision, so there it has an optimiser of its own.
    """

    def __init__(self, **kwargs: Any) -> None:
        student, teacher, training = kwargs["model"], kwargs["teacher"], kwargs["args"]
        self._projector = VkdProjector(text_config(student.config).hidden_size, teacher.hidden_size)
        self._projector.to(training.device)
        if training.deepspeed_plugin is None:
            attach_unsaved(student, PROJECTOR, self._projector)
        super().__init__(**kwargs)
        if self.is_fsdp_enabled or (self.is_deepspeed_enabled and training.fp16):
            raise ValueError(PARTITIONED)
        self._own_step = OwnStep(self._projector, training, self.accelerator) if self.is_deepspeed_enabled else None
        if self._own_step is not None:
            self.add_callback(_StepBeside(self))
        if not self._plain or self._head is None:
            raise ValueError(
                "`kd_method: vkd` needs the hidden states in front of both heads, and one of the heads cannot be used "
                "directly (see the warning above). Set `kd_method: pseudo_kd`."
            )

    def loss_of_hidden(
        self, hidden: torch.Tensor, targets: torch.Tensor, teacher: dict[str, torch.Tensor], num_items: Any
    ) -> VkdParts:
        """Eq. 16 with the features' distance as its second term."""
        plain = {"alpha": 0.0, "temperature": 1.0, "student_bias": self._head.bias, "num_items": num_items}
        entropy = self._hidden_loss(hidden, self._head.weight, None, None, targets, **plain)
        features = vkd_loss(self._projector, hidden, teacher["hidden"], targets, num_items=num_items)
        alpha = self._settings.kd_alpha
        loss = (entropy.loss + alpha * features.loss) / (1 + alpha)
        return VkdParts(loss, entropy.ce, features.loss.detach(), entropy.items)

    def logged_parts(self, result: VkdParts, num_items: Any) -> dict[str, torch.Tensor]:
        """Cross-entropy and the features' distance."""
        if self.first_batch(result) and self.is_world_process_zero():
            per_token = num_items / result.items
            logger.info(
                "First batch, %d supervised tokens: cross-entropy %.3f nats, distance of features %.4f.",
                int(result.items),
                float(result.ce * per_token),
                float(result.vkd * per_token),
            )
        return {"ce": result.ce, "vkd": result.vkd}

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the student; in a checkpoint also the projection."""
        super().save_model(output_dir, _internal_call)
        if _internal_call and self.is_world_process_zero():
            tensors = self._projector.state_dict()
            if self._own_step is not None:
                tensors |= {OPTIMIZER + name: tensor for name, tensor in self._own_step.tensors().items()}
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, _path(output_dir))

    def step_beside(self) -> None:
        """The projection's own step, at the student's learning rate."""
        self._own_step.step(self._get_learning_rate())

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._projector.load_state_dict(_read(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or self._own_step is None:
            return
        tensors = _read(checkpoint)  # DeepSpeed loads the student by itself
        own = {name: tensors.pop(name) for name in list(tensors) if name.startswith(OPTIMIZER)}
        self._projector.load_state_dict(tensors)
        self._own_step.load({name.removeprefix(OPTIMIZER): tensor for name, tensor in own.items()})


class _StepBeside(TrainerCallback):
    """Steps the projection where the student's optimiser steps."""

    def __init__(self, trainer: VkdTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """At the end of an accumulation window."""
        self._trainer.step_beside()


def _path(folder: str) -> str:
    return os.path.join(folder, FILE)


def _read(checkpoint: str) -> dict[str, torch.Tensor]:
    path = _path(checkpoint)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path} does not exist: the checkpoint is not of a run with `kd_method: vkd`. Choose a new `output_dir`."
        )
    return load_file(path)
