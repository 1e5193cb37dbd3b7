# SPDX-FileCopyrightText: 2026 the llamafactory-clinkd team
# SPDX-License-Identifier: Apache-2.0

"""Clusters, and whether intervals over them cover the truth as often as they claim."""

from collections.abc import Iterator

import numpy as np
import pytest

from llamafactory_clinkd.evaluate.resampling import (
    Clusters,
    Draws,
    cluster_sums,
    cluster_weights,
    find_clusters,
    interval,
    mean_draws,
    p_value,
    part_draws,
)


def row(image="", modality="ct", **columns):
    return {"image": image, "modality": modality, **columns}


def groups(rows) -> list[list[int]]:
    of_row = find_clusters(rows).of_row
    return sorted(np.flatnonzero(of_row == cluster).tolist() for cluster in np.unique(of_row))


def test_rows_of_a_patient_a_volume_or_an_image_are_one_cluster():
    by_name = [row(f"ct_00--AMOS2022--amos_000{case}--x_002{i}.png") for case in (1, 2) for i in (0, 1)]
    assert groups(by_name) == [[0, 1], [2, 3]] and find_clusters(by_name).unit == "patient"
    by_volume = [row("a/brain--z_0040.png"), row("a/brain--z_0041.png"), row("b/brain--z_0040.png")]
    assert groups(by_volume) == [[0, 1], [2]] and find_clusters(by_volume).unit == "volume"
    by_image = [row("1.png"), row("2.png"), row("1.png")]
    assert groups(by_image) == [[0, 2], [1]] and find_clusters(by_image).unit == "image"
    assert groups([row(), row()]) == [[0], [1]] and find_clusters([row(), row()]).unit == "row"


def test_a_row_s_own_patient_and_volume_come_before_its_image_s_name():
    names = [f"ct_00--AMOS2022--amos_000{case}--x_0020.png" for case in (1, 2, 3)]
    assert groups([row(name, patient=each) for name, each in zip(names, ("7", 7, "8"), strict=True)]) == [[0, 1], [2]]
    assert groups([row(f"{i}.png", volume="v") for i in range(3)]) == [[0, 1, 2]]
    assert groups([row("1.png", patient="7"), row("1.png"), row("2.png", patient="7"), row("3.png")]) == [
        [0, 1, 2],
        [3],
    ]
    assert groups([row("1.png", patient=""), row("2.png", patient=None)]) == [[0], [1]]


def test_volumes_of_the_same_name_of_two_patients_stay_apart():
    assert groups([row(f"{p}{v}.png", patient=p, volume=v) for p in "ab" for v in "12"]) == [[0, 1], [2, 3]]


def test_each_modality_keeps_its_number_of_clusters():
    clusters = find_clusters([row(f"{i}.png", "ct" if i < 8 else "mr") for i in range(10)])
    ct, mr = clusters.strata
    for weights in cluster_weights(clusters, 20, 0):
        assert weights[ct].sum() == 8 and weights[mr].sum() == 2


def simulated(rng, clusters: int, mean: float, *, size: int = 8, correlation: float = 0.5) -> Iterator[np.ndarray]:
    """Right answers of two models, ``[rows]`` each of every cluster: beta-binomial, correlated within clusters."""
    strength = 1 / correlation - 1
    for _ in range(clusters):
        rates = rng.beta(mean * strength, (1 - mean) * strength, size=2)
        yield (rng.random((rng.integers(1, 2 * size), 2)) < rates).astype(float)


def coverage(samples: int, clusters: int, resamples: int, *, by_row: bool = False, what: str = "score") -> float:
    """How often a 95 % interval contains the true score (0.4), difference (0) or mean over two modalities."""
    rng, covered = np.random.default_rng(0), 0
    for sample in range(samples):
        draws, truth = [], 0.0 if what == "difference" else 0.4
        for _ in range(2 if what == "macro" else 1):
            answers = list(simulated(rng, clusters, 0.4))
            rows = np.concatenate(answers)
            of_row = np.repeat(np.arange(clusters), [len(each) for each in answers])
            of_row = np.arange(len(rows)) if by_row else of_row
            table = np.stack([rows[:, 0] - (rows[:, 1] if what == "difference" else 0), np.ones(len(rows))], axis=1)
            present, sums = cluster_sums(table, of_row)
            found = Clusters(of_row, [present], "")
            drawn = np.stack([weights @ sums for weights in cluster_weights(found, resamples, sample)])
            draws.append(part_draws(drawn[:, 0] / drawn[:, 1], len(present)))
        low, high = interval(mean_draws(draws), 0.95)
        covered += low <= truth <= high
    return covered / samples


@pytest.mark.parametrize("what", ["score", "difference", "macro"])
def test_intervals_over_clusters_cover_the_truth(what):
    """Of 300 samples of 25 patients; by rows, the same intervals are far too narrow."""
    assert 0.92 <= coverage(300, 25, 200, what=what) <= 0.98
    assert coverage(100, 25, 100, by_row=True, what=what) < 0.8


def test_p_value_is_below_five_percent_where_the_interval_excludes_zero():
    rng = np.random.default_rng(0)
    for shift in np.linspace(-4, 4, 33):
        draws = part_draws(rng.normal(shift, 1.3, 4001), 12)
        low, high = interval(draws, 0.95)
        if min(abs(low), abs(high)) > 0.05:  # nearer to it, the smoothing of p decides
            assert (p_value(draws) < 0.05) == (low > 0 or high < 0)
    assert p_value(part_draws(np.zeros(100), 9)) == 1
    assert p_value(part_draws(np.ones(100), 1)) is None


def test_draws_without_a_row_do_not_count():
    values = np.array([np.nan, *np.linspace(0, 1, 101)])
    low, high = interval(Draws(values, ((0.1, 1000),)), 0.9)
    assert low == pytest.approx(0.05, abs=0.001) and high == pytest.approx(0.95, abs=0.001)
