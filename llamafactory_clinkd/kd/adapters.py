# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The teacher's adapters inside the student: loaded frozen, and kept out of everything that is saved."""

import contextlib
from collections.abc import Iterator
from types import MethodType
from typing import Any

from peft import PeftConfig
from torch import nn


CHANGE_THEIR_BASE = ("pissa", "corda", "olora", "loftq")
"""Initialisations by which PEFT writes into the base's weights, as soon as such adapters are put into a model."""


def reasons_for_own_base(paths: list[str], **options: Any) -> list[str]:
    """Why adapters cannot lie beside the student's over one base; none if they can.

    Args:
        paths: Folders or hub names of the teacher's adapters.
        **options: As of :func:`add_teacher_adapters`.
    """
    found = []
    for path in paths:
        config = PeftConfig.from_pretrained(path, **options)
        start = getattr(config, "init_lora_weights", None)
        if isinstance(start, str) and start.lower().startswith(CHANGE_THEIR_BASE):
            found.append(f"the teacher's adapters are of `init_lora_weights: {start}`, which changes the base")
        for key in ("modules_to_save", "trainable_token_indices"):
            if getattr(config, key, None):
                found.append(f"the teacher's adapters replace parts of the base (`{key}: {getattr(config, key)}`)")
    return found


def add_teacher_adapters(model: nn.Module, paths: list[str], **options: Any) -> list[str]:
    """Loads adapters into a ``PeftModel`` beside its own, which stays active and alone trainable and saved.

    Args:
        model: The student.
        paths: Folders or hub names of the teacher's adapters.
        **options: Of ``load_adapter``: ``revision``, ``token``, ...

    Returns:
        The names under which the model holds them.
    """
    names = [f"clinkd_teacher_{number}" for number in range(len(paths))]
    _save_only(model, list(model.active_adapters))
    with student_restored(model):
        for name, path in zip(names, paths, strict=True):
            model.load_adapter(path, adapter_name=name, is_trainable=False, **options)
    return names


@contextlib.contextmanager
def student_restored(model: nn.Module) -> Iterator[None]:
    """Inside, adapters may be switched; afterwards the student has its own, its mode and its trainable parameters."""
    student, training = list(model.active_adapters), model.training
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        yield
    finally:
        model.base_model.set_adapter(student, inference_mode=True)
        for parameter in trainable:
            parameter.requires_grad_(True)
        model.train(training)


def _save_only(model: nn.Module, adapters: list[str]) -> None:
    """PEFT saves every adapter that it holds; this model saves these."""
    stock = model.save_pretrained

    def save_pretrained(self: nn.Module, save_directory: str, *args: Any, **kwargs: Any) -> Any:
        return stock(save_directory, *args, **{"selected_adapters": adapters, **kwargs})

    model.save_pretrained = MethodType(save_pretrained, model)
