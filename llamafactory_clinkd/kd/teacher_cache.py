# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The teacher's final hidden states at supervised positions, on disk, keyed by what they were computed from.

``2 H`` bytes a token in bf16 (7 KB at 7B) give the exact distillation loss over the whole vocabulary later, with only
the teacher's head in memory, which is kept beside them. What is unusual: entries are found by a hash of their content
(:mod:`.cache_keys`), never by step or row number, so shuffling, accumulation, another number of ranks, a kill and a
resume cannot mix samples up.

A shard is a safetensors file that one rank writes whole and renames into place; the index is rebuilt from the shards'
headers and exists in memory only. Nothing is pickled.
"""

import functools
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file


logger = logging.getLogger(__name__)

FORMAT = "clinkd-teacher-hidden"
VERSION = "1"
HEAD_NAME = "head.safetensors"
SHARD_BYTES = 64 * 2**20
HEADER_BYTES_PER_SAMPLE = 160


class CacheMismatchError(ValueError):
    """A shard belongs to another teacher, format or program."""


def estimate_bytes(tokens: int, hidden_size: int, dtype: torch.dtype, samples: int = 0) -> int:
    """Bytes on disk for ``tokens`` supervised tokens of ``samples`` samples, with headers, without block rounding."""
    return tokens * hidden_size * dtype.itemsize + samples * HEADER_BYTES_PER_SAMPLE


def require_space(directory: str | Path, needed: int) -> None:
    """Checks that ``needed`` bytes fit before a long run starts.

    Raises:
        OSError: If they do not; the message says how much is missing.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise OSError(
            f"The teacher cache needs {needed / 2**30:.1f} GiB but {directory} has {free / 2**30:.1f} GiB free. "
            "Free space, point output_dir elsewhere, or set kd_cache: off."
        )


