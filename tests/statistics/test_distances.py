"""Distances from a normal distribution against quadrature, SciPy and single evaluations."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm, wasserstein_distance

from ccvae_eval.statistics.distances import (
    kernel_and_manifolds,
    kernel_distance,
    kernel_distance_estimate,
    normal_wasserstein,
    normal_wasserstein_estimate,
    normal_wasserstein_floor,
)
from ccvae_eval.statistics.resampling import ResampleWeights

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("n", [1, 2, 37])
def test_the_distance_equals_the_integral(n):
    scores = np.sort(1.4 * np.random.default_rng(n).standard_normal(n) + 0.3)
    ends = [-12, *scores, 12]
    expected = 0.0
    for place, (low, high) in enumerate(pairwise(ends)):
        crossing = [t for t in (norm.ppf(place / n),) if low < t < high]
        for a, b in zip([low, *crossing], [*crossing, high], strict=True):
            expected += quad(lambda t, level=place / n: abs(level - norm.cdf(t)), a, b)[0]
    assert normal_wasserstein(scores) == pytest.approx(expected, abs=1e-8)


def test_the_distance_equals_that_of_scipy_to_a_large_sample():
    scores = 0.5 * np.random.default_rng(0).standard_normal(2000) + 2
    large = norm.ppf((np.arange(400_000) + 0.5) / 400_000)
    assert normal_wasserstein(scores) == pytest.approx(wasserstein_distance(scores, large), abs=1e-4)


def test_draws_are_distances_of_the_resamples_centred_on_the_value():
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


def test_the_interval_contains_zero_at_chance_only():
    scores = np.random.default_rng(6).standard_normal(300)
    weights = ResampleWeights(0, 300)
    assert normal_wasserstein_estimate(scores, weights).estimate.low == 0
    assert normal_wasserstein_estimate(scores + 0.4, weights).estimate.low > 0.2


def test_the_floor_falls_as_one_over_root_n():
    r"""E W1 is close to sqrt(2/pi) times the integral of sqrt(Phi (1 - Phi) / n)."""
    for n in (50, 800):
        closed = math.sqrt(2 / math.pi / n) * quad(lambda t: math.sqrt(norm.cdf(t) * norm.sf(t)), -9, 9)[0]
        assert normal_wasserstein_floor(n) == pytest.approx(closed, rel=0.12)
    assert math.isnan(normal_wasserstein(np.empty(0)))
    assert not normal_wasserstein_estimate(np.full(5, np.nan), ResampleWeights(0, 5)).defined


def images(seed, count=40, shift=0.0):
    return np.random.default_rng(seed).standard_normal((count, 3)) + shift


def test_the_kernel_distance_alone_equals_the_one_computed_with_the_manifolds():
    x, y = images(0), images(1, 50, 0.3)
    assert kernel_distance(x, y) == pytest.approx(kernel_and_manifolds(x, y)[0].value)


def test_the_kernel_distance_of_paired_samples_is_unbiased():
    """Two samples of one distribution whose rows depend on each other are at a distance of 0 on average."""
    pairs = [(x, 0.9 * x + math.sqrt(1 - 0.81) * images(1000 + seed)) for seed in range(400) for x in [images(seed)]]
    found, biased = (np.array([kernel_distance(x, y, paired=paired) for x, y in pairs]) for paired in (True, False))
    assert abs(found.mean()) < 4 * found.std() / 20
    assert biased.mean() < -4 * biased.std() / 20


def test_draws_of_the_kernel_distance_leave_out_pairs_of_copies():
    x, y = images(2, 12), images(3, 15, 0.5)
    weights = ResampleWeights(0, 27, 20)
    found = kernel_distance_estimate(x, y, (np.arange(12), 12 + np.arange(15)), weights)
    counts = weights.rows(np.arange(27))
    k = lambda u, v: (u @ v / 3 + 1) ** 3  # noqa: E731
    for draw in range(20):
        rows = np.repeat(np.arange(27), counts[:, draw])
        first, second = rows[rows < 12], rows[rows >= 12] - 12
        own = [
            np.mean([k(z[i], z[j]) for i in index for j in index if i != j]) for z, index in ((x, first), (y, second))
        ]
        expected = sum(own) - 2 * np.mean([k(x[i], y[j]) for i in first for j in second])
        assert found.draws[draw] == pytest.approx(expected)
    assert found.value == pytest.approx(kernel_distance(x, y))


def test_the_interval_of_the_kernel_distance_covers():
    found = [
        kernel_distance_estimate(
            images(seed, 60, 0.5), images(1000 + seed, 120), (np.arange(60), 60 + np.arange(120)),
            ResampleWeights(seed, 180, 300),
        ).estimate
        for seed in range(250)
    ]  # fmt: skip
    truth = np.mean([one.value for one in found])
    assert 0.92 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.995
