# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""A lock between processes: a file with the holder's process id, which the kernel frees when that process ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_lock(path: str | Path, *, wait: bool, holder: str = "another run") -> Iterator[None]:
    """Holds the lock ``path`` inside the block, and removes the file afterwards; a lock that a dead run left is taken.

    Args:
        path: The lock file; its folder is created.
        wait: Whether to wait for the lock; otherwise a held one is an error.
        holder: What holds the lock, for the message.

    Raises:
        ValueError: Without ``wait``, if another process, or another block of this one, holds the lock.
        OSError: If ``path`` is a link, or cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError as error:
                process = os.read(descriptor, 20).decode(errors="replace").strip() or "unknown"
                raise ValueError(
                    f"{path.parent}: {holder} (process {process}) is still writing. Wait until it ends, or give "
                    "another name or folder."
                ) from error
            if not _is_current(descriptor, path):
                continue  # the holder before removed the file: its successor is another one
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
        finally:
            os.close(descriptor)


def _is_current(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
