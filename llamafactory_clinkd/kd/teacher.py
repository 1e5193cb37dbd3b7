# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The teacher: a frozen model beside the student, on its device, offloaded to the machine's memory or behind a cache.

It runs without a graph on the student's batch at its own rotary positions, and returns its final hidden states and
head, or logits where the head is not a plain product.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import nn

from ..rope.binding import token_types
from ..rope.mixed import fix_mixed
from ..training.lm_head import IGNORE_INDEX, find_head, hidden_at, output_at
from ..utils.models import text_config
from .teacher_cache import HiddenCache


logger = logging.getLogger(__name__)

STUDENT_ONLY = ("labels", "rope_deltas", "use_cache", "logits_to_keep", "num_items_in_batch")
OFFLOAD_UNDER_FSDP = "`kd_teacher_offload: true` and FSDP both move the teacher's layers. Remove the key."

CACHE_UNDER_FSDP = (
    "`kd_cache: hidden` needs the teacher's whole head, which FSDP does not provide outside its own forward pass. Set "
    "`kd_cache: off`, or use DeepSpeed."
)

IMAGE_SETTINGS = (
    "patch_size", "temporal_patch_size", "merge_size", "min_pixels", "max_pixels", "size", "image_mean", "image_std",
    "do_rescale", "rescale_factor", "do_normalize", "do_resize", "do_convert_rgb", "resample",
)  # fmt: skip

Head = tuple[torch.Tensor, torch.Tensor | None]
"""An output projection's weight ``[V, H]`` and bias ``[V]``."""


