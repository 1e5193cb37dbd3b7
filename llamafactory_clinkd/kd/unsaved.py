# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A trained part that rides on the student without a trace in what is saved of it."""

from types import MethodType
from typing import Any

from torch import nn


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

    model.save_pretrained = MethodType(save_pretrained, model)
