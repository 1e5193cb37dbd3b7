# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Where the teacher is adapters over the student's base, both see an image through one vision tower: it runs once.

Adapters are as a rule on the language model alone, and then the tower's features are the same for both, to the last
bit. They are kept from the teacher's forward pass for the student's, which follows on the same batch.
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from torch import nn

from ..utils.patching import patch_instance


TOWERS = ("visual", "vision_tower")
"""Names that transformers' vision-language models give their vision tower."""


class SharedTower:
    """Keeps what the tower computes in one forward pass of its model, and gives it again in the next.

    Args:
        tower: From :func:`find_shared_tower`.
    """

    def __init__(self, tower: nn.Module) -> None:
        self._tower = tower
        self._batch: Any = None
        self._outputs: list[Any] = []

    @contextlib.contextmanager
    def keeping(self, batch: Any) -> Iterator[None]:
        """Inside, outputs are kept, as those of ``batch``."""
        compute = self._tower.forward
        self._batch, self._outputs = batch, []

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = compute(*args, **kwargs)
            self._outputs.append(copy.copy(output))  # the model may put other things into the object that it gets
            return output

        with patch_instance(self._tower, "forward", forward):
            yield

    @contextlib.contextmanager
    def giving(self, batch: Any) -> Iterator[None]:
        """Inside, the outputs come again, in their order, if they are those of ``batch``; others are computed.

        They are let go afterwards.
        """
        compute, outputs = self._tower.forward, iter(self._outputs if batch is self._batch else [])

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = next(outputs, None)
            return compute(*args, **kwargs) if output is None else output

        try:
            with patch_instance(self._tower, "forward", forward):
                yield
        finally:
            self._batch, self._outputs = None, []


def find_shared_tower(model: nn.Module) -> nn.Module | None:
    """The vision tower of ``model``, if it computes the same whichever adapters are active and in either mode.

    ``None`` if there is none that is known by its name, if it has adapters or is trained, or if it does something else
    in training: drops out, or normalises by the batch.
    """
    towers = (module for name, module in model.named_modules() if name.rpartition(".")[2] in TOWERS)
    tower = next(towers, None)
    return tower if tower is not None and _is_constant(tower) else None


def _is_constant(tower: nn.Module) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    settings = tower.config.to_dict() if hasattr(tower, "config") else {}
    if any("drop" in name and isinstance(value, float) and value > 0 for name, value in settings.items()):
        return False
    if any(parameter.requires_grad for parameter in tower.parameters()):
        return False
    return not any(
        isinstance(module, BaseTunerLayer | nn.modules.batchnorm._BatchNorm)
        or (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
        for module in tower.modules()
    )
