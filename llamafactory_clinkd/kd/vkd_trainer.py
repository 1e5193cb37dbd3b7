# Copyright 2026 the llamafactory-clinkd team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""Distillation by features (``kd_method: vkd``): cross-entropy, and VkD in place of Eq. 13's divergence."""

import logging
import os
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from .teacher import text_config
from .trainer import DistillTrainer
from .unsaved import attach_unsaved
from .vkd import PARTITIONED, VkdProjector, vkd_loss


logger = logging.getLogger(__name__)

PROJECTOR = "clinkd_vkd"
FILE = f"{PROJECTOR}.safetensors"


class VkdParts(NamedTuple):
    """The loss of one call, tensors of shape ``[]``; ``loss == (ce + alpha * vkd) / (1 + alpha)``."""

    loss: torch.Tensor
    ce: torch.Tensor
    vkd: torch.Tensor
    items: torch.Tensor


class VkdTrainer(DistillTrainer):
    """Trains the student and the projection between the widths together.

    The projection lies in each checkpoint and not in the model that the run leaves.
    """

    def __init__(self, **kwargs: Any) -> None:
        student, teacher, training = kwargs["model"], kwargs["teacher"], kwargs["args"]
        self._projector = VkdProjector(text_config(student.config).hidden_size, teacher.hidden_size)
        attach_unsaved(student, PROJECTOR, self._projector.to(training.device))
        super().__init__(**kwargs)
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            raise ValueError(PARTITIONED)
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
            save_file({k: v.contiguous() for k, v in self._projector.state_dict().items()}, _path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        path = _path(resume_from_checkpoint)
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f"{path} does not exist: the checkpoint is not of a run with `kd_method: vkd`. Choose a new "
                "`output_dir`."
            )
        self._projector.load_state_dict(load_file(path))


def _path(folder: str) -> str:
    return os.path.join(folder, FILE)
