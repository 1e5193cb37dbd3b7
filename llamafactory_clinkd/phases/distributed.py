# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Several ranks: an error on one of them ends all, and each phase starts with a DeepSpeed engine of its own."""

import errno
import functools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from ..utils.ranks import Ranks, Stopped


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# safetensors turns the error into text; torch.save reports that it is not at the offset it would have written to.
DISK_TEXTS = ("os error 28)", "os error 122)", "os error 27)", "No space left on device", "] . unexpected pos ")


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
    """The error to show if ``error``, or one of its causes, is a full disk; otherwise ``None``."""
    visited: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in visited:
        number = cause.errno if isinstance(cause, OSError) else None
        if number in DISK_ERRORS or any(text in str(cause) for text in DISK_TEXTS):
            free = shutil.disk_usage(output_dir if output_dir.is_dir() else Path.cwd()).free
            return DiskFullError(
                number or errno.ENOSPC,
                f"A file could not be written ({cause}); {free / 2**20:.0f} MiB free at `output_dir: {output_dir}`. "
                "Nothing finished is lost: make room (or raise the quota, or lower `save_total_limit`) and start "
                "the same command again",
            )
        visited.append(cause)
        cause = cause.__cause__ or cause.__context__
    return None


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
