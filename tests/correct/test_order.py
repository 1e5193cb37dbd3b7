# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

from llamafactory_clinkd.correct.correction_trainer import CorrectedFirst


def test_corrected_rows_keep_their_order_and_the_others_follow():
    order = list(CorrectedFirst(3, 50, seed=7, shuffle=True))
    assert order[:3] == [0, 1, 2]
    assert sorted(order[3:]) == list(range(3, 53)) != order[3:]
    assert len(CorrectedFirst(3, 50, seed=7, shuffle=True)) == 53


def test_every_rank_draws_the_same_and_another_round_another_order():
    first, again, other = (list(CorrectedFirst(2, 50, seed=seed, shuffle=True)) for seed in (7, 7, 8))
    assert first == again != other


def test_without_shuffling_the_data_sets_order_stays():
    assert list(CorrectedFirst(2, 5, seed=7, shuffle=False)) == list(range(7))
