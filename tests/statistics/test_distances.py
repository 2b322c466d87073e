"""Distances from a normal distribution against quadrature, SciPy and single evaluations."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm, wasserstein_distance

from ccvae_eval.statistics.distances import normal_wasserstein, normal_wasserstein_estimate, normal_wasserstein_floor
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
