# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""The teacher's final hidden states at supervised positions, on disk.

``2 H`` bytes a token in bf16 (7 KB at 7B) give the exact distillation loss over the whole vocabulary later, with only
the teacher's head in memory, which is cached too. Entries are found by a hash of their content
(:mod:`llamafactory_clinkd.kd.cache_keys`), never by step or row number, so shuffling, accumulation, another number of
ranks, a kill and a resume cannot mix samples up. A shard is a safetensors file that one rank writes whole and renames;
the index is rebuilt from the shards' headers and exists in memory only.
"""

import functools
import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..utils.io import atomic_path
from ..utils.row_index import HashIndex, hash_of


logger = logging.getLogger(__name__)

FORMAT = "clinkd-teacher-hidden"
VERSION = "1"
HEAD_NAME = "head.safetensors"
SHARD_BYTES = 64 * 2**20
HEADER_BYTES_PER_SAMPLE = 160


class CacheMismatchError(ValueError):
    """A shard belongs to another teacher, width, dtype, version or program."""


def estimate_bytes(tokens: int, hidden_size: int, dtype: torch.dtype, samples: int = 0) -> int:
    """Bytes on disk for ``tokens`` supervised tokens of ``samples`` samples, with headers, without block rounding."""
    return tokens * hidden_size * dtype.itemsize + samples * HEADER_BYTES_PER_SAMPLE


def require_space(directory: str | Path, needed: int, content: str, way_out: str) -> None:
    """Logs the disk space that a cache needs, before a long run starts.

    Args:
        directory: Of the cache; created if missing. The shards that it has count as part of ``needed``.
        needed: Bytes.
        content: What is cached, for the messages.
        way_out: What else to do than to free space.

    Raises:
        OSError: If what is missing does not fit.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    cached = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    logger.info("%s in %s: %.2f GiB, of which %.2f exist.", content, directory, needed / 2**30, cached / 2**30)
    free = shutil.disk_usage(directory).free
    if needed - cached > free:
        raise OSError(
            f"{content}: {(needed - cached) / 2**30:.1f} GiB are needed, but {directory} has {free / 2**30:.1f} GiB "
            f"free. Free space, point output_dir elsewhere, or {way_out}."
        )


