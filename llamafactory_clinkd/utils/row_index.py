# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Ids and hashes of millions of rows at some tens of bytes each, where Python's own objects take a hundred or more."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, starmap
from typing import Any

import numpy as np


CHUNK = 8192
RECENT = 1 << 16


def chunks(items: Iterable[Any], size: int | None = None) -> Iterator[list[Any]]:
    """Lists of ``size`` items (None: :data:`CHUNK`), the last one shorter."""
    iterator, size = iter(items), size or CHUNK
    return iter(lambda: list(islice(iterator, size)), [])


def hash_of(text: bytes) -> int:
    """64 bits of a text, for a :class:`HashIndex`: among 10 million, two are equal with a probability of 3e-6."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


class Texts(Sequence[str]):
    """Strings that do not change: their UTF-8 bytes and 8 more for each."""

    def __init__(self, texts: Iterable[str]) -> None:
        import pyarrow as pa

        encoded = ([text.encode("utf-8", "surrogatepass") for text in part] for part in chunks(texts))
        self._texts = pa.concat_arrays(
            [pa.array(part, pa.large_binary()) for part in encoded] or [pa.array([], pa.large_binary())]
        )

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.take(np.arange(*index.indices(len(self))))
        return _decode(self._texts[index].as_py())

    def take(self, numbers: np.ndarray) -> list[str]:
        """The strings of these numbers."""
        return [_decode(text) for text in self._texts.take(numbers).to_pylist()]

    def as_arrow(self) -> Any:
        """The strings as a column for `datasets`."""
        import pyarrow as pa

        return self._texts.cast(pa.string() if self._texts.nbytes < 2**31 else pa.large_string())

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), CHUNK):
            yield from map(_decode, self._texts[start : start + CHUNK].to_pylist())


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogatepass")


class RowNumbers:
    """The number of each row by its id; 16 bytes an id beside the ids themselves.

    Attributes:
        repeated: The rows whose id an earlier row has, ascending.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids = ids
        hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]
        equal = self._order[1:][self._hashes[1:] == self._hashes[:-1]].tolist()  # nearly always equal ids
        self.repeated = sorted(number for number in equal if self.find([ids[number]])[0] < number)

    def __len__(self) -> int:
        return len(self._ids)

    def find(self, ids: Sequence[str]) -> list[int]:
        """The number of each id, -1 for an unknown one."""
        if not len(self):
            return [-1] * len(ids)
        hashes = np.fromiter(map(hash, ids), np.int64, len(ids))
        places = self._hashes.searchsorted(hashes)
        likely = self._order[np.minimum(places, len(self) - 1)]
        return [
            number if text == id_ else self._number(id_, hash_, place)
            for id_, hash_, place, number, text in zip(
                ids, hashes.tolist(), places.tolist(), likely.tolist(), self._texts_of(likely), strict=True
            )
        ]

    def _texts_of(self, numbers: np.ndarray) -> list[str]:
        return self._ids.take(numbers) if isinstance(self._ids, Texts) else [self._ids[n] for n in numbers.tolist()]

    def _number(self, id_: str, hash_: int, place: int) -> int:
        while place < len(self._hashes) and self._hashes[place] == hash_:
            number = int(self._order[place])
            if self._ids[number] == id_:
                return number
            place += 1
        return -1


class HashIndex:
    """Unsigned 64-bit hashes -> numbers; 16 bytes an entry, and about 100 for a sixteenth of them."""

    def __init__(self) -> None:
        self._keys, self._values = np.empty(0, np.uint64), np.empty(0, np.int64)
        self._recent: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._keys) + len(self._recent)

    def __contains__(self, key: int) -> bool:
        return self.get(key) is not None

    def get(self, key: int) -> int | None:
        """The number of a hash, None for an unknown one."""
        if key in self._recent:
            return self._recent[key]
        place = self._place(key)
        return int(self._values[place]) if place >= 0 else None

    def put(self, key: int, value: int) -> None:
        """Sets the number of a hash."""
        place = self._place(key)
        if place >= 0:
            self._values[place] = value
            return
        self._recent[key] = value
        if len(self._recent) >= max(RECENT, len(self._keys) // 16):
            keys = np.concatenate([self._keys, np.fromiter(self._recent, np.uint64, len(self._recent))])
            values = np.concatenate([self._values, np.fromiter(self._recent.values(), np.int64, len(self._recent))])
            order = np.argsort(keys, kind="stable")
            self._keys, self._values, self._recent = keys[order], values[order], {}

    def _place(self, key: int) -> int:
        """Among the sorted hashes, -1 for one that is not there."""
        place = int(self._keys.searchsorted(np.uint64(key)))
        return place if place < len(self._keys) and int(self._keys[place]) == key else -1


class ComputedRows(Sequence):
    """Rows that a function computes from the rows of other sequences, each when it is used."""

    def __init__(self, function: Callable[..., Any], *sequences: Sequence[Any]) -> None:
        self._function, self._sequences = function, sequences

    def __len__(self) -> int:
        return len(self._sequences[0])

    def __getitem__(self, index: int) -> Any:
        return self._function(*(rows[index] for rows in self._sequences))

    def __iter__(self) -> Iterator[Any]:
        return starmap(self._function, zip(*self._sequences, strict=True))
