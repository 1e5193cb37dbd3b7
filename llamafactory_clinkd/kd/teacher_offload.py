# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A teacher whose weights stay in the machine's memory: each layer visits the GPU for its part of the forward pass.

The layers are moved by Accelerate's hooks (``accelerate.cpu_offload``); what is added is that the head is there while
the loss reads it, and that the weights are pinned, so that a copy runs at the bus's speed.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import DistributedType

from ..rope.mixed import fix_mixed
from .teacher import Teacher


UNDER_FSDP = "`kd_teacher_offload: true` and FSDP both move the teacher's layers. Remove the key."
"""Said at the start of a recipe that names FSDP, and by the teacher where only the launcher does."""


class OffloadedTeacher(Teacher):
    """A frozen model on the CPU that computes on another device; :meth:`place` it before its first forward pass."""

    stock_places_it = False

    def place(self, accelerator: Any) -> None:
        """Hooks the model's layers and keeps its weights where they are.

        Args:
            accelerator: Whose device computes and whose mixed precision the forward pass has.

        Raises:
            ValueError: Under FSDP, which moves layers itself.
        """
        from accelerate import cpu_offload

        if accelerator.distributed_type == DistributedType.FSDP:
            raise ValueError(UNDER_FSDP)
        self._device = accelerator.device
        fix_mixed(self.model, self._device)
        weights = _pinned(self.model.state_dict()) if self._device.type == "cuda" else self.model.state_dict()
        if self.head is not None:
            name = next(name for name, module in self.model.named_modules() if module is self.head)
            self._kept_head = (weights[f"{name}.weight"], weights.get(f"{name}.bias"))
        accelerator.prepare_model(self.model, device_placement=False, evaluation_mode=True)
        cpu_offload(self.model, execution_device=self._device, state_dict=weights)

    @contextlib.contextmanager
    def whole_head(self) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """The head's weight ``[V_t, H_t]`` and bias on the computing device, for the duration."""
        weight, bias = self._kept_head
        yield (
            weight.to(self._device, non_blocking=True),
            None if bias is None else bias.to(self._device, non_blocking=True),
        )


def _pinned(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights in pinned memory; tied ones stay one tensor."""
    pinned: dict[tuple[int, torch.Size], torch.Tensor] = {}
    for weight in weights.values():
        key = (weight.data_ptr(), weight.shape)
        if key not in pinned:
            pinned[key] = weight.pin_memory()
    return {name: pinned[weight.data_ptr(), weight.shape] for name, weight in weights.items()}