class HiddenCache:
    """Hidden states ``[n, H]`` by key, in shards of one folder that all ranks share.

    Every rank reads all shards and writes its own. :meth:`refresh` finds other ranks' new shards.

    Args:
        directory: Created if missing.
        teacher: From :func:`.cache_keys.teacher_identity`.
        hidden_size: ``H``.
        dtype: Of the states, stored bit for bit; None takes that of the first states put or read.
        rank: This process's global rank; part of its shards' names.
        shard_bytes: A shard is written as soon as this much is pending.

    Attributes:
        broken: Shards that could not be read; their samples are computed again.

    Raises:
        CacheMismatchError: If the folder holds a shard of another cache.
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
        self._metadata = {"format": FORMAT, "version": VERSION, "teacher": teacher, "hidden_size": str(hidden_size)}
        self.dtype: torch.dtype | None = None
        if dtype is not None:
            self._set_dtype(dtype)
        self._pending: dict[str, torch.Tensor] = {}
        self._pending_bytes = self._next_number = 0
        # Hash of a key -> number of the shard in `_shards`. A tensor is read by the whole key: never another one's.
        self._index = HashIndex()
        self._shards: list[Path] = []
        self._known_shards: set[Path] = set()
        self._open = functools.lru_cache(maxsize=32)(functools.partial(safe_open, framework="pt"))
        self._prefix = f"hidden-rank{rank:05d}-"
        for pattern in (f".{self._prefix}*.tmp", *([f".{HEAD_NAME}*.tmp"] if rank == 0 else [])):
            for leftover in self.directory.glob(pattern):  # this rank was killed while writing
                leftover.unlink()
        self.refresh()

    def __len__(self) -> int:
        return len(self._index) + len(self._pending)

    def __contains__(self, key: str) -> bool:
        return key in self._pending or hash_of(key.encode()) in self._index

    def put(self, key: str, hidden: torch.Tensor) -> None:
        """Adds ``hidden`` ``[n, H]`` unless ``key`` is cached; writes a shard when enough is pending.

        Raises ValueError if shape or dtype is not the cache's: casting would not be bit-exact.
        """
        if self.dtype is None:
            self._set_dtype(hidden.dtype)
        if hidden.dim() != 2 or hidden.shape[1] != self.hidden_size or hidden.dtype != self.dtype:
            raise ValueError(
                f"hidden is {list(hidden.shape)} {hidden.dtype}; expected [n, {self.hidden_size}] {self.dtype}."
            )
        if key in self:
            return
        self._pending[key] = _cpu_copy(hidden)
        self._pending_bytes += self._pending[key].nbytes
        if self._pending_bytes >= self.shard_bytes:
            self.flush()

    def get(self, key: str) -> torch.Tensor | None:
        """A copy ``[n, H]`` on the CPU with the bits that were put, or None if the key is unknown."""
        if key in self._pending:
            return self._pending[key].clone()
        number = self._index.get(hash_of(key.encode()))
        # The file is memory-mapped: writing to a view would change the next result for this key.
        return None if number is None else self._open(self._shards[number]).get_tensor(key).clone()

    def flush(self) -> Path | None:
        """Writes what is pending as one shard, atomically; returns its path, or None if nothing was pending."""
        if not self._pending:
            return None
        while (path := self.directory / f"{self._prefix}{self._next_number:06d}.safetensors").exists():
            self._next_number += 1
        self._write(self._pending, path)
        self._add(path, self._pending)
        self._known_shards.add(path)
        self._pending, self._pending_bytes = {}, 0
        return path

    def refresh(self) -> None:
        """Adds the new shards of all ranks; raises CacheMismatchError if one is not of this cache.

        A file that safetensors cannot read (full disk, broken copy) is skipped with a warning, see :attr:`broken`.
        """
        for path in sorted(self.directory.glob("*.safetensors")):
            if path in self._known_shards or path.name == HEAD_NAME:
                continue
            self._known_shards.add(path)
            try:
                shard = self._open(path)
            except SafetensorError as error:
                logger.warning("%s is damaged (%s): its samples will be computed again. Delete it.", path, error)
                self.broken.add(path)
                continue
            metadata = shard.metadata() or {}
            self._check(path, metadata, self._metadata)
            if self.dtype is None:
                self._set_dtype(getattr(torch, metadata["dtype"]))
            self._add(path, shard.keys())

    def _add(self, path: Path, keys: Iterable[str]) -> None:
        self._shards.append(path)
        for key in keys:
            self._index.put(hash_of(key.encode()), len(self._shards) - 1)

    def save_head(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Writes the teacher's head, ``[V, H]`` and ``[V]`` or None: a later run needs nothing else of the teacher."""
        tensors = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
        self._write({name: _cpu_copy(tensor) for name, tensor in tensors.items()}, self.directory / HEAD_NAME)

    def has_head(self) -> bool:
        """Whether any rank of any run has written the head."""
        return (self.directory / HEAD_NAME).is_file()

    def load_head(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Reads the head, on the CPU; raises CacheMismatchError if it is another teacher's."""
        expected = {key: value for key, value in self._metadata.items() if key != "dtype"}
        with safe_open(self.directory / HEAD_NAME, framework="pt") as file:
            self._check(self.directory / HEAD_NAME, file.metadata() or {}, expected)
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return tensors["weight"], tensors.get("bias")

    def _write(self, tensors: dict[str, torch.Tensor], path: Path) -> None:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=self._metadata)

    def _set_dtype(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._metadata["dtype"] = str(dtype).removeprefix("torch.")

    @staticmethod
    def _check(path: Path, metadata: dict[str, str], expected: dict[str, str]) -> None:
        different = [key for key in expected if metadata.get(key) != expected[key]]
        if different:
            raise CacheMismatchError(
                f"{path} holds {json.dumps({key: metadata.get(key) for key in different})} where this run needs "
                f"{json.dumps({key: expected[key] for key in different})}. Use another cache folder for another "
                "teacher or setting, or delete this one."
            )


def _cpu_copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy: a view would keep the whole batch alive, and safetensors refuses shared storage."""
    return tensor.detach().to("cpu", copy=True).contiguous()
