# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Means over seeds, and whether a difference is larger than the seeds explain."""

from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Literal, NamedTuple

from scipy import stats


CONFIDENCE = 0.95


class Spread(NamedTuple):
    """A score over seeds."""

    mean: float  # of the seeds
    std: float | None  # sample standard deviation; None for one seed
    count: int  # number of seeds


class Difference(NamedTuple):
    """A row's mean minus the reference's."""

    value: float  # the difference
    p: float | None  # two-sided p value; None where there are too few seeds for one

    @property
    def beyond_noise(self) -> bool | None:
        """Whether p < 0.05; None without a p value."""
        return None if self.p is None else self.p < 1 - CONFIDENCE


def spread(values: list[float]) -> Spread | None:
    """Mean and standard deviation; None without a value."""
    if not values:
        return None
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values))


Test = Literal["welch", "paired", "fixed"]


def difference(row: Mapping[int, float], reference: Mapping[int, float], test: Test = "welch") -> Difference | None:
    """The difference of two rows' means (seed -> score) with a t-test over seeds; None if one of them has no score.

    ``welch`` is for two trained rows, ``paired`` where both scores of a seed come from the same trained model,
    ``fixed`` for a row that no seed changes. If no score varies over seeds, any difference is beyond noise.
    """
    if test == "paired":
        shared = sorted(row.keys() & reference.keys())
        a, b = [row[seed] for seed in shared], [reference[seed] for seed in shared]
    else:
        a, b = list(row.values()), list(reference.values())
    if not a or not b:
        return None
    value = fmean(a) - fmean(b)
    if len(b) < 2 or (len(a) < 2 and test != "fixed"):
        return Difference(value, None)
    varied = [[x - y for x, y in zip(a, b, strict=True)]] if test == "paired" else [a, b]
    if all(max(values) - min(values) < 1e-9 for values in varied):
        return Difference(value, 0.0 if abs(value) > 1e-9 else 1.0)
    if test == "paired":
        p = stats.ttest_rel(a, b).pvalue
    elif test == "fixed":
        p = stats.ttest_1samp(b, a[0]).pvalue
    else:
        p = stats.ttest_ind(a, b, equal_var=False).pvalue
    return Difference(value, float(p))


def beyond_chance(differences: list[Difference]) -> list[bool]:
    """Which differences stay significant when all are tested together (Benjamini and Hochberg, 5 % false discoveries).

    One p value in twenty is below 0.05 by chance, and a table has dozens.
    """
    tested = [number for number, each in enumerate(differences) if each.p is not None]
    found = [False] * len(differences)
    if tested:
        adjusted = stats.false_discovery_control([differences[number].p for number in tested])
        for number, p in zip(tested, adjusted, strict=True):
            found[number] = bool(p < 1 - CONFIDENCE)
    return found


def mean_interval(intervals: list[tuple[float, float]]) -> tuple[float, float] | None:
    """The mean over seeds of the intervals' ends.

    It shows the uncertainty from the choice of test rows. All seeds share them: more seeds do not narrow it.
    """
    if not intervals:
        return None
    return fmean(low for low, _ in intervals), fmean(high for _, high in intervals)
