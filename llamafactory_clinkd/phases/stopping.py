# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Leaving early without losing anything: a pre-empted node's SIGTERM, and LLaMA Board's Abort.

All ranks leave at the same place: training at the end of an optimizer step, with a checkpoint; generation between two
batches, with its rows on disk; a correction between two groups of rows.
"""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

from ..utils.ranks import Ranks, Stopped


logger = logging.getLogger(__name__)

ABORTED = "LLaMA Board's Abort"
SAME_SIGNAL_SECONDS = 5.0


@contextmanager
def stopped_by_sigterm(ranks: Ranks) -> Iterator[None]:
    """Inside, SIGTERM asks all ranks to stop; another one some seconds later ends this process at once.

    A scheduler that signals every process of a job reaches a worker twice: torchrun passes its own SIGTERM on. What
    comes within :data:`SAME_SIGNAL_SECONDS` of the first is the same request.

    Signal handlers belong to the main thread: in another one nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    asked: list[float] = []

    def ask(number: int, frame: Any) -> None:
        asked.append(time.monotonic())
        if asked[-1] - asked[0] > SAME_SIGNAL_SECONDS:
            signal.signal(signal.SIGTERM, before)
            signal.raise_signal(signal.SIGTERM)
        ranks.request_stop("SIGTERM")

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class StopCallback(TrainerCallback):
    """Stops training where all ranks can: at the end of a step, after a checkpoint.

    Each step costs one all-reduce of a single number, so that the ranks stop at the same step whichever heard of it
    first. LLaMA-Factory's own callback stops its rank alone, in the middle of a step: that is held back until then.

    Args:
        ranks: Where a stop is asked for.
        aborted: Whether LLaMA Board asked.
    """

    def __init__(self, ranks: Ranks, aborted: Any) -> None:
        self._ranks = ranks
        self._aborted = aborted
        self._stops = False

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Holds back a stop in the middle of a step."""
        if self._aborted():
            control.should_epoch_stop = control.should_training_stop = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Asks all ranks; if one has to stop, all save and stop."""
        if self._aborted():
            self._ranks.request_stop(ABORTED)
        wanted = bool(self._ranks.stop_reason())
        if self._ranks.size > 1:
            flag = torch.tensor(float(wanted), device=args.device)
            torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
            wanted = bool(flag.item())
        if wanted:
            self._stops = control.should_save = True
            control.should_epoch_stop = control.should_training_stop = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leaves once the checkpoint is written.

        Raises:
            Stopped: If a stop was agreed on at this step.
        """
        if self._stops:
            raise Stopped(f"a checkpoint was saved at step {state.global_step}")
