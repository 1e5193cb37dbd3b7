# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Image features of a round of rollouts, computed once and read by rollout, student and teacher.

They are computed batch by batch, in the shapes of the training step, so that every reader gets the same bits as if it
had run the tower itself.
"""

import contextlib
import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..utils.patching import patch_instance
from .adapter_teacher import find_shared_tower
from .rollouts import Batch


IMAGES, GRID, VIDEOS = "pixel_values", "image_grid_thw", "pixel_values_videos"


class TowerFeatures:
    """Records a tower's outputs for several batches in one ``generate`` call, and replays them in training steps.

    Args:
        student: A model whose tower is frozen and the same in both modes; see :meth:`of`.
        teacher: The teacher's equal tower, or None.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module | None) -> None:
        self._towers = [student] if teacher is None or teacher is student else [student, teacher]
        self._outputs: dict[int, Any] = {}
        self._next = 0

    @classmethod
    def of(cls, student: nn.Module, teacher: nn.Module | None) -> "TowerFeatures | None":
        """Features of two models' towers; None if the student's is trained, adapted or random.

        ``teacher`` is None where its features are not to be replaced.
        """
        tower = find_shared_tower(student)
        if tower is None:
            return None
        other = None if teacher is None else find_shared_tower(teacher)
        return cls(tower, other if other is not None and equal_weights(tower, other) else None)

    @property
    def serves_teacher(self) -> bool:
        """Whether another model's tower is replaced, too."""
        return len(self._towers) > 1

    @contextlib.contextmanager
    def record(self, batches: Sequence[Batch]) -> Iterator[list[int | None]]:
        """Inside, the tower runs once for each batch; yields numbers for :meth:`replay`, None where it did not."""
        numbers: list[int | None] = [None] * len(batches)
        compute = self._towers[0].forward
        has_videos = any(batch.get(VIDEOS) is not None for batch in batches)  # a second call of the tower
        patches, grids = ([_length(batch.get(name)) for batch in batches] for name in (IMAGES, GRID))

        def forward(*args: Any, **kwargs: Any) -> Any:
            first = next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
            if min(patches) == 0 or has_videos or len(first) != sum(patches):  # no image in a batch, or a video
                return compute(*args, **kwargs)
            outputs = []
            for index in range(len(batches)):
                part = functools.partial(_part, index=index, divisions=(patches, grids))
                output = compute(*map(part, args), **{name: part(value) for name, value in kwargs.items()})
                numbers[index], self._next = self._next, self._next + 1
                self._outputs[numbers[index]] = copy.copy(output)
                outputs.append(output)
            return _joined(outputs)

        with patch_instance(self._towers[0], "forward", forward):
            yield numbers

    @contextlib.contextmanager
    def replay(self, number: int | None) -> Iterator[None]:
        """Inside, the towers return the recorded output, which is dropped afterwards; they run as ever for None."""
        if number is None:
            yield
            return
        output = self._outputs.pop(number)
        with contextlib.ExitStack() as stack:
            for tower in self._towers:
                stack.enter_context(patch_instance(tower, "forward", lambda *args, **kwargs: copy.copy(output)))
            yield

    def clear(self) -> None:
        """Drops what was recorded and not read."""
        self._outputs.clear()


def equal_weights(a: nn.Module, b: nn.Module) -> bool:
    """Whether two modules of one class and configuration have equal parameters and buffers, of one type and device."""
    if a is b:
        return True
    if type(a) is not type(b) or str(getattr(a, "config", None)) != str(getattr(b, "config", None)):
        return False
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == theirs[name].dtype
        and ours[name].device == theirs[name].device
        and torch.equal(ours[name], theirs[name])
        for name in ours
    )


def _length(value: torch.Tensor | None) -> int:
    return 0 if value is None else len(value)


def _part(value: Any, *, index: int, divisions: Sequence[list[int]]) -> Any:
    """One batch's part of an argument of the tower: tensors by image patches or by grids, the rest as it is."""
    for sizes in divisions if isinstance(value, torch.Tensor) else ():
        if value.shape[:1] == (sum(sizes),):
            return value.split(sizes)[index]
    return value


def _joined(outputs: Sequence[Any]) -> Any:
    """The outputs of all batches as the tower returns them for all images together."""
    first = outputs[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(list(outputs))
    if isinstance(first, Mapping):
        joined = copy.copy(first)
        for name in first:
            joined[name] = _joined([output[name] for output in outputs])
        return joined
    if isinstance(first, (list, tuple)):
        return type(first)(_joined(items) for items in zip(*outputs, strict=True))
    return first
