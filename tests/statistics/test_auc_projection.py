"""Projected ROC areas against scikit-learn, finite differences and the exact bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ccvae_eval.statistics.auc import (
    auc_estimate,
    auc_projection,
    cross_fitted,
    placements,
    projected_estimates,
    weighted_auc,
)
from ccvae_eval.statistics.resampling import ResampleWeights

pytestmark = pytest.mark.oracle


def case(n=400, shift=1.0, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.35).astype(float)
    scores = rng.standard_normal(n) + shift * labels
    return (scores.round(1) if ties else scores), labels, rng.integers(0, 3, n).astype(float)


@pytest.mark.parametrize("ties", [False, True])
def test_the_area_equals_that_of_scikit_learn(ties):
    scores, labels, _ = case(ties=ties)
    assert auc_projection(scores, labels).value == pytest.approx(roc_auc_score(labels, scores), abs=1e-14)
    placed = placements(scores, labels == 1)
    for side in (0, 1):
        assert placed[labels == side].mean() == pytest.approx(roc_auc_score(labels, scores), abs=1e-14)


def test_the_stratified_area_is_the_mean_of_the_strata_weighted_by_images():
    scores, labels, strata = case()
    parts = [(roc_auc_score(labels[strata == s], scores[strata == s]), (strata == s).sum()) for s in range(3)]
    expected = sum(area * n for area, n in parts) / 400
    assert auc_projection(scores, labels, strata).value == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_cross_fitted_areas_near_chance_have_wider_intervals(shift):
    scores, labels, _ = case(n=800, shift=shift)
    weights = ResampleWeights(0, 800)
    fixed = projected_estimates([auc_projection(scores, labels)], weights)[0]
    found = cross_fitted(fixed, weights.level)
    assert (found.value, found.estimate.n, found.estimate.method) == (fixed.value, 800, fixed.estimate.method)
    wider = (found.estimate.high - found.estimate.low) / (fixed.estimate.high - fixed.estimate.low)
    assert wider == pytest.approx(np.sqrt(2), rel=0.02) if shift == 0 else 1 <= wider < 1.03


def test_a_separated_area_keeps_its_exact_bound():
    scores, weights = np.arange(40.0), ResampleWeights(0, 40)
    fixed = projected_estimates([auc_projection(scores, (scores > 19).astype(float), least=5)], weights)[0]
    assert cross_fitted(fixed, weights.level) is fixed


def weighted_area(scores, labels, strata, weights):
    """The area by its definition over all pairs of images, with real weights."""
    areas, sizes = [], []
    for stratum in np.unique(strata):
        one, other = ((strata == stratum) & (labels == side) for side in (1, 0))
        wins = (scores[one][:, None] > scores[other]) + (scores[one][:, None] == scores[other]) / 2
        pairs = weights[one][:, None] * weights[other]
        areas.append((wins * pairs).sum() / pairs.sum())
        sizes.append(weights[strata == stratum].sum())
    return float(np.dot(areas, sizes) / np.sum(sizes))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("stratified", [False, True])
def test_the_influence_is_the_derivative_with_respect_to_the_image_weight(stratified, ties):
    scores, labels, strata = case(n=150, ties=ties)
    strata = strata if stratified else np.zeros(150)
    found = auc_projection(scores, labels, strata if stratified else None, least=5)
    step = 1e-6
    for image in (0, 17, 80, 149):
        moved = np.ones(150)
        moved[image] += step
        slope = (weighted_area(scores, labels, strata, moved) - found.value) / step
        assert found.influence[image] == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.5])
def test_the_interval_agrees_with_the_exact_bootstrap(shift):
    scores, labels, strata = case(n=800, shift=shift)
    weights = ResampleWeights(0, 800)
    for groups in (None, strata):
        found = projected_estimates([auc_projection(scores, labels, groups)], weights)[0].estimate
        draws = stratified_areas(scores, labels == 1, np.zeros(800) if groups is None else groups, weights)
        low, high = np.quantile(draws, [0.025, 0.975])
        assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def stratified_areas(scores, positive, strata, weights):
    """Mean of the areas within each stratum of each resample, weighted by its images."""
    counts, found, sizes = weights.rows(np.arange(weights.n)), [], []
    for group in np.unique(strata):
        here = strata == group
        found.append(weighted_auc(scores[here], positive[here], counts[here]))
        sizes.append(counts[here].sum(axis=0, dtype=float))
    return np.average(found, axis=0, weights=sizes)


def test_the_interval_covers_the_true_area():
    """1,000 samples of 120 images with true area Phi(1 / sqrt 2)."""
    from scipy.stats import binomtest, norm

    truth, hits = norm.cdf(1 / np.sqrt(2)), 0
    for seed in range(1000):
        scores, labels, _ = case(n=120, seed=seed + 10)
        found = projected_estimates([auc_projection(scores, labels)], ResampleWeights(seed, 120, 400))[0].estimate
        hits += found.low <= truth <= found.high
    assert binomtest(hits, 1000, 0.95).pvalue > 0.001 or 0.93 <= hits / 1000 <= 0.98


def test_perfect_separation_ends_at_the_exact_bound():
    labels = np.repeat([0.0, 1.0], [60, 30])
    weights = ResampleWeights(0, 90)
    for sign in (1, -1):
        found = projected_estimates([auc_projection(sign * np.arange(90.0), labels)], weights)[0].estimate
        exact = auc_estimate(sign * np.arange(90.0), labels, weights).estimate
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_missing_values_and_small_strata_do_not_enter():
    scores, labels, strata = case()
    whole = auc_projection(scores, labels, strata)
    more = [np.append(a, b) for a, b in ((scores, [0.0, np.nan, 1.0]), (labels, [np.nan, 1, 1]), (strata, [0, 0, 9]))]
    found = auc_projection(*more)
    assert (found.value, found.n) == (whole.value, whole.n)
    assert (found.influence[-3:] == 0).all()
    undefined = auc_projection(scores, labels, strata, least=300)
    assert np.isnan(undefined.value)
    estimate = projected_estimates([undefined, whole], ResampleWeights(0, 400))
    assert estimate[0].note == "no stratum with 300 images of each class"
    assert not estimate[0].defined
    assert estimate[1].defined
