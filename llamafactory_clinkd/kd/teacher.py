# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The teacher: a model of its own, or adapters over the student's own weights.

Either way it is in evaluation mode without a graph, sees the student's batch at positions that are its own, and shows
its final hidden states and its head, or logits where its head is not a plain product.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

import torch
from accelerate.utils import DistributedType
from peft import PeftConfig
from torch import nn

from ..training.lm_head import hidden_at, keeps_positions, output_at, plain_head
from ..utils.models import text_config
from ..utils.patching import bind_method
from .shared_tower import SharedTower, find_shared_tower


logger = logging.getLogger(__name__)

STUDENT_ONLY = ("labels", "rope_deltas", "use_cache", "logits_to_keep", "num_items_in_batch")


class Teacher:
    """A frozen model beside the student.

    Args:
        model: In evaluation mode.
        same_positions: Whether it takes the student's rotary positions from the batch; else it computes its own.

    Attributes:
        head: Its output projection if hidden states times its weight are its logits, else None.
        hidden_size: ``H_t``.
        stock_places_it: Whether stock's trainer, which takes it as its ``ref_model``, readies it at its own start.
    """

    stock_places_it = True

    def __init__(self, model: nn.Module, *, same_positions: bool) -> None:
        self.model = model
        self.config = model.config
        self.head = plain_head(model)
        self.hidden_size = text_config(model.config).hidden_size
        self._restricts = keeps_positions(model)
        self._same_positions = same_positions
        if self.head is None:
            where = "at the supervised positions" if self._restricts else "at every position"
            logger.warning(
                "The head of the teacher, a %s, cannot be used directly: its logits are computed %s.",
                type(model).__name__,
                where,
            )

    def place(self, accelerator: Any) -> None:
        """Readies the model for its forward passes, where it is not stock's trainer that does so.

        Args:
            accelerator: The trainer's: its device, mixed precision and engine are the teacher's.
        """
        self.model = accelerator.prepare_model(self.model, evaluation_mode=True).eval()

    def hidden(self, inputs: dict[str, Any], kept: torch.Tensor) -> torch.Tensor:
        """Final hidden states ``[B, K, H_t]`` at the positions ``kept`` ``[K]`` of the student's batch."""
        with torch.no_grad(), self.running(inputs) as model:
            return hidden_at(model, self.head, self._batch(inputs), kept)

    def logits(self, inputs: dict[str, Any], kept: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, K, V_t]`` there."""
        with torch.no_grad(), self.running(inputs) as model:
            return output_at(model, self._batch(inputs), kept, restricts=self._restricts).logits

    def _batch(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return teacher_batch(inputs, self.config, self._same_positions)

    @contextlib.contextmanager
    def running(self, inputs: dict[str, Any]) -> Iterator[nn.Module]:
        """The model, ready for a forward pass on the student's batch."""
        yield self.model

    def student_pass(self, inputs: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
        """To be around the student's forward pass on a batch that the teacher has just seen."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def whole_head(self) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """The head's weight ``[V_t, H_t]`` and bias, gathered for the duration where ZeRO-3 partitions them."""
        weights = [self.head.weight] if self.head.bias is None else [self.head.weight, self.head.bias]
        with contextlib.ExitStack() as stack:
            if hasattr(self.head.weight, "ds_id"):
                from deepspeed.runtime.zero import GatheredParameters

                stack.enter_context(GatheredParameters(weights))
            yield self.head.weight, self.head.bias


class AdapterTeacher(Teacher):
    """Adapters over the student's own base: one copy of the weights, the adapters switched for a forward pass.

    Args:
        model: The student, a ``PeftModel`` that holds the teacher's adapters too.
        adapters: Their names; several add up.
        same_positions: Must be true where positions matter: there is one position function.
    """

    stock_places_it = False

    def __init__(self, model: nn.Module, adapters: list[str], *, same_positions: bool = True) -> None:
        super().__init__(model, same_positions=same_positions)
        self._adapters = adapters
        self._tower: SharedTower | None = None

    def place(self, accelerator: Any) -> None:
        """It is where the student is; a vision tower that computes the same for both runs once a batch from now on.

        Not where an engine partitions the weights: it counts on the same layers in each pass.
        """
        plugin = accelerator.state.deepspeed_plugin
        partitioned = accelerator.distributed_type == DistributedType.FSDP or (plugin and plugin.zero_stage == 3)
        tower = None if partitioned else find_shared_tower(self.model)
        if tower is not None:
            self._tower = SharedTower(tower)
            logger.info("No adapter is on the vision tower: it runs once for teacher and student.")

    def student_pass(self, inputs: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
        """Inside, the student takes the image features that the teacher has just computed, if they can be shared."""
        return contextlib.nullcontext() if self._tower is None else self._tower.giving(inputs)

    @contextlib.contextmanager
    def running(self, inputs: dict[str, Any]) -> Iterator[nn.Module]:
        """The student as the teacher; afterwards it is the student again."""
        kept = contextlib.nullcontext() if self._tower is None else self._tower.keeping(inputs)
        with student_restored(self.model), kept:
            self.model.eval()
            self.model.base_model.set_adapter(self._adapters, inference_mode=True)
            yield self.model


def teacher_batch(inputs: dict[str, Any], config: Any, same_positions: bool) -> dict[str, Any]:
    """The teacher's keyword arguments for a batch of the student.

    Args:
        inputs: The student's keyword arguments: ``input_ids`` ``[B, L]``, pixels, grids, ``position_ids``.
        config: The teacher's configuration, which names its image and video tokens.
        same_positions: Whether ``position_ids``, computed for the student, are right for the teacher too.

    Returns:
        Pixels and tokens unchanged; ``position_ids`` only if they are shared, else ``mm_token_type_ids`` ``[B, L]``
        int64 (0 text, 1 image, 2 video) from which the teacher computes its own.
    """
    batch = {key: value for key, value in inputs.items() if key not in STUDENT_ONLY}
    if same_positions or "position_ids" not in batch:
        return batch

    del batch["position_ids"]
    image_token, video_token = getattr(config, "image_token_id", None), getattr(config, "video_token_id", None)
    if image_token is not None and "mm_token_type_ids" not in batch:
        kinds = torch.zeros_like(batch["input_ids"])
        kinds[batch["input_ids"] == image_token] = 1
        if video_token is not None:
            kinds[batch["input_ids"] == video_token] = 2
        batch["mm_token_type_ids"] = kinds
    return batch


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

    bind_method(model, "save_pretrained", save_pretrained)
