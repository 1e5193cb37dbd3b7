# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0


"""Percentile bootstrap over rows, for every metric that is a function of summed per-row statistics."""

import numpy as np


def resampled_sums(statistics: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Sums of the statistics over rows drawn with replacement (Efron and Tibshirani 1993, chapter 13).

    Args:
        statistics: float64 ``[rows, columns]``.
        resamples: Number of draws of as many rows.
        rng: The source of randomness.

    Returns:
        float64 ``[resamples, columns]``.
    """
    count = len(statistics)
    sums = np.empty((resamples, statistics.shape[1]))
    for i in range(resamples):
        sums[i] = np.bincount(rng.integers(count, size=count), minlength=count) @ statistics
    return sums


def interval(values: np.ndarray, confidence: float) -> list[float]:
    """The percentile interval ``[low, high]`` that holds the share ``confidence`` of the resampled values."""
    tail = (1 - confidence) / 2
    return [float(bound) for bound in np.quantile(values, [tail, 1 - tail])]
