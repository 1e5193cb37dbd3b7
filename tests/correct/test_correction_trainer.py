# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

from types import SimpleNamespace

import pytest

from llamafactory_clinkd.correct.correction_trainer import CorrectionTrainer, corrected_first


def test_a_loop_that_does_not_train_the_whole_round_ends_with_an_error():
    trainer = CorrectionTrainer.__new__(CorrectionTrainer)
    trainer._steps, trainer.state = [2, 5], SimpleNamespace(global_step=4)
    trainer.control = SimpleNamespace(should_training_stop=False)
    with pytest.raises(RuntimeError, match="Round 2 ended after 2 of 5 steps.*clinkd doctor"):
        trainer.after_epoch()


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
