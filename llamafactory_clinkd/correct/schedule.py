# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The schedule of the correction rounds: longer rounds, one cosine.

A round that has corrected rows in front takes more steps than planned. The learning rate follows the planned schedule
by *progress*: each round spans the same part of it, whatever its length. Without corrections every step is where it
was.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate
from math import ceil


def update_steps(batches: int, accumulation: int) -> int:
    """Optimizer steps of a round of ``batches`` micro-batches (the last step may have fewer)."""
    return max(1, ceil(batches / accumulation))


def round_of_step(step: int, steps: Sequence[int]) -> tuple[int, int]:
    """The round that optimizer step ``step`` (0-based) belongs to, and the steps of it that are done.

    Args:
        step: Steps done so far, ``0 <= step <= sum(steps)``.
        steps: Steps of each round.

    Returns:
        ``(round, done)``; at the very end ``(len(steps), 0)``.
    """
    starts = [0, *accumulate(steps)]
    for index in range(len(steps)):
        if step < starts[index + 1]:
            return index, step - starts[index]
    return len(steps), 0


def planned_step(step: int, steps: Sequence[int], planned: int) -> float:
    """Where step ``step`` of the actual rounds stands in the plan of ``planned`` steps a round.

    Equal to ``step`` as an integer while every round so far is as long as planned.
    """
    index, done = round_of_step(step, steps)
    if index == len(steps):
        return index * planned + (step - sum(steps))
    if steps[index] == planned:
        return index * planned + done
    return index * planned + done * planned / steps[index]


def stretched(schedule: Callable[[float], float], steps: Sequence[int], planned: int) -> Callable[[int], float]:
    """A learning-rate multiplier over actual steps; ``steps`` is read at each call, so that rounds may grow."""
    return lambda step: schedule(planned_step(step, steps, planned))
