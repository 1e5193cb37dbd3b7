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
"""The distillation trainer.

Eq. 12-16 of the paper on the supervised tokens, teacher and student on the same pixels.
"""

from typing import Any

import torch

from ..supervised import SupervisedTrainer
from ..supervised_head import hidden_at, logits_at, plain_head
from .teacher import teacher_batch


class DistillTrainer(SupervisedTrainer):
    """Distils ``ref_model`` into the student.

    Args:
        teacher: The frozen teacher; stock's trainer prepares it for DDP, DeepSpeed or FSDP.
        same_positions: Whether the teacher takes the student's rotary positions from the batch; else it computes its
        own.
        settings: The recipe's ``FinetuningArguments`` with the ``kd_*`` keys.
        **kwargs: What :class:`SupervisedTrainer` takes.
    """

    def __init__(self, *, teacher: torch.nn.Module, same_positions: bool, settings: Any, **kwargs: Any) -> None:
        self._teacher_head = plain_head(teacher)
        self._teacher_config = teacher.config
        kwargs["ref_model"] = teacher
        super().__init__(**kwargs)
        if self._teacher_head is None:
            self._head = None  # both sides from logits then
        self._same_positions = same_positions
        self._settings = settings
        self._noise = torch.Generator(device=self.args.device).manual_seed(self.args.seed + self.args.process_index)

    def teacher_inputs(self, inputs: dict[str, Any], kept: torch.Tensor) -> dict[str, torch.Tensor]:
        """The teacher's final hidden states (``[B * K, H_t]``) and head, or its logits where a head is not plain."""
        batch = teacher_batch(inputs, self._teacher_config, self._same_positions)
        with torch.no_grad():
            if self._head is None:
                return {"logits": logits_at(self.ref_model, batch, kept, restricts=True).flatten(0, 1)}
            hidden = hidden_at(self.ref_model, self._teacher_head, batch, kept).flatten(0, 1)
        return {"hidden": hidden, "head": self._teacher_head.weight, "bias": self._teacher_head.bias}

    def loss_options(self) -> dict[str, Any]:
        """Alpha, temperature and noise of Eq. 13-16."""
        settings = self._settings
        return {
            "alpha": settings.kd_alpha,
            "temperature": settings.kd_temperature,
            "temperature_squared": settings.kd_temperature_squared,
            "noise_std": settings.kd_noise_std,
            "generator": self._noise if settings.kd_noise_std > 0 else None,
        }

    def logged_parts(self, result: Any, num_items: Any) -> dict[str, torch.Tensor]:
        """Cross-entropy and KL divergence, how often both models' first choice agrees, how sure the teacher is."""
        share = result.items / num_items
        return {
            "ce": result.ce,
            "kl": result.kl,
            "teacher_agreement": result.agreement * share,
            "teacher_entropy": result.teacher_entropy * share,
        }
