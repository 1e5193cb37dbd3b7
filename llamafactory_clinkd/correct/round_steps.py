# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Steps of correction rounds, some of which are longer than planned: their number, place and learning rate."""

from collections.abc import Callable, Sequence
from math import ceil


def update_steps(batches: int, accumulation: int) -> int:
    """Optimizer steps of a round of ``batches`` micro-batches (the last step may have fewer)."""
    return max(1, ceil(batches / accumulation))


def round_of_step(step: int, steps: Sequence[int]) -> tuple[int, int]:
    """The round (from 0) and the steps done in it after ``step`` steps of all; ``(len(steps), 0)`` at the end."""
    for number, length in enumerate(steps):
        if step < length:
            return number, step
        step -= length
    return len(steps), 0


class StepsOfRounds(int):
    """The planned steps of a round; as a divisor of a step it is :func:`round_of_step` with rounds of unequal length.

    Stock places a resumed step by ``step // steps`` and ``step % steps``, in transformers 5.0 to 5.2 inside its loop.
    """

    def __new__(cls, planned: int, steps: Sequence[int]) -> "StepsOfRounds":
        """``steps`` are the real ones of all rounds."""
        number = super().__new__(cls, planned)
        number._steps = steps
        return number

    def __rfloordiv__(self, step: int) -> int:
        return round_of_step(step, self._steps)[0]

    def __rmod__(self, step: int) -> int:
        return round_of_step(step, self._steps)[1]


def planned_step(step: int, steps: Sequence[int], planned: int) -> float:
    """The step of the plan, with ``planned`` steps a round, that corresponds to step ``step`` of the real rounds.

    Equal to ``step``, as an integer, while every round so far is as long as planned.
    """
    number, done = round_of_step(step, steps)
    if number == len(steps):
        return number * planned + (step - sum(steps))
    return number * planned + (done if steps[number] == planned else done * planned / steps[number])


def stretched(schedule: Callable[[float], float], steps: Sequence[int], planned: int) -> Callable[[int], float]:
    """A learning-rate multiplier over real steps; ``steps`` is read at each call, so that rounds may grow."""
    return lambda step: schedule(planned_step(step, steps, planned))
