"""Densities against SciPy, adaptive quadrature and the closed forms of Gaussians."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ccvae_eval.statistics.densities import (
    dprime_estimate,
    kde_curves,
    overlap_and_js_estimates,
    pooled_deviation,
    wasserstein,
    wasserstein_estimate,
)
from ccvae_eval.statistics.resampling import ResampleWeights
from tests.support.statistics import dprime, js, overlap

pytestmark = pytest.mark.oracle

CASES = {
    "alike": (np.random.default_rng(0).normal(0, 1, 300), np.random.default_rng(1).normal(0.5, 1, 200)),
    "narrow in wide": (np.random.default_rng(0).normal(0.3, 0.01, 150), np.random.default_rng(1).normal(0, 1, 150)),
    "far apart": (np.random.default_rng(0).normal(0, 1, 50), np.random.default_rng(1).normal(40, 2, 80)),
    "an outlier": (
        np.append(np.random.default_rng(0).normal(0, 1, 99), 60.0),
        np.random.default_rng(1).normal(1, 1, 99),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_density_equals_that_of_scipy(case):
    one, _ = CASES[case]
    grid, (found,) = kde_curves([one], points=101)
    assert found == pytest.approx(stats.gaussian_kde(one, "silverman")(grid), rel=1e-10, abs=1e-300)


@pytest.mark.parametrize("case", CASES)
def test_overlap_and_divergence_are_integrals_of_scipys_densities(case):
    one, other = CASES[case]
    tolerance = 1e-3 if case == "an outlier" else 3e-4
    both, h = np.concatenate([one, other]), min(one.std(), other.std()) / 40
    grid = np.arange(both.min() - 15, both.max() + 15, h)
    a, b = (stats.gaussian_kde(values, "silverman")(grid) for values in (one, other))
    m = np.maximum((a + b) / 2, 1e-300)
    divergence = sum(v * np.log2(np.maximum(v, 1e-300) / m) for v in (a, b)).sum() * h / 2
    assert js(one, other) == pytest.approx(divergence, abs=tolerance)
    assert overlap(one, other) == pytest.approx(np.minimum(a, b).sum() * h, abs=tolerance)


def test_gaussian_quantiles_have_the_closed_form_values():
    """Two Gaussians one standard deviation apart; the kernel widens each by a factor of (1 + h^2)^.5."""
    quantiles = stats.norm.ppf((np.arange(4000) + 0.5) / 4000)
    one, other = quantiles, quantiles + 1
    assert dprime(one, other) == pytest.approx(1, abs=2e-3)
    assert wasserstein(one, other) == pytest.approx(1, rel=1e-12)
    assert wasserstein(3 * one, 3 * other) == pytest.approx(3, rel=1e-12)
    assert wasserstein(3 * one, 3 * other, scaled=True) == pytest.approx(1, abs=2e-3)
    width = np.sqrt(1 + (0.75 * 4000) ** -0.4)
    assert overlap(one, other) == pytest.approx(2 * stats.norm.cdf(-0.5 / width), abs=1e-3)
    grid = np.linspace(-10, 11, 20001)
    p, q = stats.norm.pdf(grid, 0, width), stats.norm.pdf(grid, 1, width)
    m = (p + q) / 2
    assert js(one, other) == pytest.approx(np.trapezoid(p * np.log2(p / m) + q * np.log2(q / m), grid) / 2, abs=1e-3)


def test_equal_and_disjoint_classes():
    one, _ = CASES["alike"]
    assert overlap(one, one) == pytest.approx(1, abs=1e-6)
    assert js(one, one) == pytest.approx(0, abs=1e-12)
    assert overlap(one, one + 100) == pytest.approx(0, abs=1e-12)
    assert js(one, one + 100) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_a_change_of_unit_changes_only_the_unscaled_distance(case):
    one, other = CASES[case]
    assert wasserstein(7 * one - 2, 7 * other - 2) == pytest.approx(7 * wasserstein(one, other), rel=1e-9)
    for score in (dprime, overlap, js, lambda a, b: wasserstein(a, b, scaled=True)):
        assert score(7 * one - 2, 7 * other - 2) == pytest.approx(score(one, other), rel=1e-6, abs=1e-6)
        assert score(one, other) == pytest.approx(score(other, one), rel=1e-9, abs=1e-12)


def test_point_masses():
    zeros, ones = np.zeros(20), np.ones(30)
    mixed = np.array([0.0] * 15 + [1.0] * 5)
    assert overlap(zeros, ones) == 0
    assert js(zeros, ones) == 1
    assert overlap(zeros, zeros) == 1
    assert js(zeros, zeros) == 0
    assert overlap(zeros, mixed) == pytest.approx(0.75)
    assert js(zeros, mixed) == pytest.approx(0.5 * (np.log2(1 / 0.875) + 0.75 * np.log2(0.75 / 0.875) + 0.25))
    # a constant class does not overlap with a continuous one
    assert overlap(zeros, CASES["alike"][0]) == 0
    assert wasserstein(zeros, ones) == 1
    assert np.isnan(dprime(zeros, ones))
    assert np.isnan(wasserstein(zeros, ones, scaled=True))


@pytest.mark.parametrize("few", [np.empty(0), np.ones(1)])
def test_fewer_than_two_codes_in_a_class_are_undefined(few):
    other = CASES["alike"][0]
    for score in (dprime, overlap, js, pooled_deviation, lambda a, b: wasserstein(a, b, scaled=True)):
        assert np.isnan(score(few, other))
    codes, labels = np.append(few, other), np.append(np.ones(len(few)), np.zeros(len(other)))
    weights = ResampleWeights(0, len(codes), draws=10)
    for found in (dprime_estimate(codes, labels, weights), *overlap_and_js_estimates(codes, labels, weights)):
        assert not found.defined
        assert "class" in found.note


def test_curves_for_a_plot():
    one, other = CASES["alike"]
    grid, curves = kde_curves([one, other, np.ones(5)], points=200)
    assert grid.shape == (200,)
    assert curves.shape == (3, 200)
    assert np.trapezoid(curves[:2], grid, axis=1) == pytest.approx([1, 1], abs=1e-4)
    assert np.isnan(curves[2]).all()


@pytest.mark.parametrize("case", ["alike", "narrow in wide"])
@pytest.mark.parametrize("discrete", [False, True])
def test_draws_are_the_statistics_of_the_resampled_images(case, discrete):
    one, other = CASES[case]
    if discrete:
        one, other = one.round(), other.round()
    codes = np.concatenate([one, other, [np.nan, 0.0]])
    labels = np.concatenate([np.ones(len(one)), np.zeros(len(other)), [1.0, np.nan]])
    weights = ResampleWeights(3, len(codes), draws=8)
    counts = weights.rows(np.arange(len(codes)))
    found = {
        score: estimate(codes, labels, weights)
        for score, estimate in ((dprime, dprime_estimate), (wasserstein, wasserstein_estimate))
    }
    counted = [np.repeat(np.arange(len(codes) - 2), counts[:-2, draw]) for draw in range(8)]
    sides = [(codes[rows][labels[rows] == 1], codes[rows][labels[rows] == 0]) for rows in counted]
    for score, estimated in found.items():
        assert estimated.value == pytest.approx(score(one, other), rel=1e-10)
        assert estimated.draws == pytest.approx([score(*pair) for pair in sides], rel=1e-9)
    for estimated, score in zip(overlap_and_js_estimates(codes, labels, weights), (overlap, js), strict=True):
        assert estimated.value == pytest.approx(score(one, other), rel=1e-12)
        if discrete:
            assert estimated.draws == pytest.approx([score(*pair) for pair in sides], rel=1e-9)


@pytest.mark.parametrize(("shift", "least"), [(1.0, 34), (2.5, 34)])
def test_intervals_cover_the_values_of_the_unsmoothed_densities(shift, least):
    """40 samples of 600: at coverage .95 fewer than 34 are practically impossible; without extrapolation, 30 cover."""
    rng = np.random.default_rng(1)
    grid = np.linspace(-9, 12, 20001)
    p, q = stats.norm.pdf(grid), stats.norm.pdf(grid, shift)
    m = (p + q) / 2
    divergence = np.trapezoid(p * np.log2(p / m) + q * np.log2(q / m), grid) / 2
    inside = np.zeros(2)
    for sample in range(40):
        labels = (rng.random(600) < 0.4).astype(float)
        codes, weights = rng.standard_normal(600) + shift * labels, ResampleWeights(sample, 600, draws=300)
        truths = 2 * stats.norm.cdf(-shift / 2), divergence
        pairs = zip(overlap_and_js_estimates(codes, labels, weights), truths, strict=True)
        for place, (found, truth) in enumerate((found.estimate, truth) for found, truth in pairs):
            assert found.low <= found.value <= found.high
            inside[place] += found.low <= truth <= found.high
    assert (inside >= least).all()
