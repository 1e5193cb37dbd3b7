# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Several ranks: an error on one of them ends all, and each phase starts with a DeepSpeed engine of its own."""

import errno
import functools
import os
import shutil
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from ..utils.ranks import Ranks, Stopped


DISK_ERRORS = {
    errno.ENOSPC: ("the disk is full", "make room, or lower `save_total_limit`,"),
    errno.EDQUOT: (
        "the disk quota of this user or project is used up",
        "remove files of its owner or raise the quota,",
    ),
    errno.EFBIG: (
        "it is larger than this process may write or its file system can hold",
        "raise the limit (`ulimit -f unlimited`) or name an `output_dir` on another file system,",
    ),
}
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
def propagate_failure(ranks: Ranks, output_dir: Path) -> Iterator[None]:
    """Inside, an error ends every rank, and torchrun shows the first; a full disk's becomes ``DiskFullError``."""
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
    """The error to show if ``error``, or one of its causes, is a full disk or a limit of it; otherwise ``None``."""
    visited: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in visited:
        text = next((text for text in DISK_TEXTS if text in str(cause)), None)
        if text is not None or (isinstance(cause, OSError) and cause.errno in DISK_ERRORS):
            number = cause.errno if isinstance(cause, OSError) else DISK_TEXTS[text]
            folder = output_dir if output_dir.is_dir() else Path.cwd()
            number = number or _refusal(folder)
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


def fresh_engine(training: Any) -> Any:
    """Gives a phase's copy of the training arguments a DeepSpeed configuration that no earlier phase has used."""
    if not training.deepspeed:
        return training

    from accelerate.state import AcceleratorState
    from accelerate.utils import DeepSpeedPlugin
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    AcceleratorState._reset_state()  # the process group, which belongs to `PartialState`, stays
    training.hf_deepspeed_config = HfTrainerDeepSpeedConfig(training.deepspeed)
    training.hf_deepspeed_config.trainer_config_process(training)
    training.deepspeed_plugin = DeepSpeedPlugin(hf_ds_config=training.hf_deepspeed_config)
    return training
