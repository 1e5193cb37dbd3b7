# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""How a run ends early: SIGTERM, Ctrl-C and LLaMA Board's Abort, an error on any rank, a full disk.

The same command continues it.
"""

import errno
import functools
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from transformers import TrainerCallback

from ..utils.ranks import Ranks, Stopped


ABORTED = "LLaMA Board's Abort"
SAME_SIGNAL_SECONDS = 5.0
DISK_ERRORS = {
    errno.ENOSPC: ("the disk is full", "make room, or lower `save_total_limit`,"),
    errno.EDQUOT: ("the disk quota of this user or project is used up", "remove files or raise the quota,"),
    errno.EFBIG: ("it is larger than this process may write or its file system can hold",
                  "raise the limit (`ulimit -f unlimited`) or name an `output_dir` on another file system,"),
}  # fmt: skip
"""Error number -> what is wrong, and what to do."""
UNKNOWN_LIMIT = ("the disk is full, a quota is used up, or a limit of file sizes is reached", "make room")
# safetensors turns the error into text; torch.save reports that it is not at the offset it would have written to.
DISK_TEXTS = {
    "os error 28)": errno.ENOSPC, "os error 122)": errno.EDQUOT, "os error 27)": errno.EFBIG,
    "No space left on device": errno.ENOSPC, "] . unexpected pos ": None,
}  # fmt: skip
PROBED_BYTES = 2**20


class DiskFullError(OSError):
    """A file could not be written; everything written before is complete."""


@contextmanager
def stopped_by_signal(ranks: Ranks) -> Iterator[None]:
    """Inside, SIGTERM or SIGINT (Ctrl-C) requests a stop of all ranks; a second one ends this process at once.

    A scheduler that signals every process of a job reaches a worker twice, because torchrun passes its own SIGTERM
    on: a SIGTERM within :data:`SAME_SIGNAL_SECONDS` of the first signal is the same request. Only the main thread can
    handle signals: in any other thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    process = os.getpid()
    first: float | None = None  # when the first signal arrived

    def handle(number: int, frame: Any) -> None:
        nonlocal first
        if os.getpid() != process:  # a forked worker: its pool ends it by SIGTERM, Ctrl-C is for its parent
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        now = time.monotonic()
        if first is not None and (number == signal.SIGINT or now - first > SAME_SIGNAL_SECONDS):
            # Not KeyboardInterrupt: a worker pool that it unwinds waits for its workers.
            at_once = before[number] is signal.default_int_handler
            signal.signal(number, signal.SIG_DFL if at_once else before[number])
            signal.raise_signal(number)
        first = now if first is None else first
        name = signal.Signals(number).name
        os.write(2, f"{name}: the run stops where it can be continued. A later signal ends it at once.\n".encode())
        ranks.request_stop(name)

    # A shell starts background jobs with SIGINT ignored, and they keep that.
    numbers = [each for each in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(each) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopCallback(TrainerCallback):
    """Stops training where all ranks can: at the end of a step, after a checkpoint.

    All ranks stop at the same step, whichever received the request. LLaMA-Factory's own callback stops its rank alone,
    in the middle of a step; this one delays that.
    """

    def __init__(self, ranks: Ranks, aborted: Callable[[], bool]) -> None:
        self._ranks = ranks
        self._aborted = aborted
        self._stops = False

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Delays a stop in the middle of a step."""
        if self._aborted():
            control.should_epoch_stop = control.should_training_stop = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Saves and stops on all ranks if one has to stop."""
        if self._aborted():
            self._ranks.request_stop(ABORTED)
        stops = bool(self._ranks.stop_reason())
        if self._ranks.size > 1:
            flag = torch.tensor(float(stops), device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            stops = bool(flag.item())
        if stops:
            self._stops = control.should_save = True
            args.save_only_model = False  # training continues from this checkpoint
            control.should_epoch_stop = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ends training with ``Stopped`` once the checkpoint of a stop is written."""
        if self._stops:
            raise Stopped(f"a checkpoint was saved at step {state.global_step}")


@contextmanager
def propagate_failure(ranks: Ranks, output_dir: Path) -> Iterator[None]:
    """Inside, an error ends every rank, and torchrun shows the first; a full disk's becomes ``DiskFullError``."""
    try:
        yield
    except Stopped as stop:
        ranks.signal_stop(str(stop))
        raise
    except Exception as error:
        raised = disk_full(error, output_dir) or error
        if ranks.size > 1:
            raised.add_note(f"On rank {ranks.rank} of {ranks.size}, at {ranks.location}.")
        elif ranks.phase:
            raised.add_note(f"At {ranks.location}.")
        get_error_handler().record_exception(raised)
        ranks.fail(f"{type(raised).__name__}: {raised} (at {ranks.location})")
        if raised is error:
            raise
        raise raised from error


def disk_full(error: BaseException, output_dir: Path) -> DiskFullError | None:
    """The error to show if ``error``, or one of its causes, is a full disk or a limit of it; otherwise ``None``."""
    visited: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in visited:
        text = next((text for text in DISK_TEXTS if text in str(cause)), None)
        if text is not None or (isinstance(cause, OSError) and cause.errno in DISK_ERRORS):
            folder = output_dir if output_dir.is_dir() else Path.cwd()
            number = (cause.errno if isinstance(cause, OSError) else DISK_TEXTS[text]) or _refusal(folder)
            reason, fix = DISK_ERRORS.get(number, UNKNOWN_LIMIT)
            file = getattr(cause, "filename", None) or _written_file(cause, output_dir) or f"a file in {output_dir}"
            free = shutil.disk_usage(folder).free / 2**20
            return DiskFullError(
                number or errno.ENOSPC,
                f"{file} could not be written: {reason} ({cause}; {free:.0f} MiB free at `output_dir: {output_dir}`). "
                f"Nothing finished is lost: {fix} and start the same command again",
            )
        visited.append(cause)
        cause = cause.__cause__ or cause.__context__
    return None


def _refusal(folder: Path) -> int | None:
    """The error number with which a file system refuses a small file now; None if it takes it."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(b"0" * PROBED_BYTES)
            probe.write(b"0")  # a write that a limit shortens raises nothing, the next one does
            os.fsync(probe.fileno())
    except OSError as error:
        return error.errno if error.errno in DISK_ERRORS else None
    return None


def _written_file(error: BaseException, folder: Path) -> str | None:
    """The path below ``folder`` that the innermost function of the error's traceback was called with."""
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            if isinstance(value, (str, Path)) and Path(value) != folder and Path(value).is_relative_to(folder):
                found = str(value)
    return found


@functools.cache
def load_on_numbered_cpus() -> None:
    """Lets ``torch.load`` put tensors on ``cpu:0``, the device that several processes without accelerators resume on.

    torch (seen up to 2.14) accepts only ``cpu`` and raises "don't know how to restore data location".
    """
    torch.serialization.register_package(
        90, lambda storage: None, lambda storage, location: storage if location.startswith("cpu:") else None
    )
