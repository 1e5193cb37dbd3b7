# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A teacher whose trunk runs once a sample: its hidden states come from the cache as soon as they are there."""

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .teacher import Teacher
from .teacher_cache import HiddenCache


logger = logging.getLogger(__name__)


class CachedTeacher:
    """Hidden states by sample, computed where the cache has none.

    The trunk is loaded at the first sample that is missing and let go at the end of an epoch, so from the second
    epoch on (and in a later run with the same cache) only the head is in memory.

    Args:
        cache: Shared by all ranks.
        load: Loads the teacher.
        keep: Whether a loaded trunk must stay: the engine partitions it (ZeRO-3, FSDP), or it is the student's own.
        teacher: Already loaded, or None.

    Attributes:
        teacher: The teacher while its trunk is in memory.
        prepare: Called with a teacher that was loaded late: moves it to its device.
        trunk_runs: Batches that the trunk ran for.
    """

    def __init__(
        self, cache: HiddenCache, load: Callable[[], Teacher], *, keep: bool, teacher: Teacher | None = None
    ) -> None:
        self.cache = cache
        self.hidden_size = cache.hidden_size
        self.teacher = teacher
        self.prepare: Callable[[Teacher], None] = lambda teacher: None
        self.trunk_runs = 0
        self._load, self._keep = load, keep
        self._head: tuple[torch.Tensor, torch.Tensor | None] | None = None

    def hidden(
        self,
        keys: list[str],
        inputs: dict[str, Any],
        kept: torch.Tensor,
        targets: torch.Tensor,
        any_rank: Callable[[bool], bool] = bool,
    ) -> torch.Tensor:
        """Final hidden states ``[B, K, H_t]``, 0 at unsupervised positions if they come from the cache.

        Args:
            keys: One a sample.
            inputs: The student's batch.
            kept: ``[K]`` positions.
            targets: ``[B, K]`` labels, -100 where there is none: states of the others are kept, in order.
            any_rank: Whether a flag is true on any rank: a partitioned trunk runs on all of them or on none.
        """
        supervised = targets != -100
        if any_rank(any(key not in self.cache for key in keys)):
            hidden = self.loaded().hidden(inputs, kept)
            self.trunk_runs += 1
            for key, states, rows in zip(keys, hidden, supervised, strict=True):
                self.cache.put(key, states[rows])
            return hidden

        hidden = torch.zeros(*targets.shape, self.hidden_size, dtype=self.cache.dtype, device=targets.device)
        for row, key in enumerate(keys):
            states = self.cache.get(key)
            wanted = int(supervised[row].sum())
            if len(states) != wanted:
                raise ValueError(
                    f"The teacher cache has {len(states)} states for a sample with {wanted} supervised tokens: the "
                    f"files in {self.cache.directory} were mixed up. Delete the folder."
                )
            hidden[row, supervised[row]] = states.to(targets.device)
        return hidden

    def student_pass(self, inputs: dict[str, Any]) -> contextlib.AbstractContextManager[None]:
        """To be around the student's forward pass on a batch that :meth:`hidden` has just answered for."""
        return contextlib.nullcontext() if self.teacher is None else self.teacher.student_pass(inputs)

    @contextlib.contextmanager
    def whole_head(self) -> Iterator[tuple[torch.Tensor, torch.Tensor | None]]:
        """The head's weight ``[V_t, H_t]`` and bias."""
        if self.teacher is not None:
            with self.teacher.whole_head() as head:
                yield head
        else:
            yield self._head

    def loaded(self) -> Teacher:
        """The teacher with its trunk."""
        if self.teacher is None:
            logger.info("The teacher is loaded for samples that the cache in %s lacks.", self.cache.directory)
            self.teacher = self._load()
            self.prepare(self.teacher)
        return self.teacher

    def head_from_cache(self, device: torch.device) -> None:
        """Takes the head that an earlier run kept."""
        weight, bias = self.cache.load_head()
        self._head = (weight.to(device), None if bias is None else bias.to(device))
        logger.info("The teacher's head comes from the cache; its trunk is not loaded.")

    def keep_head(self) -> None:
        """Writes the head beside the states, for later runs; every rank calls it, the first one writes."""
        with self.whole_head() as (weight, bias):
            if self.cache.rank == 0 and not self.cache.has_head():
                self.cache.save_head(weight, bias)

    def release(self) -> Any:
        """Lets the trunk go unless it must stay; returns its model, of which the caller may hold references too."""
        if self._keep or self.teacher is None:
            return None
        with self.teacher.whole_head() as (weight, bias):
            self._head = (weight.detach(), None if bias is None else bias.detach())
        model, self.teacher = self.teacher.model, None
        return model
