# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

import random

import pytest

from llamafactory_clinkd.utils import row_index
from llamafactory_clinkd.utils.row_index import ComputedRows, HashIndex, RowNumbers, Texts, chunks


def test_chunks():
    assert list(chunks(range(5), 2)) == [[0, 1], [2, 3], [4]] and list(chunks([], 2)) == []


def test_texts_are_those_that_were_given(monkeypatch):
    monkeypatch.setattr(row_index, "CHUNK", 2)
    given = ["", "é", "x" * 100, "\udc80", "a\nb"]
    texts = Texts(iter(given))
    assert list(texts) == given and [texts[i] for i in range(-5, 5)] == given * 2 and texts[1:3] == given[1:3]
    assert len(Texts([])) == 0 and list(Texts([])) == []
    assert Texts(["a", "b"]).as_arrow().to_pylist() == ["a", "b"]


@pytest.mark.parametrize("hash_", [hash, lambda text: len(text)])  # the second one has many equal hashes
def test_numbers_of_ids_and_repeated_ones(monkeypatch, hash_):
    monkeypatch.setattr(row_index, "hash", hash_, raising=False)
    ids = [f"row-{number}" for number in range(50)]
    numbers = RowNumbers(ids)
    assert numbers.find(ids[::-1]) == list(range(50))[::-1] and numbers.find(["row", "row-51", ""]) == [-1] * 3
    assert numbers.repeated == [] and len(numbers) == 50
    assert RowNumbers([*ids, "row-7", "new", "row-7", "row-0"]).repeated == [50, 52, 53]
    assert RowNumbers([]).find(["a"]) == [-1]


def test_hash_index_is_a_dict(monkeypatch):
    monkeypatch.setattr(row_index, "RECENT", 16)
    draw, index, expected = random.Random(0), HashIndex(), {}
    for number in range(2000):
        key = draw.choice([draw.getrandbits(64), *list(expected)[:50]])
        index.put(key, number)
        expected[key] = number
    assert len(index) == len(expected) and index.get(5) is None and 5 not in index
    assert {key: index.get(key) for key in expected} == expected
    assert len(index._recent) < 200  # the others are in arrays


def test_rows_are_computed_when_they_are_used():
    used = []
    rows = ComputedRows(lambda a, b: used.append(a) or a + b, range(4), [10, 20, 30, 40])
    assert len(rows) == 4 and rows[2] == 32 and used == [2]
    assert list(rows) == [10, 21, 32, 43]
