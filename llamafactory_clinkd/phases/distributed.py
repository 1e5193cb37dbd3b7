# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""An error on one rank: told with rank and phase, kept where torchrun looks for it, and heard of by all ranks."""

import errno
import functools
import logging
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler
from transformers import TrainerCallback

from ..utils.ranks import Ranks, Stopped


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# safetensors turns the error into text, torch.save into the complaint that it is not where it would be had it written.
DISK_TEXTS = ("os error 28)", "os error 122)", "os error 27)", "No space left on device", "] . unexpected pos ")


class DiskFullError(OSError):
    """Something could not be written; what was written before is whole."""


@contextmanager
def propagate_failure(ranks: Ranks, output_dir: Path) -> Iterator[None]:
    """Inside, an error ends every rank, and torchrun shows the first one as the root cause.

    Raises:
        DiskFullError: In place of an error of a disk that is full.
    """
    try:
        yield
    except Stopped as stop:
        ranks.signal_stop(str(stop))
        raise
    except Exception as error:
        raised = disk_full(error, output_dir) or error
        raised.add_note(f"On rank {ranks.rank} of {ranks.size}, at {ranks.location}.")
        get_error_handler().record_exception(raised)
        ranks.fail(f"{type(raised).__name__}: {raised} (at {ranks.location})")
        if raised is error:
            raise
        raise raised from error


def disk_full(error: BaseException, output_dir: Path) -> DiskFullError | None:
    """What to tell if ``error``, or what it came from, is a full disk; else ``None``."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for each in chain:
        number = each.errno if isinstance(each, OSError) else None
        if number in DISK_ERRORS or any(text in str(each) for text in DISK_TEXTS):
            free = shutil.disk_usage(output_dir if output_dir.is_dir() else Path.cwd()).free
            return DiskFullError(
                number or errno.ENOSPC,
                f"A file could not be written ({each}); {free / 2**20:.0f} MiB free at `output_dir: {output_dir}`. "
                "Nothing finished is lost: make room (or raise the quota, or lower `save_total_limit`) and start "
                "the same command again",
            )
    return None


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


@functools.cache
def load_on_numbered_cpus() -> None:
    """Lets ``torch.load`` put tensors on ``cpu:0``, where several processes without accelerators resume.

    The trainer loads an optimizer to its own device, which LLaMA-Factory numbers; torch (seen up to 2.14) knows
    ``cpu`` only and raises "don't know how to restore data location". A second call changes nothing.
    """
    torch.serialization.register_package(90, lambda storage: None, _on_numbered_cpu)


def _on_numbered_cpu(storage: Any, location: str) -> Any:
    return storage if location.startswith("cpu:") else None


def fresh_engine(training: Any) -> Any:
    """Gives a phase's copy of the training arguments an engine that no earlier phase has used; returns it.

    Args:
        training: ``TrainingArguments``, already a copy.
    """
    if not training.deepspeed:
        return training

    from accelerate.state import AcceleratorState
    from accelerate.utils import DeepSpeedPlugin
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    AcceleratorState._reset_state()  # the process group, which is `PartialState`'s, stays
    training.hf_deepspeed_config = HfTrainerDeepSpeedConfig(training.deepspeed)
    training.hf_deepspeed_config.trainer_config_process(training)
    training.deepspeed_plugin = DeepSpeedPlugin(hf_ds_config=training.hf_deepspeed_config)
    return training
