# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Waiting, failing and stopping together on all ranks, through the process group's store (see ``docs/scaling.md``)."""

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .io import write_text


logger = logging.getLogger(__name__)

SHARED_FILE_SECONDS = 60.0  # a network file system may show a new file to other nodes this late

_runs = 0


class RankError(RuntimeError):
    """Another rank failed, stopped sending heartbeats, or did not arrive in time."""


class Stopped(RuntimeError):
    """The run stops early, at a point from which the same command resumes it."""


class Ranks:
    """This rank and the others; a single process (``store=None``) never waits.

    Args:
        store: A ``torch.distributed.Store`` that all ranks share.
        timeout: Seconds that a rank may be late at :meth:`wait`, unless one works in :meth:`long_running`.
        beat: Seconds between two heartbeats.
        silent: Seconds without a heartbeat after which a rank counts as dead.
        grace: Seconds that this process has to end by itself after another rank failed.
        end: Ends this process; replaced in tests.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        store: Any = None,
        *,
        timeout: float = 1800.0,
        beat: float = 2.0,
        silent: float = 180.0,
        grace: float = 20.0,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self._store = store
        self._beat, self._max_missed, self._grace, self._end = beat, max(1, round(silent / beat)), grace, end
        self.phase = ""  # prefix of every location
        self.location = "the start of the run"  # the last point that this rank reached
        self._waits = self._shared = 0
        self._stop = ""
        self._closed = threading.Event()
        if size > 1:
            store.set(f"at/{rank}", self.location)
            store.set(f"beat/{rank}", "0")
            # A second connection: a collective that is being set up holds the main one for minutes.
            thread = threading.Thread(target=self._watch, args=(_connection(store),), daemon=True, name="clinkd-ranks")
            thread.start()

    @classmethod
    def of_process_group(cls, timeout: float) -> "Ranks":
        """The ranks of the default process group; a single process if there is none."""
        global _runs
        distributed = torch.distributed
        if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
            return cls(timeout=timeout)
        _runs += 1  # one process may run several recipes, on all ranks alike
        connection = _connection(distributed.distributed_c10d._get_default_store())
        store = distributed.PrefixStore(f"clinkd/{_runs}", connection)
        return cls(distributed.get_rank(), distributed.get_world_size(), store, timeout=timeout)

    def wait(self, location: str) -> None:
        """Waits for all ranks at ``location``, which is part of the error of any rank that is kept waiting.

        Raises:
            RankError: If a rank failed or is late; the message names it and its last location.
            Stopped: If a rank stopped early and will not arrive.
        """
        self.set_location(location)
        if self.size == 1:
            return
        self._waits += 1
        key = f"wait/{self._waits}"
        self._store.set(f"{key}/{self.rank}", location)
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
                    f"Rank {self.rank} waited {self.timeout:.0f} s at {self.location} for {late}. "
                    "`ddp_timeout` sets this limit."
                )
            time.sleep(pause)
            pause = min(0.5, pause * 1.5)

    def set_location(self, location: str) -> None:
        """Records where this rank is, for itself and for the other ranks' errors."""
        self.location = f"phase {self.phase}, {location}" if self.phase else location
        if self.size > 1:
            self._store.set(f"at/{self.rank}", self.location)

    @contextmanager
    def long_running(self, location: str) -> Iterator[None]:
        """Inside, this rank works while the others wait without a time limit, for as long as it sends heartbeats."""
        self.set_location(location)
        if self.size > 1:
            self._store.add("working", 1)
        yield
        if self.size > 1:
            self._store.add("working", -1)

    def from_first(self, compute: Callable[[], Any], location: str) -> Any:
        """The JSON-able result of ``compute``, which runs on rank 0 only; all ranks call this together."""
        if self.size == 1:
            return compute()
        self._shared += 1
        key = f"shared/{self._shared}"
        if self.rank == 0:
            with self.long_running(location):
                self._store.set(key, json.dumps(compute()))
        self.wait(location)
        return json.loads(self._get(key))

    def require_shared(self, folder: Path, seconds: float = SHARED_FILE_SECONDS) -> None:
        """Checks that every rank sees a file that rank 0 writes to ``folder`` (``output_dir``).

        Raises:
            ValueError: If this rank does not see it within ``seconds``.
            RankError: If another rank does not.
        """
        if self.size == 1:
            return

        def write() -> str:
            name = f".clinkd-shared-{secrets.token_hex(8)}"
            write_text(folder / name, "Every rank has to see this file.\n")
            return name

        path = folder / self.from_first(write, "the check of the shared folder")
        try:
            deadline = time.monotonic() + seconds
            while not path.is_file():
                self.raise_failure()
                if time.monotonic() > deadline:
                    raise ValueError(
                        f"Rank {self.rank} on {socket.gethostname()} does not see what rank 0 writes to `output_dir: "
                        f"{folder}`. All nodes need the same `output_dir`, on a file system that they share: it holds "
                        "the ranks' files and checkpoints (see docs/scaling.md)."
                    )
                time.sleep(0.1)
            self.wait("the check of the shared folder")
        finally:
            if self.rank == 0:
                path.unlink(missing_ok=True)

    def fail(self, reason: str) -> None:
        """Reports to the other ranks that this one failed; all end, and so does this one if it hangs."""
        if self.size > 1:
            try:
                self._store.compare_set("failure", "", f"Rank {self.rank} failed: {reason}")
            except RuntimeError as error:  # the store's host is gone, which the other ranks notice themselves
                logger.warning("Rank %d could not report its failure to the other ranks: %s", self.rank, error)

    def raise_failure(self) -> None:
        """Raises ``RankError`` if another rank reported a failure."""
        if self.size > 1 and self._store.check(["failure"]):
            time.sleep(self._beat)  # launchers show the earliest error: the cause has to be recorded before this one
            raise RankError(self._get("failure"))

    def request_stop(self, reason: str) -> None:
        """Requests that all ranks stop at the next point from which work can resume; safe in a signal handler."""
        self._stop = self._stop or reason

    def stop_reason(self) -> str:
        """Why this rank should stop, empty if it should not; publishes it to the other ranks."""
        if self._stop and self.size > 1:
            self._store.set("stop", self._stop)
        return self._stop

    def agreed_stop_reason(self) -> str:
        """Why all ranks stop, once they agreed on it; another rank may have received the request."""
        if not self._stop and self.size > 1 and self._store.check(["stop"]):
            self._stop = self._get("stop")
        return self._stop

    def signal_stop(self, location: str) -> None:
        """Releases the ranks that wait for this one: it stopped early at ``location``."""
        if self.size > 1:
            self.stop_reason()
            self._store.set("left", location)

    def close(self) -> None:
        """Ends the heartbeat: this rank is done. Rank 0 leaves last, because its process may host the store.

        It waits for at most ``grace`` seconds, or three heartbeats after a failure.
        """
        try:
            if self.size > 1:
                self._store.add("closed", 1)
                limit = 3 * self._beat if self._store.check(["failure"]) else self._grace
                deadline = time.monotonic() + limit
                while self.rank == 0 and self._store.add("closed", 0) < self.size and time.monotonic() < deadline:
                    time.sleep(0.01)
        except RuntimeError as error:  # the run is over; only the order of leaving is lost
            logger.info("The store of the process group is gone at the end of rank %d: %s", self.rank, error)
        self._closed.set()

    def _get(self, key: str) -> str:
        return self._store.get(key).decode("utf-8")

    def _watch(self, store: Any) -> None:
        """Sends heartbeats, and ends this process some time after a rank failed."""
        beats, lost, heartbeats = 0, 0, dict.fromkeys(range(1, self.size), (b"", 0))
        failure = ""
        while not failure and not self._closed.wait(self._beat):
            try:
                beats += 1
                store.set(f"beat/{self.rank}", str(beats))
                if self.rank == 0:
                    self._check_heartbeats(store, heartbeats)
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
            os.write(2, f"Rank {self.rank} ends: {failure}\n".encode())
            self._end(1)

    def _check_heartbeats(self, store: Any, heartbeats: dict[int, tuple[bytes, int]]) -> None:
        """Counts checks, not seconds: this thread itself may have been held up."""
        for rank in [rank for rank in heartbeats if store.check([f"beat/{rank}"])]:
            beat = store.get(f"beat/{rank}")
            before, missed = heartbeats[rank]
            missed = 0 if beat != before else missed + 1
            heartbeats[rank] = (beat, missed)
            if missed == self._max_missed:
                location, seconds = store.get(f"at/{rank}").decode("utf-8"), missed * self._beat
                reason = f"Rank {rank} gave no sign of life for {seconds:.0f} s; it was last at {location}."
                store.compare_set("failure", "", reason)


def _connection(store: Any) -> Any:
    """Another connection to the store; torch before 2.8 has only the one."""
    return store.clone() if hasattr(store, "clone") else store
