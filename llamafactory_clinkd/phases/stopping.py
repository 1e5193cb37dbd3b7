# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Stops a run so that the same command continues it: SIGTERM, Ctrl-C and LLaMA Board's Abort."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

from ..utils.ranks import Ranks, Stopped


ABORTED = "LLaMA Board's Abort"
SAME_SIGNAL_SECONDS = 5.0


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
