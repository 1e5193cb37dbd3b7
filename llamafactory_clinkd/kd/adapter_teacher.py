# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A teacher that is the student's own base, with other adapters or none: the weights are in memory once.

If no adapter is on the vision tower, it runs once for both: its features are recorded in the teacher's forward pass
and replayed in the student's on the same batch.
"""

import contextlib
import copy
import logging
from collections.abc import Iterator
from typing import Any

from accelerate.utils import DistributedType
from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..utils.models import require_finite_weights
from ..utils.patching import bind_method, patch_instance
from .teacher import Teacher


logger = logging.getLogger(__name__)

TOWER_NAMES = ("visual", "vision_tower")  # of transformers' vision-language models
BASE_CHANGING_INITS = ("pissa", "corda", "olora", "loftq")  # PEFT changes the base's weights when it loads them


class AdapterTeacher(Teacher):
    """Adapters in the student (a ``PeftModel``), switched on for the teacher's forward pass; several add up.

    Without any, the teacher is the base that the student's adapter is trained over (self-distillation).
    """

    prepared_by_trainer = False

    def __init__(self, model: nn.Module, adapters: list[str]) -> None:
        super().__init__(model, same_positions=True)
        self._adapters = adapters
        self._tower: SharedTower | None = None

    def prepare(self, accelerator: Any) -> None:
        """Shares the vision tower if both models' is the same."""
        plugin = accelerator.state.deepspeed_plugin
        # An engine that partitions weights expects the same layers in every forward pass.
        partitioned = accelerator.distributed_type == DistributedType.FSDP or (plugin and plugin.zero_stage == 3)
        tower = None if partitioned else find_shared_tower(self.model)
        if tower is not None:
            self._tower = SharedTower(tower)
            logger.info("No adapter is on the vision tower: it runs once for teacher and student.")

    @contextlib.contextmanager
    def active_model(self, inputs: dict[str, Any]) -> Iterator[nn.Module]:
        """The student with the teacher's adapters; its own are restored afterwards."""
        recording = contextlib.nullcontext() if self._tower is None else self._tower.record(inputs)
        base = contextlib.nullcontext() if self._adapters else self.model.disable_adapter()
        with student_restored(self.model), base, recording:
            self.model.eval()
            if self._adapters:
                self.model.base_model.set_adapter(self._adapters, inference_mode=True)
            yield self.model

    def student_pass(self, inputs: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
        """Inside, the student reuses the image features of the teacher's pass, if the tower is shared."""
        return contextlib.nullcontext() if self._tower is None else self._tower.replay(inputs)


class SharedTower:
    """Records a vision tower's outputs in one forward pass of its model and replays them in the next."""

    def __init__(self, tower: nn.Module) -> None:
        self._tower = tower
        self._batch, self._outputs = None, []

    @contextlib.contextmanager
    def record(self, batch: Any) -> Iterator[None]:
        """Inside, the outputs are recorded as those of ``batch``."""
        compute = self._tower.forward
        self._batch, self._outputs = batch, []

        def forward(*args: Any, **kwargs: Any) -> Any:
            output = compute(*args, **kwargs)
            self._outputs.append(copy.copy(output))  # the model may change the object that it gets
            return output

        with patch_instance(self._tower, "forward", forward):
            yield

    @contextlib.contextmanager
    def replay(self, batch: Any) -> Iterator[None]:
        """Inside, the recorded outputs are returned in order if they belong to ``batch``, then dropped."""
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
    """The vision tower of ``model``, if its output depends neither on the active adapters nor on the mode.

    None if no tower has a known name, or if it has adapters, is trained, drops out or normalises by the batch.
    """
    towers = (tower for name, tower in model.named_modules() if name.rpartition(".")[2] in TOWER_NAMES)
    tower = next(towers, None)
    return tower if tower is not None and _is_constant(tower) else None


def _is_constant(tower: nn.Module) -> bool:
    settings = tower.config.to_dict() if hasattr(tower, "config") else {}
    drops = any("drop" in name and isinstance(value, float) and value > 0 for name, value in settings.items())
    trained = any(parameter.requires_grad for parameter in tower.parameters())
    return not (drops or trained) and not any(
        isinstance(module, BaseTunerLayer | nn.modules.batchnorm._BatchNorm)
        or (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
        for module in tower.modules()
    )


def reasons_for_own_base(paths: list[str], **options: Any) -> list[str]:
    """Why adapters (folders or hub names) need a base of their own; empty if they can share the student's."""
    reasons = []
    for path in paths:
        config = PeftConfig.from_pretrained(path, **options)
        init = getattr(config, "init_lora_weights", None)
        if isinstance(init, str) and init.lower().startswith(BASE_CHANGING_INITS):
            reasons.append(f"the teacher's adapters are of `init_lora_weights: {init}`, which changes the base")
        for key in ("modules_to_save", "trainable_token_indices"):
            if getattr(config, key, None):
                reasons.append(f"the teacher's adapters replace parts of the base (`{key}: {getattr(config, key)}`)")
    return reasons


def add_teacher_adapters(model: nn.Module, paths: list[str], **options: Any) -> list[str]:
    """Loads adapters into a ``PeftModel`` by folder or hub name; only its own are active, trained and saved.

    Returns their names in the model; ``options`` are those of ``load_adapter`` (``revision``, ``token``, ...).
    """
    names = [f"clinkd_teacher_{number}" for number in range(len(paths))]
    student_adapters, stock = list(model.active_adapters), model.save_pretrained

    def save_pretrained(self: nn.Module, save_directory: str, *args: Any, **kwargs: Any) -> Any:
        return stock(save_directory, *args, **{"selected_adapters": student_adapters, **kwargs})

    bind_method(model, "save_pretrained", save_pretrained)  # PEFT saves every adapter that it holds
    with student_restored(model):
        for name, path in zip(names, paths, strict=True):
            model.load_adapter(path, adapter_name=name, is_trainable=False, **options)
    require_finite_weights(model, f"of the teacher's adapters {', '.join(paths)}")
    return names


@contextlib.contextmanager
def student_restored(model: nn.Module) -> Iterator[None]:
    """Restores the student's adapters, mode and trainable parameters at the end of the block."""
    student, training = list(model.active_adapters), model.training
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        yield
    finally:
        model.base_model.set_adapter(student, inference_mode=True)
        for parameter in trainable:
            parameter.requires_grad_(True)
        model.train(training)
