# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Ranks that know of one another: waiting, failing and stopping together, through the process group's key-value store.

Unlike a collective, waiting here takes no part in any engine: it lasts as long as a rank says that it works alone
(rank 0 asking a corrector for hours), it can say who is missing and where, and a rank that failed is heard of at once.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


logger = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
SILENT_SECONDS = 180.0
GRACE_SECONDS = 20.0

_runs = 0


class RankError(RuntimeError):
    """Another rank failed, fell silent, or did not come."""


class Stopped(RuntimeError):
    """The run stops early, at a place where the same command takes it up."""


class Ranks:
    """This rank among the others. A single process has nobody to wait for.

    Args:
        rank: This process's global rank.
        size: The number of ranks.
        store: A ``torch.distributed.Store`` that all ranks share; ``None`` for a single process.
        timeout: Seconds that a rank may be late at :meth:`wait` without saying that it works.
        beat: Seconds between two signs of life.
        silent: Seconds without a sign of life after which a rank counts as dead.
        grace: Seconds that this process has to end by itself after another rank failed.
        end: Ends this process; replaced in tests.

    Attributes:
        phase: What all ranks do at present; goes in front of every place.
        place: Where this rank was last.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        store: Any = None,
        *,
        timeout: float = 1800.0,
        beat: float = BEAT_SECONDS,
        silent: float = SILENT_SECONDS,
        grace: float = GRACE_SECONDS,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self._store = store
        self._beat, self._looks, self._grace, self._end = beat, max(1, round(silent / beat)), grace, end
        self.phase, self.place = "", "the start"
        self._waits = 0
        self._stop = ""
        self._closed = threading.Event()
        if size > 1:
            store.set(f"at/{rank}", self.place)
            store.set(f"beat/{rank}", "0")
            # Its own connection: a collective that is being set up holds the main one for minutes.
            thread = threading.Thread(target=self._watch, args=(_connection(store),), daemon=True, name="clinkd-ranks")
            thread.start()

    @classmethod
    def of_process_group(cls, timeout: float) -> "Ranks":
        """The ranks of the default process group, a single process where there is none."""
        global _runs
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
            return cls(timeout=timeout)
        _runs += 1  # one process may run several recipes, on all ranks alike
        store = _connection(distributed.distributed_c10d._get_default_store())
        store = distributed.PrefixStore(f"clinkd/{_runs}", store)
        return cls(distributed.get_rank(), distributed.get_world_size(), store, timeout=timeout)

    def wait(self, place: str) -> None:
        """Waits for all ranks.

        Args:
            place: What this rank has reached; shown by others if they wait for it, or it for them.

        Raises:
            RankError: If a rank failed or is not there in time; the message names it and where it was.
            Stopped: If a rank stopped early and will not come.
        """
        self.at(place)
        if self.size == 1:
            return
        self._waits += 1
        key = f"wait/{self._waits}"
        self._store.set(f"{key}/{self.rank}", place)
        if self._store.add(f"{key}/count", 1) == self.size:
            self._store.set(f"{key}/done", "1")
        start, pause = time.monotonic(), 0.005
        while not self._store.check([f"{key}/done"]):
            self.raise_failure()
            if self._store.check(["left"]):
                raise Stopped(self._get("left"))
            if self._store.add("working", 0) > 0:
                start = time.monotonic()
            if time.monotonic() - start > self.timeout:
                missing = [rank for rank in range(self.size) if not self._store.check([f"{key}/{rank}"])]
                late = ", ".join(f"rank {rank} (last at {self._get(f'at/{rank}')})" for rank in missing)
                raise RankError(
                    f"Rank {self.rank} waited {self.timeout:.0f} s at {self.place} for {late}. "
                    "`ddp_timeout` sets how long."
                )
            time.sleep(pause)
            pause = min(0.5, pause * 1.5)

    def at(self, place: str) -> None:
        """Notes where this rank is, and tells the others."""
        self.place = f"phase {self.phase}, {place}" if self.phase else place
        if self.size > 1:
            self._store.set(f"at/{self.rank}", self.place)

    @contextmanager
    def working(self, place: str) -> Iterator[None]:
        """Inside, this rank works while the others wait, for as long as it lives."""
        self.at(place)
        if self.size > 1:
            self._store.add("working", 1)
        yield
        if self.size > 1:
            self._store.add("working", -1)

    def fail(self, reason: str) -> None:
        """Tells the others that this rank failed; they end, and so does this one should it hang."""
        if self.size > 1:
            try:
                self._store.compare_set("failure", "", f"Rank {self.rank} failed: {reason}")
            except RuntimeError as error:  # the store's host is gone, which the others see themselves
                logger.warning("Rank %d could not tell the others that it failed: %s", self.rank, error)

    def raise_failure(self) -> None:
        """Raises what another rank failed with.

        Raises:
            RankError: If one did.
        """
        if self.size > 1 and self._store.check(["failure"]):
            time.sleep(self._beat)  # the first error is on record before its consequences: launchers show the earliest
            raise RankError(self._get("failure"))

    def request_stop(self, reason: str) -> None:
        """Asks all ranks to stop at the next point where work can be taken up again; safe in a signal handler."""
        self._stop = self._stop or reason

    def stop_reason(self) -> str:
        """Why this rank should stop, empty if it should not. The others can read it from then on."""
        if self._stop and self.size > 1:
            self._store.set("stop", self._stop)
        return self._stop

    def agreed_stop_reason(self) -> str:
        """Why all ranks stop, once they agreed on it: this rank may not have heard of it yet."""
        if not self._stop and self.size > 1 and self._store.check(["stop"]):
            self._stop = self._get("stop")
        return self._stop

    def leave(self, where: str) -> None:
        """Tells ranks that wait for this one that it stopped early."""
        if self.size > 1:
            self._store.set("left", where)

    def close(self) -> None:
        """Ends the watch: all ranks are done."""
        self._closed.set()

    def _get(self, key: str) -> str:
        return self._store.get(key).decode("utf-8")

    def _watch(self, store: Any) -> None:
        """Gives signs of life, and ends this process some time after a rank failed."""
        beats, lost, seen = 0, 0, dict.fromkeys(range(1, self.size), (b"", 0))
        failure = ""
        while not failure and not self._closed.wait(self._beat):
            try:
                beats += 1
                store.set(f"beat/{self.rank}", str(beats))
                if self.rank == 0:
                    self._look_for_silence(store, seen)
                if self._stop:
                    store.set("stop", self._stop)
                elif store.check(["stop"]):
                    self._stop = store.get("stop").decode("utf-8")
                failure = store.get("failure").decode("utf-8") if store.check(["failure"]) else ""
                lost = 0
            except RuntimeError as error:
                lost += 1
                failure = f"The node of rank 0 cannot be reached any more ({error})." if lost >= 5 else ""
        if failure and not self._closed.wait(self._grace):
            print(f"Rank {self.rank} ends: {failure}", file=sys.stderr, flush=True)
            self._end(1)

    def _look_for_silence(self, store: Any, seen: dict[int, tuple[bytes, int]]) -> None:
        """Counts looks, not seconds: this thread itself may have been held up."""
        for rank in [rank for rank in seen if store.check([f"beat/{rank}"])]:
            beat = store.get(f"beat/{rank}")
            before, looks = seen[rank]
            seen[rank] = (beat, 0 if beat != before else looks + 1)
            if seen[rank][1] == self._looks:
                place = store.get(f"at/{rank}").decode("utf-8")
                seconds = self._looks * self._beat
                reason = f"Rank {rank} gave no sign of life for {seconds:.0f} s; it was last at {place}."
                store.compare_set("failure", "", reason)


def _connection(store: Any) -> Any:
    """Another connection to the store; torch before 2.8 has only the one."""
    return store.clone() if hasattr(store, "clone") else store
