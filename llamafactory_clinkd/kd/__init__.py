# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Knowledge distillation: the loss of Eq. 12-16, its trainer, and what teacher and student must have in common."""

from ..utils import lazy_names


_HOMES = {
    "DistillLoss": "loss",
    "distill_loss": "loss",
    "logits_distill_loss": "loss",
    "DistillTrainer": "kd_trainer",
    "OnPolicyDistillTrainer": "on_policy_trainer",
    "VkdTrainer": "vkd",
    "check_teacher": "teacher",
}
__all__ = list(_HOMES)
__getattr__ = lazy_names(__name__, _HOMES)
