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

"""The teacher's adapters inside the student: loaded frozen, and kept out of everything that is saved."""

from types import MethodType
from typing import Any

from torch import nn


def add_teacher_adapters(model: nn.Module, paths: list[str], **options: Any) -> list[str]:
    """Loads adapters into a ``PeftModel`` beside its own, which stays active and alone trainable and saved.

    Args:
        model: The student.
        paths: Folders or hub names of the teacher's adapters.
        **options: Of ``load_adapter``: ``revision``, ``token``, ...

    Returns:
        The names under which the model holds them.
    """
    student, training = list(model.active_adapters), model.training
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    names = [f"clinkd_teacher_{number}" for number in range(len(paths))]
    for name, path in zip(names, paths, strict=True):
        model.load_adapter(path, adapter_name=name, is_trainable=False, **options)
    model.base_model.set_adapter(student, inference_mode=True)
    for parameter in trainable:
        parameter.requires_grad_(True)
    model.train(training)
    _save_only(model, student)
    return names


def _save_only(model: nn.Module, adapters: list[str]) -> None:
    """PEFT saves every adapter that it holds; this model saves these."""
    stock = model.save_pretrained

    def save_pretrained(self: nn.Module, save_directory: str, *args: Any, **kwargs: Any) -> Any:
        return stock(save_directory, *args, **{"selected_adapters": adapters, **kwargs})

    model.save_pretrained = MethodType(save_pretrained, model)
