# Copyright 2026 the llamafactory-clinkd team.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


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