class HiddenCache:
    """Hidden states ``[n, H]`` by key, in shards of one folder that all ranks share.

    Every rank reads all shards and writes its own. Other ranks' new shards are seen after :meth:`refresh`.

    Args:
        directory: Folder of the shards, created if missing.
        teacher: What the states come from (model, revision, adapters, quantisation, rope variant), as one string.
        hidden_size: ``H`` of the teacher.
        dtype: Dtype of the states, kept bit for bit; None takes that of the first states put or found.
        rank: This process's global rank; part of its shards' names.
        shard_bytes: A shard is written once this much is waiting.

    Raises:
        CacheMismatchError: If the folder holds a shard of another teacher, width, dtype, version or program.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        teacher: str,
        hidden_size: int,
        dtype: torch.dtype | None = None,
        rank: int = 0,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.hidden_size, self.rank, self.shard_bytes = hidden_size, rank, shard_bytes
        self.broken: set[Path] = set()
        """Shards that could not be read; their samples are computed again."""
        self._metadata = {
            "format": FORMAT,
            "version": VERSION,
            "teacher": teacher,
            "hidden_size": str(hidden_size),
        }
        self.dtype: torch.dtype | None = None
        if dtype is not None:
            self._adopt(dtype)
        self._pending: dict[str, torch.Tensor] = {}
        self._index: dict[str, Path] = {}
        self._seen: set[Path] = set()
        self._open = functools.lru_cache(maxsize=32)(_open_shard)
        for leftover in self.directory.glob(f".{self._prefix}*.tmp"):  # this rank died while writing
            leftover.unlink()
        self.refresh()

    @property
    def _prefix(self) -> str:
        return f"hidden-rank{self.rank:05d}-"

    def __len__(self) -> int:
        return len(self._index) + len(self._pending)

    def __contains__(self, key: str) -> bool:
        return key in self._pending or key in self._index

    def put(self, key: str, hidden: torch.Tensor) -> None:
        """Keeps ``hidden`` ``[n, H]``; writes a shard when enough is waiting. A key that is there is left alone.

        Raises:
            ValueError: If shape or dtype is not the cache's: casting would not be bit-exact.
        """
        if self.dtype is None:
            self._adopt(hidden.dtype)
        if hidden.dim() != 2 or hidden.shape[1] != self.hidden_size or hidden.dtype != self.dtype:
            raise ValueError(
                f"hidden is {list(hidden.shape)} {hidden.dtype}; expected [n, {self.hidden_size}] {self.dtype}."
            )
        if key in self:
            return
        # A copy: a view would keep the whole batch alive, and safetensors refuses shared storage.
        self._pending[key] = hidden.detach().to("cpu", copy=True).contiguous()
        if sum(x.nbytes for x in self._pending.values()) >= self.shard_bytes:
            self.flush()

    def get(self, key: str) -> torch.Tensor | None:
        """A copy ``[n, H]`` on the CPU with the bits that were put, or None if the key is unknown."""
        if key in self._pending:
            return self._pending[key].clone()
        path = self._index.get(key)
        # The reader hands out views of its map: writing to one would change what the next reader of the key gets.
        return None if path is None else self._open(path).get_tensor(key).clone()

    def flush(self) -> Path | None:
        """Writes what is waiting as one shard, atomically; returns its path, or None if nothing waited."""
        if not self._pending:
            return None
        path = self._next_path()
        self._write(self._pending, path)
        self._index.update(dict.fromkeys(self._pending, path))
        self._seen.add(path)
        self._pending = {}
        return path

    def save_head(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Keeps the teacher's head, ``[V, H]`` and ``[V]`` or None, so that a later run needs nothing else of it."""
        tensors = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
        self._write(tensors, self.directory / HEAD_NAME)

    def has_head(self) -> bool:
        """Whether :meth:`save_head` was called, by whatever rank and run."""
        return (self.directory / HEAD_NAME).is_file()

    def load_head(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What :meth:`save_head` kept, on the CPU.

        Raises:
            CacheMismatchError: If it is another teacher's.
        """
        with safe_open(self.directory / HEAD_NAME, framework="pt") as file:
            self._check(self.directory / HEAD_NAME, file.metadata() or {}, but="dtype")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors["weight"].clone(), tensors.get("bias")

    def _next_path(self) -> Path:
        taken = [int(path.stem.rsplit("-", 1)[1]) for path in self.directory.glob(f"{self._prefix}*.safetensors")]
        return self.directory / f"{self._prefix}{max(taken, default=-1) + 1:06d}.safetensors"

    def _write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        """Writes a whole file and only then gives it its name."""
        temporary = path.with_name(f".{self._prefix}{path.name}.tmp")
        save_file(tensors, temporary, metadata=self._metadata)
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        os.replace(temporary, path)

    def _adopt(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._metadata["dtype"] = str(dtype).removeprefix("torch.")

    def refresh(self) -> None:
        """Adds shards that appeared since, of whatever rank.

        A file that safetensors cannot read (cut short by a full disk or a broken copy) is named in a warning and in
        :attr:`broken`, and skipped.

        Raises:
            CacheMismatchError: If a readable shard is not of this cache.
        """
        for path in sorted(self.directory.glob("*.safetensors")):
            if path in self._seen or path.name == HEAD_NAME:
                continue
            self._seen.add(path)
            try:
                shard = self._open(path)
            except SafetensorError as error:
                logger.warning("%s is damaged (%s): its samples will be computed again. Delete it.", path, error)
                self.broken.add(path)
                continue
            self._check(path, shard.metadata() or {})
            self._index.update(dict.fromkeys(shard.keys(), path))

    def _check(self, path: Path, found: dict[str, str], but: str = "") -> None:
        """Refuses a file whose metadata differ, key ``but`` apart; takes the states' dtype from the first one."""
        wanted = {key: value for key, value in self._metadata.items() if key != but}
        different = {key: found.get(key) for key in wanted if found.get(key) != wanted[key]}
        if different:
            expected = {key: wanted[key] for key in different}
            raise CacheMismatchError(
                f"{path} holds {json.dumps(different)} where this run needs {json.dumps(expected)}. Use another cache "
                "folder for another teacher or setting, or delete this one."
            )
        if self.dtype is None and not but:
            self._adopt(getattr(torch, found["dtype"]))


def _open_shard(path: Path) -> Any:
    """A memory-mapped reader; shards never change once they have their name."""
    return safe_open(path, framework="pt")
