# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafactory_clinkd.correct.round_steps import (
    StepsOfRounds,
    planned_step,
    round_of_step,
    stretched,
    update_steps,
)


def cosine(total):
    return lambda step: 0.5 * (1 + math.cos(math.pi * step / total))


@given(st.integers(1, 50), st.integers(1, 5))
def test_rounds_as_planned_leave_every_step_where_it_was(planned, rounds):
    steps = [planned] * rounds
    positions = [planned_step(step, steps, planned) for step in range(sum(steps) + 1)]
    assert positions == list(range(sum(steps) + 1))
    assert all(isinstance(position, int) for position in positions), "an integer, so that a schedule is bit-identical"


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 40))
def test_longer_rounds_span_the_same_part_of_the_plan(steps, planned):
    positions = [planned_step(step, steps, planned) for step in range(sum(steps) + 1)]
    assert all(later > earlier for earlier, later in zip(positions, positions[1:], strict=False))
    start = 0
    for number, length in enumerate(steps):
        assert positions[start] == pytest.approx(number * planned)
        start += length
    assert positions[-1] == planned * len(steps)


def test_a_growing_round_changes_the_schedule_from_there_on():
    steps = [4, 4]
    schedule = stretched(cosine(8), steps, 4)
    before = [schedule(step) for step in range(4)]
    steps[1] = 8
    assert [schedule(step) for step in range(4)] == before == [cosine(8)(step) for step in range(4)]
    assert schedule(8) == pytest.approx(cosine(8)(6)) and schedule(12) == pytest.approx(0.0)


@pytest.mark.parametrize(("step", "expected"), [(0, (0, 0)), (2, (0, 2)), (3, (1, 0)), (7, (1, 4)), (8, (2, 0))])
def test_round_of_step(step, expected):
    assert round_of_step(step, [3, 5]) == expected


@given(st.integers(1, 40), st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_divided_by_the_steps_of_rounds_a_step_gives_its_round(planned, steps):
    divisor = StepsOfRounds(planned, steps)
    assert divisor == planned and list(range(divisor)) == list(range(planned))
    for step in range(sum(steps)):
        assert (step // divisor, step % divisor) == round_of_step(step, steps)


@pytest.mark.parametrize(("batches", "accumulation", "expected"), [(8, 2, 4), (7, 2, 4), (1, 8, 1), (0, 4, 1)])
def test_update_steps(batches, accumulation, expected):
    assert update_steps(batches, accumulation) == expected
