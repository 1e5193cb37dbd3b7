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

"""Running a model in the middle of its training without a trace."""

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn


def base_model(model: nn.Module) -> nn.Module:
    """The plain transformers model inside DDP, DeepSpeed, ``torch.compile`` and PEFT wrappers."""
    model = extract_model_from_parallel(model)
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards each module's mode and every random generator are as they were.

    The modes are kept module by module, because a frozen vision tower may be in evaluation mode while the rest trains.
    Evaluation mode also switches gradient checkpointing off (it acts in training mode only), so the cache stays on.
    Restored generators: Python's, NumPy's, torch's CPU one and that of every accelerator which holds a parameter.
    """
    modes = [(module, module.training) for module in model.modules()]
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = accelerators(model)
    with ExitStack() as stack:
        if devices:
            indices = [device.index for device in devices]
            stack.enter_context(torch.random.fork_rng(indices, device_type=devices[0].type))
        else:
            stack.enter_context(torch.random.fork_rng(devices=[]))
        model.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def accelerators(model: nn.Module) -> list[torch.device]:
    """The devices other than CPU that hold a parameter."""
    devices = {parameter.device for parameter in model.parameters()}
    return sorted((d for d in devices if d.type not in ("cpu", "meta")), key=str)


def seed_model(model: nn.Module, seed: int) -> None:
    """Seeds the CPU generator and those of the model's devices, and no other device's."""
    torch.default_generator.manual_seed(seed)
    for device in accelerators(model):
        module = torch.get_device_module(device)
        with module.device(device):
            module.manual_seed(seed)
