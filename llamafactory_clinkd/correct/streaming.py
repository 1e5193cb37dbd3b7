# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""An asyncio producer read by ordinary code: it runs on a thread of its own, and results come as they are made."""

import asyncio
import queue
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar


T = TypeVar("T")
_END = object()
MAX_GROUP = 32
WAKE_SECONDS = 1.0


def stream(produce: Callable[[Callable[[T], None]], Awaitable[None]]) -> Iterator[list[T]]:
    """Runs ``produce(emit)`` on its own event loop and yields what it emits, in groups.

    A group is all that has come in since last time, at most :data:`MAX_GROUP` results. It is empty where nothing came
    for :data:`WAKE_SECONDS`: so a reader that is asked to stop need not wait for a slow server.
    Closing the iterator early (``contextlib.closing``, an exception, Ctrl-C) cancels the producer and waits for it. An
    exception of the producer is raised here, after everything it emitted was yielded.
    """
    outbox: queue.SimpleQueue = queue.SimpleQueue()
    started: queue.SimpleQueue = queue.SimpleQueue()

    async def main() -> None:
        started.put((asyncio.get_running_loop(), asyncio.current_task()))
        try:
            await produce(outbox.put)
        finally:
            outbox.put(_END)

    with ThreadPoolExecutor(1, thread_name_prefix="clinkd-corrector") as executor:
        future = executor.submit(lambda: asyncio.run(main()))
        loop, task = started.get()
        ended = False
        try:
            while not ended:
                group = _next_group(outbox)
                if ended := group[-1:] == [_END]:  # nothing is put after it
                    group.pop()
                yield group
        finally:
            if not ended:
                loop.call_soon_threadsafe(task.cancel)
        future.result()


def _next_group(outbox: queue.SimpleQueue) -> list:
    try:
        group = [outbox.get(timeout=WAKE_SECONDS)]
    except queue.Empty:
        return []
    while len(group) < MAX_GROUP and not outbox.empty():
        group.append(outbox.get())
    return group
