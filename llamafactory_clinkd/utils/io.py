# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Files that survive a crash: atomic JSON and JSONL, locks, and the hashes that identify inputs.

A reader sees the old content or the new one, never half of it. Only :func:`append_jsonl` can leave a torn last line
when the machine crashes during a write; :func:`read_jsonl` drops such a line and the next append cuts it off.
"""

import hashlib
import json
import mmap
import os
import secrets
import shutil
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import accumulate
from operator import eq
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """A new file beside ``path`` that replaces it when the block ends, synced to disk, and is removed if it raises.

    Parent folders are created. The file keeps the mode of the one that it replaces, else follows the umask. A killed
    process leaves a file whose name starts with a dot and ends in ``.tmp``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    temporary.touch(exist_ok=False)
    try:
        if path.exists():
            shutil.copymode(path, temporary)
        yield temporary
        with open(temporary, "rb") as f:
            os.fsync(f.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def refuse_link(path: str | Path) -> Path:
    """``path``, or a ValueError if it is a link: what is appended or opened for writing would go to its target."""
    path = Path(path)
    if path.is_symlink():
        raise ValueError(f"{path} is a link, and nothing is written through one. Remove it and run again.")
    return path


def write_text(path: str | Path, text: str) -> None:
    """Writes ``text`` (UTF-8) to ``path`` atomically, creating parent folders."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: str | Path, value: Any) -> None:
    """Writes ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


TWICE = "occurs twice in one object"


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict, for ``object_pairs_hook``; ValueError if a key occurs twice: one would be lost."""
    members = dict(pairs)
    if len(members) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} {TWICE}")
    return members


def read_json(path: str | Path, *, unique: bool = False) -> Any:
    """Reads a JSON file; ``unique`` refuses an object with a key that occurs twice.

    Raises FileNotFoundError, or a ValueError that names the file if it is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=unique_keys if unique else None)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Delete or fix it and run again.") from error


def write_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes one JSON object a line, atomically."""
    with atomic_path(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as f:
        f.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_jsonl(path: str | Path) -> list[dict[str, Any]]:
    """All rows of :func:`iter_jsonl`."""
    return list(iter_jsonl(path))


def iter_jsonl(path: str | Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file, one at a time; a missing file has none, a torn last line (no newline) is dropped.

    Raises a ValueError that names file and line if a complete line is not a JSON object.
    """
    return (row for _, row in placed_rows(path))


def placed_rows(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """As :func:`iter_jsonl`, each row after the offset of its line in bytes."""
    path, offset = Path(path), 0
    if not path.exists():
        return
    with open(path, "rb") as f:
        for number, line in enumerate(f, start=1):
            if not line.endswith(b"\n"):
                return
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ValueError(f"{path}, line {number}: not a JSON object ({error}).") from error
                yield offset, row
            offset += len(line)


class JsonlRows(Sequence):
    """The rows of a JSONL file that no longer changes, read when they are used: 8 bytes a row in memory."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._offsets = array("q")
        offset = 0
        with open(path, "rb") as f:
            for line in f:
                if line.endswith(b"\n") and line.strip():
                    self._offsets.append(offset)
                offset += len(line)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        with open(self._path, "rb") as f:
            f.seek(self._offsets[index])
            return json.loads(f.readline())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter_jsonl(self._path)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]


def write_lines_of(path: str | Path, sources: Sequence[str | Path], places: Iterable[tuple[int, int]]) -> None:
    """Writes lines of other JSONL files, atomically: ``places`` are pairs of a file's number and a line's offset."""
    with ExitStack() as stack, atomic_path(path) as temporary, open(temporary, "wb") as f:
        files = [stack.enter_context(open(source, "rb")) for source in sources]
        for number, offset in places:
            files[number].seek(offset)
            f.write(files[number].readline())


def append_jsonl(path: str | Path, rows: Iterable[dict[str, Any]]) -> list[int]:
    """Appends rows and syncs them to disk; a torn last line left by a crash is cut off first.

    Returns the offset of each new line.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as f:
        if f.tell():
            with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as content:
                whole = content.rfind(b"\n") + 1
            f.truncate(whole)
        lines = [(json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8") for row in rows]
        start = f.seek(0, os.SEEK_END)
        f.write(b"".join(lines))
        f.flush()
        os.fsync(f.fileno())
    return list(accumulate(map(len, lines[:-1]), initial=start)) if lines else []


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def sampled_sha256(path: str | Path, blocks: int = 64, block_bytes: int = 65536) -> str:
    """SHA-256 of a file's size and of ``blocks`` evenly spread over it (4 MiB, or all), as 64 hexadecimal digits.

    For weights: training changes them nearly everywhere. Not for files that may have changed in one place only.
    """
    size = Path(path).stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as f:
        if size <= blocks * block_bytes:
            digest.update(f.read())
        else:
            for number in range(blocks):
                f.seek(number * (size - block_bytes) // (blocks - 1))
                digest.update(f.read(block_bytes))
    return digest.hexdigest()


def content_hash(value: Any) -> str:
    """SHA-256 of a JSON-able value with sorted keys, as 64 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


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
    import fcntl  # not on Windows

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
