# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Peak memory and time of one call, above what was in use when it started.

On CPU the kernel counts: writing 5 to ``/proc/self/clear_refs`` sets the peak resident size (``VmHWM``) back to the
current one, so the figure holds for the call alone and includes what libraries allocate behind torch's back. On CUDA
torch's allocator counts. Needs only torch, so that it also runs in the environments of the peers.
"""

import ctypes
import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch


MIB = 2**20


class Measured(NamedTuple):
    """What one call cost."""

    value: Any
    seconds: float
    cpu_seconds: float
    """Of all threads: on a machine that others use too, the steadier figure."""
    peak_mib: float


def measure(call: Callable[[], Any], device: str = "cpu") -> Measured:
    """Runs ``call`` once.

    Raises:
        OSError: If the peak cannot be reset: not Linux, or ``/proc`` is read-only.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated() / MIB
    else:
        ctypes.CDLL(None).malloc_trim(0)  # freed heap would otherwise be reused for nothing
        Path("/proc/self/clear_refs").write_text("5")
        start = _status_mib("VmRSS")
    began, cpu_began = time.perf_counter(), time.process_time()
    value = call()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    peak = torch.cuda.max_memory_allocated() / MIB if device == "cuda" else _status_mib("VmHWM")
    return Measured(value, seconds, cpu_seconds, peak - start)


def _status_mib(key: str) -> float:
    """A figure of ``/proc/self/status``, which counts in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) / 1024
    raise OSError(f"/proc/self/status has no {key}; peak memory can be measured on Linux only.")
