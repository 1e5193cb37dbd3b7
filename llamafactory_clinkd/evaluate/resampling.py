# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Bootstrap over clusters: intervals and p values of scores whose rows are not independent.

Questions about one image, one volume or one patient are answered well or badly together. Whole clusters are therefore
drawn with replacement (the cluster bootstrap; Cameron, Gelbach and Miller 2008, section III), within strata of one
modality each. Percentile intervals of few clusters are too narrow; their tails are moved out as a t interval is wider
than a normal one (the expanded percentile interval, Hesterberg, The American Statistician 2015, section 5.3).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..utils.scan_names import patient_of, volume_of


UNITS = ("patient", "volume", "image", "row")
MIN_CLUSTERS = 5  # or the degrees of freedom of so many


class Clusters(NamedTuple):
    """Which rows are drawn together."""

    of_row: np.ndarray  # int [rows]
    strata: list[np.ndarray]  # the clusters of each modality; one that spans several is in the first of them
    unit: str  # what the clusters are, of :data:`UNITS`; several joined by a slash


class Draws(NamedTuple):
    """Resampled values of a score or difference, and the variance and number of clusters of each part of it."""

    values: np.ndarray  # [resamples], NaN where no row was drawn
    parts: tuple[tuple[float, int], ...]


def find_clusters(rows: Sequence[Mapping[str, Any]]) -> Clusters:
    """The clusters of rows: those that have the patient (else the volume) or the image in common, directly or not.

    Patient and volume are the row's own columns, else those that the image's name encodes, as in a split of the data.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    nodes: dict[tuple[str, str], int] = {}
    edges, units = [], set()
    for index, row in enumerate(rows):
        keys = list(_cluster_keys(row)) or [("row", str(index))]
        units.add(keys[0][0])
        edges += [(index, nodes.setdefault(key, len(rows) + len(nodes))) for key in keys]
    size, (starts, ends) = len(rows) + len(nodes), np.array(edges).T
    labels = connected_components(coo_matrix((np.ones(len(edges)), (starts, ends)), (size, size)), directed=False)[1]
    _, first, of_row = np.unique(labels[: len(rows)], return_index=True, return_inverse=True)
    modality = np.array([rows[index]["modality"] for index in first])
    strata = [np.flatnonzero(modality == name) for name in np.unique(modality)]
    return Clusters(of_row, strata, " / ".join(unit for unit in UNITS if unit in units))


def cluster_weights(clusters: Clusters, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each cluster is drawn, float64 ``[clusters]``, for each resample; one alone in its stratum is kept."""
    rng = np.random.default_rng(seed)
    weights = np.ones(sum(len(stratum) for stratum in clusters.strata))
    for _ in range(resamples):
        for stratum in clusters.strata:
            drawn = rng.integers(len(stratum), size=len(stratum))
            weights[stratum] = np.bincount(drawn, minlength=len(stratum))
        yield weights


def cluster_sums(table: np.ndarray, of_row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The clusters of some rows, and the sums ``[clusters, columns]`` of their ``table`` ``[rows, columns]``."""
    present, places = np.unique(of_row, return_inverse=True)
    sums = np.zeros((len(present), table.shape[1]))
    np.add.at(sums, places, table)
    return present, sums


def part_draws(values: np.ndarray, clusters: int) -> Draws:
    """The draws of one modality's score, or of a difference of two."""
    return Draws(values, ((float(np.nanvar(values)) if np.isfinite(values).any() else 0.0, clusters),))


def mean_draws(draws: Sequence[Draws], size: int | None = None) -> Draws:
    """The draws of a mean over modalities, or of their sum divided by ``size``."""
    return Draws(
        np.sum([each.values for each in draws], axis=0) / (size or len(draws)),
        tuple(part for each in draws for part in each.parts),
    )


def average_draws(tasks: Sequence[Draws]) -> Draws:
    """The draws of a mean over tasks, which share their clusters: the fewest degrees of freedom count."""
    drawn = [each.parts for each in tasks if max(clusters for _, clusters in each.parts) > 1] or [tasks[0].parts]
    return Draws(np.mean([each.values for each in tasks], axis=0), min(drawn, key=_freedom))


def interval(draws: Draws, confidence: float) -> list[float] | None:
    """The interval ``[low, high]``; None with fewer than :data:`MIN_CLUSTERS`, whose resamples are too alike."""
    from scipy.special import ndtr, stdtrit

    values, (freedom, inflation) = draws.values[np.isfinite(draws.values)], _freedom(draws.parts)
    if not len(values) or freedom < MIN_CLUSTERS - 1:
        return None
    tail = ndtr(np.sqrt(inflation) * stdtrit(freedom, (1 - confidence) / 2))
    return [float(bound) for bound in np.quantile(values, [tail, 1 - tail])]


def p_value(draws: Draws) -> float | None:
    """Two-sided p value of a difference of 0: below 0.05 if 0 is outside the 95 % interval; None as there."""
    from scipy.special import ndtri, stdtr

    values, (freedom, inflation) = draws.values[np.isfinite(draws.values)], _freedom(draws.parts)
    if not len(values) or freedom < MIN_CLUSTERS - 1:
        return None
    below = (np.sum(values < 0) + 0.5 * np.sum(values == 0) + 0.5) / (len(values) + 1)
    return float(2 * stdtr(freedom, -abs(ndtri(below)) / np.sqrt(inflation)))


def _freedom(parts: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Degrees of freedom (Welch and Satterthwaite) and what the bootstrap's variance is too small by, of a sum."""
    parts = [(variance, clusters) for variance, clusters in parts if clusters > 1]
    total = sum(variance for variance, _ in parts)
    if not total:
        return float(max((clusters for _, clusters in parts), default=1) - 1), 1.0
    spread = sum(variance**2 / (clusters - 1) for variance, clusters in parts)
    return total**2 / spread, sum(variance * clusters / (clusters - 1) for variance, clusters in parts) / total


def _cluster_keys(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    image = row["image"]
    for unit, of_name in (("patient", patient_of), ("volume", volume_of)):
        own = row.get(unit)
        if name := (str(own).strip() if own not in (None, "") else image and of_name(image)):
            yield unit, name
            break
    if image:
        yield "image", image
