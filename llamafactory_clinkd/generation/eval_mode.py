# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Evaluation mode in the middle of training, with the modes and random generators of training restored afterwards."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn

from ..utils.models import unwrap_adapters


def base_model(model: nn.Module) -> nn.Module:
    """The plain transformers model inside DDP, DeepSpeed, ``torch.compile`` and PEFT wrappers."""
    return unwrap_adapters(extract_model_from_parallel(model))


@contextmanager
def preserve_training_state(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each module's mode and every random generator are restored.

    Modes are stored per module, because a frozen vision tower may be in evaluation mode while the rest trains.
    Evaluation mode also disables gradient checkpointing (it acts in training mode only), so the cache stays enabled.
    Restored generators: Python's, NumPy's, torch's CPU generator and that of every accelerator with a parameter.
    """
    modes = [(module, module.training) for module in model.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = accelerators(model)
    device_type = devices[0].type if devices else "cuda"
    with torch.random.fork_rng([device.index for device in devices], device_type=device_type):
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def accelerators(model: nn.Module) -> list[torch.device]:
    """The devices other than the CPU that hold a parameter."""
    devices = {parameter.device for parameter in model.parameters()}
    return sorted((d for d in devices if d.type not in ("cpu", "meta")), key=str)


def seed_model(model: nn.Module, seed: int) -> None:
    """Seeds the generators of the CPU and of the model's devices, and no others."""
    torch.default_generator.manual_seed(seed)
    for device in accelerators(model):
        module = torch.get_device_module(device)
        with module.device(device):
            module.manual_seed(seed)
