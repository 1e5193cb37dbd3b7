# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Work on many small pieces in several processes, in order, with a bounded number of pieces under way."""

import itertools
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar


Piece = TypeVar("Piece")
Result = TypeVar("Result")


def chunked(items: Iterable[Piece], size: int) -> Iterator[list[Piece]]:
    """Lists of ``size`` items; the last may be shorter."""
    iterator = iter(items)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


class Workers:
    """A pool of processes, or the caller's own process for ``count=1``; use it in a ``with``.

    Processes are spawned, not forked: the caller may hold threads (a progress bar) and locks.
    """

    def __init__(self, count: int, set_up: Callable[..., None] | None = None, arguments: tuple[Any, ...] = ()) -> None:
        self._limit = 4 * count
        self._pool = None
        if count > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(count, mp_context=context, initializer=set_up, initargs=arguments)
        elif set_up:
            set_up(*arguments)

    def map(self, function: Callable[[Piece], Result], pieces: Iterable[Piece]) -> Iterator[Result]:
        """Results in the order of the pieces; pieces are taken from their source only as they are needed."""
        if self._pool is None:
            yield from map(function, pieces)
            return
        waiting = deque()
        for piece in pieces:
            waiting.append(self._pool.submit(function, piece))
            if len(waiting) >= self._limit:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