class Teacher:
    """A frozen model beside the student, in evaluation mode.

    Args:
        same_positions: Whether it takes the student's rotary positions from the batch; else it computes its own.

    Attributes:
        head: Its output projection if hidden states times its weight are its logits, else None.
        hidden_size: ``H_t``.
        prepared_by_trainer: Whether stock's trainer prepares it as its ``ref_model``; else call :meth:`prepare`.
    """

    prepared_by_trainer = True

    def __init__(self, model: nn.Module, *, same_positions: bool) -> None:
        self.model = model
        self.config = model.config
        self.head, self._restricts = find_head(model, "teacher")
        self.hidden_size = text_config(model.config).hidden_size
        self._same_positions = same_positions

    def prepare(self, accelerator: Any) -> None:
        """Prepares the model for the device, mixed precision and engine of the trainer's ``accelerator``."""
        self.model = accelerator.prepare_model(self.model, evaluation_mode=True).eval()

    def hidden(self, inputs: dict[str, Any], supervised_idx: torch.Tensor) -> torch.Tensor:
        """Final hidden states ``[B, K, H_t]`` at the positions ``supervised_idx`` ``[K]`` of the student's batch."""
        with torch.no_grad(), self.active_model(inputs) as model:
            return hidden_at(model, self.head, self._teacher_inputs(inputs), supervised_idx)

    def logits(self, inputs: dict[str, Any], supervised_idx: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, K, V_t]`` at the same positions."""
        with torch.no_grad(), self.active_model(inputs) as model:
            return output_at(model, self._teacher_inputs(inputs), supervised_idx, restricts=self._restricts).logits

    def _teacher_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The student's batch, with ``mm_token_type_ids`` instead of ``position_ids`` if positions differ."""
        batch = {key: value for key, value in inputs.items() if key not in STUDENT_ONLY}
        if self._same_positions or "position_ids" not in batch:
            return batch
        del batch["position_ids"]
        if "mm_token_type_ids" not in batch and getattr(self.config, "image_token_id", None) is not None:
            batch["mm_token_type_ids"] = token_types(self.config, batch["input_ids"])
        return batch

    def active_model(self, inputs: dict[str, Any]) -> contextlib.AbstractContextManager[nn.Module]:
        """The model, ready for a forward pass on the student's batch."""
        return contextlib.nullcontext(self.model)

    def student_pass(self, inputs: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
        """Context of the student's forward pass, which follows the teacher's on the same batch."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def gathered_head(self) -> Iterator[Head]:
        """The head's weight ``[V_t, H_t]`` and bias, gathered inside the block where ZeRO-3 partitions them."""
        gathered = contextlib.nullcontext()
        if hasattr(self.head.weight, "ds_id"):
            from deepspeed.runtime.zero import GatheredParameters

            gathered = GatheredParameters(list(self.head.parameters()))
        with gathered:
            yield self.head.weight, self.head.bias


class OffloadedTeacher(Teacher):
    """A teacher whose weights stay in the machine's memory; each layer is moved to the GPU for its forward pass.

    To ``accelerate.cpu_offload`` this adds pinned weights, and the head on the GPU while the loss reads it.
    """

    prepared_by_trainer = False

    def prepare(self, accelerator: Any) -> None:
        """Adds the hooks to the model's layers; raises ValueError under FSDP, which moves layers itself."""
        from accelerate import cpu_offload

        if accelerator.distributed_type == DistributedType.FSDP:
            raise ValueError(OFFLOAD_UNDER_FSDP)
        self._device = accelerator.device
        fix_mixed(self.model, self._device)
        weights = _pinned(self.model.state_dict()) if self._device.type == "cuda" else self.model.state_dict()
        if self.head is not None:
            name = next(name for name, module in self.model.named_modules() if module is self.head)
            self._offloaded_head = (weights[f"{name}.weight"], weights.get(f"{name}.bias"))
        accelerator.prepare_model(self.model, device_placement=False, evaluation_mode=True)
        cpu_offload(self.model, execution_device=self._device, state_dict=weights)

    @contextlib.contextmanager
    def gathered_head(self) -> Iterator[Head]:
        """The head's weight ``[V_t, H_t]`` and bias, on the GPU."""
        yield tuple(x if x is None else x.to(self._device, non_blocking=True) for x in self._offloaded_head)


class CachedTeacher:
    """A teacher whose trunk runs once for each sample: the cache has its hidden states afterwards.

    The trunk is loaded at the first sample that is missing and dropped at the end of an epoch, so from the second
    epoch on (and in a later run with the same cache) only the head is in memory. ``keep_trunk`` keeps it: an engine
    partitions the trunk (ZeRO-3), or it is the student's own.

    Attributes:
        teacher: The teacher while its trunk is in memory, else None.
    """

    def __init__(
        self, cache: HiddenCache, load: Callable[[], Teacher], *, keep_trunk: bool, teacher: Teacher | None = None
    ) -> None:
        self.cache, self.hidden_size = cache, cache.hidden_size
        self.teacher = teacher
        self._load, self._keep_trunk = load, keep_trunk
        self._accelerator: Any = None
        self._head: Head | None = None

    def prepare(self, accelerator: Any) -> None:
        """Writes the head of a teacher that is loaded and prepared for later runs, or reads that of an earlier run."""
        self._accelerator = accelerator
        if self.teacher is None:
            self._head = tuple(x if x is None else x.to(accelerator.device) for x in self.cache.load_head())
            logger.info("The teacher's head comes from the cache; its trunk is not loaded.")
            return
        with self.gathered_head() as (weight, bias):  # on every rank
            if self.cache.rank == 0 and not self.cache.has_head():
                self.cache.save_head(weight, bias)

    def hidden(
        self, keys: list[str], inputs: dict[str, Any], supervised_idx: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Final hidden states ``[B, K, H_t]``, 0 at unsupervised positions if they come from the cache.

        The states with a label in ``targets`` ``[B, K]`` are cached, in order; ``keys`` has one key for each sample.
        """
        supervised = targets != IGNORE_INDEX
        if self._on_any_rank(any(key not in self.cache for key in keys)):
            if self.teacher is None:
                logger.info("The teacher is loaded for samples that the cache in %s lacks.", self.cache.directory)
                self.teacher = self._load()
                self.teacher.prepare(self._accelerator)
            hidden = self.teacher.hidden(inputs, supervised_idx)
            for key, states, rows in zip(keys, hidden, supervised, strict=True):
                self.cache.put(key, states[rows])
            return hidden

        hidden = torch.zeros(*targets.shape, self.hidden_size, dtype=self.cache.dtype, device=targets.device)
        for row, key in enumerate(keys):
            states = self.cache.get(key)
            expected = int(supervised[row].sum())
            if len(states) != expected:
                raise ValueError(
                    f"The teacher cache has {len(states)} states for a sample with {expected} supervised tokens: the "
                    f"files in {self.cache.directory} were mixed up. Delete the folder."
                )
            hidden[row, supervised[row]] = states.to(targets.device)
        return hidden

    def _on_any_rank(self, flag: bool) -> bool:
        """Whether ``flag`` is true on any rank: DeepSpeed may partition the trunk, which then runs on all or none."""
        if self._accelerator.state.deepspeed_plugin is None:
            return flag
        flags = torch.tensor(float(flag), device=self._accelerator.device)
        return bool(self._accelerator.reduce(flags, reduction="sum") > 0)

    def student_pass(self, inputs: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
        """Context of the student's forward pass, which follows :meth:`hidden` on the same batch."""
        return contextlib.nullcontext() if self.teacher is None else self.teacher.student_pass(inputs)

    def gathered_head(self) -> contextlib.AbstractContextManager[Head]:
        """The head's weight ``[V_t, H_t]`` and bias."""
        return contextlib.nullcontext(self._head) if self.teacher is None else self.teacher.gathered_head()

    def drop_trunk(self) -> Any:
        """Drops the trunk unless it must stay; returns its model, so that the caller can drop it too."""
        if self._keep_trunk or self.teacher is None:
            return None
        with self.teacher.gathered_head() as head:
            self._head = tuple(x if x is None else x.detach() for x in head)
        model, self.teacher = self.teacher.model, None
        return model


def _pinned(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights in pinned memory; tied ones stay one tensor."""
    distinct = {(weight.data_ptr(), weight.shape): weight for weight in weights.values()}
    pinned = {key: weight.pin_memory() for key, weight in distinct.items()}
    return {name: pinned[weight.data_ptr(), weight.shape] for name, weight in weights.items()}


def check_teacher(student: dict[str, Any], teacher: dict[str, Any]) -> None:
    """Compares the results of stock's ``load_tokenizer`` for both models; raises ValueError with every difference.

    With another token map or image processor the teacher's distributions mean something else; the loss still falls.
    """
    differences = compare_tokenizers(student["tokenizer"], teacher["tokenizer"])
    differences += compare_processors(student.get("processor"), teacher.get("processor"))
    if differences:
        raise ValueError(
            f"Teacher and student do not read the same input: {'; '.join(differences)}. Distillation compares them "
            "token by token: choose a `ref_model` of the same family and save both with the same processor settings."
        )


def compare_tokenizers(student: Any, teacher: Any) -> list[str]:
    """Differences between two token -> id maps, the first few by name."""
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    different = sorted(
        (token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)),
        key=lambda token: (ours.get(token, theirs.get(token)), token),
    )
    if not different:
        return []
    shown = ", ".join(f"{token!r} is {ours.get(token)} and {theirs.get(token)}" for token in different[:3])
    return [f"{len(different)} tokens have other ids in student and teacher: {shown}"]


def compare_processors(student: Any, teacher: Any) -> list[str]:
    """Differences between two image processors' settings."""
    ours, theirs = getattr(student, "image_processor", None), getattr(teacher, "image_processor", None)
    if (ours is None) != (theirs is None):
        return [f"student {'has' if ours else 'has no'} image processor, teacher {'has' if theirs else 'has no'} one"]
    if ours is None:
        return []
    settings = ((key, getattr(ours, key, None), getattr(theirs, key, None)) for key in IMAGE_SETTINGS)
    return [
        f"image processor's {key} is {a} for the student and {b} for the teacher"
        for key, a, b in settings
        if _plain(a) != _plain(b)
    ]


def _plain(value: Any) -> Any:
    return dict(value) if hasattr(value, "items") else list(value) if isinstance(value, tuple) else value
