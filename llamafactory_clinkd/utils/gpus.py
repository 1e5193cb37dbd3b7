# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""GPUs of the plan: memory, peak and bandwidth, from the vendors' data sheets."""

import os
from typing import NamedTuple


UTILISATION = 0.4
"""Share of the peak FLOPs that training and prompts reach: an assumption, not a measurement."""


class Gpu(NamedTuple):
    """One GPU; the peak is that of dense bf16 matrix products with fp32 sums, without sparsity."""

    gib: float  # that CUDA offers, some GiB below the data sheet's
    flops: float  # a second
    bandwidth: float  # of its memory, bytes a second


GPUS = {
    "a100-40": Gpu(39.5, 312e12, 1.555e12),
    "a100-80": Gpu(79, 312e12, 2.039e12),  # SXM
    "h100": Gpu(79, 989e12, 3.35e12),  # SXM
    "h200": Gpu(139, 989e12, 4.8e12),
    "l40s": Gpu(44, 362e12, 0.864e12),
    "4090": Gpu(23.5, 165e12, 1.008e12),
    "3090": Gpu(23.5, 71e12, 0.936e12),
}


CPU = "cpu"


def choose_gpu(name: str) -> Gpu:
    """The GPU of this name, in any case, or for ``cpu`` this machine's memory; ValueError for another name."""
    if name.lower() == CPU:
        return Gpu(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 0, 0)
    if name.lower() not in GPUS:
        raise ValueError(
            f"`--gpu {name}` is not in the table: expected one of {', '.join([*GPUS, CPU])}. For another one, name "
            "the nearest and give its GiB with `clinkd doctor --gpu-memory`."
        )
    return GPUS[name.lower()]
