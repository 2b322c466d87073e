"""Nulls and distances of classes against single evaluations, quadrature and brute force."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm, wasserstein_distance

from ccvae_eval.statistics import densities
from ccvae_eval.statistics.distances import normal_wasserstein, normal_wasserstein_estimate, normal_wasserstein_floor
from ccvae_eval.statistics.information import neighbour_divergences
from ccvae_eval.statistics.permutation_nulls import permuted_null
from ccvae_eval.statistics.resampling import ResampleWeights

pytestmark = pytest.mark.oracle


def test_the_null_is_the_mean_over_single_evaluations():
    """Bandwidths are those of all codes instead of each class's: agreement to a few per cent of the null."""
    rng = np.random.default_rng(0)
    labels = (rng.random(300) < 0.3).astype(float)
    codes = rng.standard_normal(300) + 2 * labels
    found = permuted_null(codes, labels, seed=0, permutations=200)
    names = ("dprime", "overlap", "js", "wasserstein")
    single = {name: [] for name in names}
    for draw in range(200):
        mark = np.random.default_rng(draw).permutation(labels) == 1
        for name in names:
            single[name].append(getattr(densities, name)(codes[mark], codes[~mark]))
    for name in names:
        error = np.std(single[name]) / math.sqrt(100)  # both are means of 200
        expected = np.mean(single[name])
        assert getattr(found, name) == pytest.approx(
            expected, abs=4 * error + 0.03 * (1 - expected if name == "overlap" else expected)
        )
    assert found.wasserstein_scaled == pytest.approx(found.wasserstein / codes.std(ddof=1), rel=1e-12)


def test_the_null_of_a_mean_difference_is_half_normal():
    rng = np.random.default_rng(1)
    labels = np.repeat([0.0, 1.0], [700, 300])
    found = permuted_null(rng.standard_normal(1000), labels, seed=0, permutations=2000).dprime
    assert found == pytest.approx(math.sqrt(2 / math.pi * (1 / 700 + 1 / 300)), rel=0.05)


def test_discrete_codes_are_point_masses():
    labels = np.repeat([0.0, 1.0], 50)
    found = permuted_null(labels, labels, seed=0)
    assert 0.8 < found.overlap < 1
    assert found.overlap + found.wasserstein == pytest.approx(1, abs=1e-12)


def test_missing_codes_and_labels_do_not_enter():
    rng = np.random.default_rng(2)
    labels = np.repeat([0.0, 1.0], 60)
    codes = rng.standard_normal(120)
    more = permuted_null(np.append(codes, [np.nan, 9.0]), np.append(labels, [1.0, np.nan]), seed=3)
    assert more == permuted_null(codes, labels, seed=3)


@pytest.mark.parametrize("n", [1, 2, 37])
def test_distance_to_the_normal_is_the_integral(n):
    scores = np.sort(1.4 * np.random.default_rng(n).standard_normal(n) + 0.3)
    ends = [-12, *scores, 12]
    expected = 0.0
    for place, (low, high) in enumerate(pairwise(ends)):
        crossing = [t for t in (norm.ppf(place / n),) if low < t < high]
        for a, b in zip([low, *crossing], [*crossing, high], strict=True):
            expected += quad(lambda t, level=place / n: abs(level - norm.cdf(t)), a, b)[0]
    assert normal_wasserstein(scores) == pytest.approx(expected, abs=1e-8)


def test_distance_to_the_normal_is_scipys_to_a_large_sample():
    scores = 0.5 * np.random.default_rng(0).standard_normal(2000) + 2
    large = norm.ppf((np.arange(400_000) + 0.5) / 400_000)
    assert normal_wasserstein(scores) == pytest.approx(wasserstein_distance(scores, large), abs=1e-4)


def test_resampled_distances_are_distances_of_resamples_set_around_the_value():
    scores = np.random.default_rng(5).standard_normal(80) + 0.5
    scores[7] = np.nan
    weights = ResampleWeights(0, 80, 50)
    found = normal_wasserstein_estimate(scores, weights)
    counts = weights.rows(np.arange(80))
    kept = [np.repeat(np.arange(80), counts[:, draw]) for draw in range(50)]
    expected = np.array([normal_wasserstein(scores[rows][~np.isnan(scores[rows])]) for rows in kept])
    assert found.draws - found.value == pytest.approx(expected - expected.mean(), abs=2e-3)
    assert found.estimate.n == 79
    assert found.estimate.low <= found.value <= found.estimate.high


def test_what_chance_would_give_is_no_distance_and_more_is_one():
    scores = np.random.default_rng(6).standard_normal(300)
    weights = ResampleWeights(0, 300)
    assert normal_wasserstein_estimate(scores, weights).estimate.low == 0
    assert normal_wasserstein_estimate(scores + 0.4, weights).estimate.low > 0.2


def test_the_floor_falls_as_one_over_root_n():
    r"""E W1 is near sqrt(2/pi) times the integral of sqrt(Phi (1 - Phi) / n)."""
    for n in (50, 800):
        closed = math.sqrt(2 / math.pi / n) * quad(lambda t: math.sqrt(norm.cdf(t) * norm.sf(t)), -9, 9)[0]
        assert normal_wasserstein_floor(n) == pytest.approx(closed, rel=0.12)
    assert math.isnan(normal_wasserstein(np.empty(0)))
    assert not normal_wasserstein_estimate(np.full(5, np.nan), ResampleWeights(0, 5)).defined


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("k", [1, 4])
def test_divergences_of_many_pairs_are_their_formula(d, k):
    rng = np.random.default_rng(6)
    first, second = rng.standard_normal((3, 30, d)), rng.standard_normal((3, 25, d)) + 0.7
    found = neighbour_divergences(first, second, k)
    for pair in range(3):
        for side, (a, b) in enumerate(((first[pair], second[pair]), (second[pair], first[pair]))):
            rho = np.sort(np.linalg.norm(a[:, None] - a, axis=2), axis=1)[:, k]
            nu = np.sort(np.linalg.norm(a[:, None] - b, axis=2), axis=1)[:, k - 1]
            expected = math.log(len(b) / (len(a) - 1)) + d * np.log(nu / rho).mean()
            assert found[pair, side] == pytest.approx(expected, rel=1e-10)


def test_divergences_need_neighbours_and_distinct_codes():
    line = np.arange(20.0).reshape(1, 20, 1)
    assert np.isnan(neighbour_divergences(line, line[:, :5] + 0.5, 5)).all()
    assert np.isnan(neighbour_divergences(np.zeros((1, 20, 1)), line + 0.5, 3)[0, 0])
    assert np.isnan(neighbour_divergences(np.zeros((1, 20, 2)), np.ones((1, 20, 2)), 3)).any()
