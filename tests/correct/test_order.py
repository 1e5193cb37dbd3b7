# Copyright 2026 the llamafactory-clinkd team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

from llamafactory_clinkd.correct.rounds import CorrectedFirst


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
