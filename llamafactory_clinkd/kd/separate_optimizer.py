# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A small module that trains beside the student and is not saved with it.

:func:`attach_non_persistent` makes it a submodule of the student, for the student's optimizer. Under DeepSpeed, which
partitions the student and casts it to half precision, :class:`SeparateOptimizer` keeps it whole in its own dtype.
"""

from typing import Any

import torch
from accelerate.utils import broadcast
from torch import nn

from ..utils.patching import bind_method


class SeparateOptimizer:
    """AdamW for a module that is whole on every rank, and that this makes equal on all.

    Gradients are averaged over ranks, as an engine averages the student's, and clipped apart from them.
    """

    def __init__(self, module: nn.Module, training: Any, accelerator: Any) -> None:
        self._parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._max_norm, self._accelerator = training.max_grad_norm, accelerator
        self._optimizer = torch.optim.AdamW(
            self._parameters,
            lr=training.learning_rate,
            betas=(training.adam_beta1, training.adam_beta2),
            eps=training.adam_epsilon,
            weight_decay=training.weight_decay,
        )
        for parameter in self._parameters:
            parameter.data = broadcast(parameter.data)

    def step(self, learning_rate: float) -> None:
        """Applies the gradients of the accumulation window, on all ranks."""
        for parameter in self._parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self._accelerator.reduce(gradient, reduction="mean")
        if self._max_norm and self._max_norm > 0:
            nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad()

    def flat_state(self) -> dict[str, torch.Tensor]:
        """The optimizer's state as tensors named ``"<number of the parameter>.<name>"``."""
        state = self._optimizer.state_dict()["state"]
        return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}

    def load_flat_state(self, tensors: dict[str, torch.Tensor]) -> None:
        """Restores the result of :meth:`flat_state`."""
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": state})


class NonPersistent(nn.Module):
    """Holds a module whose parameters are in no state dict, like a non-persistent buffer."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.register_load_state_dict_post_hook(_drop_missing)

    def state_dict(self, *args: Any, destination: Any = None, **kwargs: Any) -> Any:
        """Adds nothing."""
        return {} if destination is None else destination


def _drop_missing(module: nn.Module, incompatible: Any) -> None:
    """The model's state dict is complete without these names."""
    suffixes = tuple(f".{name}" for name, _ in module.named_parameters())
    incompatible.missing_keys[:] = [name for name in incompatible.missing_keys if not name.endswith(suffixes)]


def attach_non_persistent(model: nn.Module, name: str, module: nn.Module) -> None:
    """Makes ``module`` the submodule ``model.<name>.module`` and keeps it out of ``model.save_pretrained``."""
    setattr(model, name, NonPersistent(module))
    stock = model.save_pretrained

    def save_pretrained(self: nn.Module, save_directory: str, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("state_dict") is not None:  # gathered by an engine, parameter by parameter
            state = kwargs["state_dict"].items()
            kwargs["state_dict"] = {key: value for key, value in state if not key.startswith(f"{name}.")}
        return stock(save_directory, *args, **kwargs)

    bind_method(model, "save_pretrained", save_pretrained)
