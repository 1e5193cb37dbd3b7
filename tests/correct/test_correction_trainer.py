# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llamafactory_clinkd.correct.correction_trainer import (
    CorrectionTrainer,
    StepsOfRounds,
    corrected_first,
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


def test_a_loop_that_does_not_train_the_whole_round_ends_with_an_error():
    trainer = CorrectionTrainer.__new__(CorrectionTrainer)
    trainer._steps, trainer.state = [2, 5], SimpleNamespace(global_step=4)
    trainer.control = SimpleNamespace(should_training_stop=False)
    with pytest.raises(RuntimeError, match="Round 2 ended after 2 of 5 steps.*clinkd doctor"):
        trainer.after_epoch()


@pytest.mark.parametrize(("batches", "accumulation", "expected"), [(8, 2, 4), (7, 2, 4), (1, 8, 1), (0, 4, 1)])
def test_update_steps(batches, accumulation, expected):
    assert update_steps(batches, accumulation) == expected


def test_corrected_rows_keep_their_order_and_the_others_follow():
    order = corrected_first(3, 50, seed=7, shuffle=True)
    assert order[:3] == [0, 1, 2]
    assert sorted(order[3:]) == list(range(3, 53)) != order[3:]
    assert len(corrected_first(3, 50, seed=7, shuffle=True)) == 53


def test_every_rank_draws_the_same_and_another_round_another_order():
    first, again, other = (corrected_first(2, 50, seed=seed, shuffle=True) for seed in (7, 7, 8))
    assert first == again != other


def test_without_shuffling_the_data_sets_order_stays():
    assert corrected_first(2, 5, seed=7, shuffle=False) == list(range(7))
