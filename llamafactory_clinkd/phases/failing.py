# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""An error on one rank: told with rank and phase, kept where torchrun looks for it, and heard of by all ranks."""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from ..utils.ranks import Ranks, Stopped


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# safetensors turns the error into text, torch.save into the complaint that it is not where it would be had it written.
DISK_TEXTS = ("os error 28)", "os error 122)", "os error 27)", "No space left on device", "] . unexpected pos ")


class DiskFullError(OSError):
    """Something could not be written; what was written before is whole."""


@contextmanager
def told_to_all(ranks: Ranks, output_dir: Path) -> Iterator[None]:
    """Inside, an error ends every rank, and torchrun shows the first one as the root cause.

    Raises:
        DiskFullError: In place of an error of a disk that is full.
    """
    try:
        yield
    except Stopped as stop:
        ranks.leave(str(stop))
        raise
    except Exception as error:
        raised = disk_full(error, output_dir) or error
        raised.add_note(f"On rank {ranks.rank} of {ranks.size}, at {ranks.place}.")
        get_error_handler().record_exception(raised)
        ranks.fail(f"{type(raised).__name__}: {raised} (at {ranks.place})")
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
