# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Memory of what reads and continues a run's files: bytes for each further row, counted by tracemalloc, not timed."""

import tracemalloc

import growth_cases
import pytest
from datasets import Dataset

from llamafactory_clinkd.correct import correction_round
from llamafactory_clinkd.data import reader
from llamafactory_clinkd.phases.distill_served import supervised_tokens
from llamafactory_clinkd.utils import row_index


SMALL, LARGE = 1_000, 6_000
BYTES = 400  # a row at most, with what does not grow; lists of rows take more than 1,000
EXPECTED = {
    "data": lambda n: "1000",
    "data_again": lambda n: "1000",
    "count": lambda n: n,
    "rows": lambda n: (n, n // 8, 4 * n),
    "describe": lambda n: n,
    "progress": lambda n: [n - growth_cases.MISSING] * 2,
    "generation": lambda n: n - growth_cases.MISSING,
    "merge": lambda n: n - growth_cases.MISSING,
    "labels": lambda n: (n, n),
    "correction": lambda n: n,
    "selection": lambda n: n,
    "cache": lambda n: n,
}


@pytest.mark.parametrize("case", growth_cases.CASES)
def test_memory_for_each_row(case, tmp_path, monkeypatch):
    monkeypatch.setattr(row_index, "RECENT", 256)
    monkeypatch.setattr(row_index, "CHUNK", 256)
    monkeypatch.setattr(correction_round, "JUDGE_BLOCK", 256)
    monkeypatch.setattr(reader, "WINDOW", 1 << 14)
    make, works, _ = growth_cases.CASES[case]
    peaks = {}
    for rows in (100, SMALL, LARGE):  # the first one imports
        folder = tmp_path / str(rows)
        folder.mkdir()
        make(folder, rows)
        for work in works:
            tracemalloc.start()
            found = work(folder, rows)
            peaks[work.__name__.removeprefix("run_"), rows] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            if rows > 100:
                assert found == EXPECTED[work.__name__.removeprefix("run_")](rows), work.__name__
    for name, _ in [each for each in peaks if each[1] == LARGE]:
        bytes_a_row = (peaks[name, LARGE] - peaks[name, SMALL]) / (LARGE - SMALL)
        assert bytes_a_row < BYTES, name


def test_the_first_token_of_a_row_is_not_predicted():
    rows = Dataset.from_dict({"labels": [[5, -100, 7], [], [-100], [1], [-100, 2, 3]]})
    assert supervised_tokens(rows) == supervised_tokens(rows.select([4, 1, 3, 2, 0])) == 3
    assert supervised_tokens(rows.select([1])) == supervised_tokens(rows.select([])) == 0
