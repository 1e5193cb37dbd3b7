# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A small part that trains beside an engine which holds the student's weights its own way, as DeepSpeed does.

It stays whole on every rank, in its own dtype, with its own AdamW at the student's learning rate. Its gradient is
averaged over ranks as the engine averages the student's; it is clipped by itself.
"""

from typing import Any

import torch
from accelerate.utils import broadcast
from torch import nn

from ..utils.patching import bind_method


class SeparateOptimizer:
    """The optimiser of such a part.

    Args:
        module: Equal on all ranks from here on.
        training: ``TrainingArguments``: AdamW's betas, epsilon and weight decay, and ``max_grad_norm``.
        accelerator: The trainer's.
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
        """Takes the gradients that the accumulation window has left, on all ranks."""
        for parameter in self._parameters:
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            parameter.grad = self._accelerator.reduce(gradient, reduction="mean")
        if self._max_norm and self._max_norm > 0:
            nn.utils.clip_grad_norm_(self._parameters, self._max_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        self._optimizer.step()
        self._optimizer.zero_grad()

    def tensors(self) -> dict[str, torch.Tensor]:
        """The optimiser's state, flat: ``"<number of the parameter>.<name>"``."""
        state = self._optimizer.state_dict()["state"]
        return {f"{index}.{name}": value for index, entry in state.items() for name, value in entry.items()}

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Takes over what :meth:`tensors` gave."""
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            index, _, name = key.partition(".")
            state.setdefault(int(index), {})[name] = value
        self._optimizer.load_state_dict(self._optimizer.state_dict() | {"state": state})


class Unsaved(nn.Module):
    """Holds a module whose parameters train with the model around it and are in nobody's state dict.

    As a submodule of the student it is moved, reduced over ranks, clipped and optimised with it by whatever engine.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.register_load_state_dict_post_hook(_not_missing)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own."""
        return self.module(*args, **kwargs)

    def state_dict(self, *args: Any, destination: Any = None, **kwargs: Any) -> Any:
        """Adds nothing."""
        return {} if destination is None else destination


def _not_missing(module: nn.Module, incompatible: Any) -> None:
    """Loading a state dict of the model around it is complete without these names."""
    own = [name for name, _ in module.named_parameters()]
    found = [name for name in incompatible.missing_keys if any(name.endswith(f".{each}") for each in own)]
    for name in found:
        incompatible.missing_keys.remove(name)


def attach_unsaved(model: nn.Module, name: str, module: nn.Module) -> None:
    """Makes ``module`` the submodule ``model.<name>`` and keeps it out of ``model.save_pretrained``."""
    setattr(model, name, Unsaved(module))
    stock = model.save_pretrained

    def save_pretrained(self: nn.Module, save_directory: str, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("state_dict") is not None:  # gathered by an engine, parameter by parameter
            kept = {key: value for key, value in kwargs["state_dict"].items() if not key.startswith(f"{name}.")}
            kwargs["state_dict"] = kept
        return stock(save_directory, *args, **kwargs)

    bind_method(model, "save_pretrained", save_pretrained)
