"""Entropies and divergences against SciPy, brute force and the closed forms of Gaussians."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ccvae_eval.statistics.information import (
    entropy_of_counts,
    equal_mass_bins,
    knn_divergences,
    neighbour_divergences,
    robust_bins,
)
from ccvae_eval.statistics.subsampling import subsample_estimates

pytestmark = pytest.mark.oracle


def test_plain_entropy_equals_that_of_scipy():
    one = np.random.default_rng(0).integers(0, 7, 500)
    counts = np.bincount(one).astype(np.float64)
    assert entropy_of_counts(counts, corrected=False) == pytest.approx(stats.entropy(counts), abs=1e-12)


def test_the_correction_is_half_the_occupied_cells_minus_one_over_n():
    counts = np.array([[3.0, 5.0, 0.0, 2.0], [10.0, 0.0, 0.0, 0.0]])
    gained = entropy_of_counts(counts) - entropy_of_counts(counts, corrected=False)
    assert gained == pytest.approx([2 / 20, 0])
    assert np.isnan(entropy_of_counts(np.zeros(3)))


@pytest.mark.parametrize("bins", [2, 7, 20])
def test_bins_of_distinct_values_have_equal_mass(bins):
    values = np.random.default_rng(2).standard_normal(1000)
    found = equal_mass_bins(values, bins)
    counts = np.bincount(found)
    assert len(counts) == bins
    assert counts.max() - counts.min() <= 1
    # bins follow the order of the values
    assert (np.diff(found[np.argsort(values)]) >= 0).all()


def test_equal_values_share_a_bin():
    values = np.array([0.0] * 700 + [1.0] * 290 + [2.0] * 10)
    found = equal_mass_bins(values, 20)
    assert len(np.unique(found[:700])) == len(np.unique(found[700:990])) == 1
    assert found[0] != found[-1]
    assert (equal_mass_bins(np.ones(9), 5) == 0).all()
    assert equal_mass_bins(np.empty(0), 5).shape == (0,)
    assert [robust_bins(n) for n in (10, 150, 600, 10**6)] == [2, 3, 12, 20]


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("k", [1, 4])
def test_divergences_of_many_pairs_follow_their_formula(d, k):
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


@pytest.mark.parametrize("d", [1, 2])
def test_divergence_of_gaussians_is_near_the_closed_form(d):
    """KL(N(m, s^2) || N(0, 1)) = (s^2 + m^2 - 1)/2 - log s in each dimension."""
    rng = np.random.default_rng(4)
    first, second = 1 + 0.8 * rng.standard_normal((1, 4000, d)), rng.standard_normal((1, 4000, d))
    expected = d * ((0.64 + 1 - 1) / 2 - math.log(0.8))
    assert neighbour_divergences(first, second, 5)[0, 0] == pytest.approx(expected, abs=0.08)


def gaussians(n, shift, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(float)
    return rng.standard_normal((n, 1)) + shift * labels[:, None], labels


def test_divergences_of_labels_lie_around_the_closed_form():
    """Ten estimates with standard error .035; tails in which one class is missing leave a bias of -.025."""
    found = [
        direction
        for seed in range(5)
        for direction in knn_divergences(*gaussians(4000, 1.0, seed), seed=seed, draws=100)
    ]
    assert np.mean([d.excess.value for d in found]) == pytest.approx(0.5, abs=0.06)
    for direction in found:
        estimate = direction.excess.estimate
        assert estimate.low < estimate.value < estimate.high
        # extended by the remaining bias, so never narrower than 1.96 standard errors of .04
        assert 1.96 * 0.04 < (estimate.high - estimate.low) / 2 < 2 * 1.96 * 0.04
        assert direction.kl.value - direction.null == pytest.approx(estimate.value, abs=1e-12)
        assert abs(direction.null) < 0.06


def test_intervals_of_equal_classes_contain_zero_and_units_do_not_matter():
    codes, labels = gaussians(2000, 0.0)
    found = knn_divergences(codes, labels, seed=0, draws=200)
    assert all(d.excess.estimate.low < 0 < d.excess.estimate.high for d in found)
    scaled = knn_divergences(1000 * codes, labels, seed=0, draws=200)
    assert scaled[0].excess.value == pytest.approx(found[0].excess.value, abs=1e-9)


def test_undefined_divergences_give_the_reason():
    codes, labels = gaussians(400, 1.0)
    cases = {
        "discrete": (labels[:, None], labels),
        "latent dimensions": (np.random.default_rng(0).standard_normal((400, 6)), labels),
        "a class has 0": (codes, np.zeros(400)),
    }
    for reason, (points, classes) in cases.items():
        for direction in knn_divergences(points, classes, seed=0):
            assert not direction.kl.defined
            assert not direction.excess.defined
            assert reason in direction.kl.note


def test_few_images_have_a_divergence_without_interval():
    codes, labels = gaussians(600, 1.0)
    found = knn_divergences(codes, labels, seed=0)[0].excess
    assert found.defined
    assert math.isnan(found.estimate.low)
    assert "subsamples" in found.note


def test_the_subsampling_interval_of_a_mean_is_its_normal_interval():
    values = np.random.default_rng(5).standard_normal(2000)
    found = subsample_estimates(
        lambda taken: values[taken[0]].mean(axis=1)[:, None],
        np.zeros(2000, dtype=np.int64),
        np.array([values.mean()]),
        seed=0,
        draws=4000,
    )[0]
    half = 1.96 * values.std(ddof=1) / math.sqrt(2000)
    assert found.estimate.high - found.value == pytest.approx(half, rel=0.08)
    assert found.value - found.estimate.low == pytest.approx(half, rel=0.08)


def half_width(statistic, values, halves):
    found = subsample_estimates(
        lambda taken: statistic(values[taken[0]])[:, None],
        np.zeros(len(values), dtype=np.int64),
        np.zeros(1),
        seed=0,
        draws=500,
        halves=halves,
    )[0].estimate
    return (found.high - found.low) / 2


def test_slower_convergence_than_that_of_a_mean_widens_the_interval():
    """The deviation of the maximum of exponential numbers does not depend on n; that of a mean falls as 1/sqrt(n)."""
    values = np.random.default_rng(5).exponential(size=4000)
    wider = {f.__name__: half_width(f, values, 64) / half_width(f, values, 0) for f in (mean_of_rows, maximum_of_rows)}
    assert 1 <= wider["mean_of_rows"] < 1.25
    assert wider["maximum_of_rows"] > 1.8


def mean_of_rows(values):
    return values.mean(axis=1)


def maximum_of_rows(values):
    return values.max(axis=1)


def test_values_share_their_subsamples():
    """The draws of a sum are the sums of the draws."""
    values = np.random.default_rng(6).standard_normal((700, 2))
    groups = (np.arange(700) % 2).astype(np.int64)

    def estimated(column):
        def mean(taken):
            return column[np.concatenate(taken, axis=1)].mean(axis=1)[:, None]

        return subsample_estimates(mean, groups, np.zeros(1), seed=0, draws=50)[0].draws

    total = estimated(values[:, 0]) + estimated(values[:, 1])
    assert estimated(values.sum(axis=1)) == pytest.approx(total, abs=1e-12)
