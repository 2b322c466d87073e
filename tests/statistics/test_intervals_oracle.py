"""Intervals against SciPy on the same resamples, against closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from ccvae_eval.statistics.auc import auc_estimate, balanced_accuracy_estimate
from ccvae_eval.statistics.intervals import (
    bootstrap_estimate,
    clopper_pearson,
    difference,
    mean_estimate,
    mean_over,
    proportion_estimate,
    ratio_estimate,
    wilson,
)
from ccvae_eval.statistics.resampling import ResampleWeights

pytestmark = pytest.mark.oracle


def scipy_interval(data, statistic, draws, method, paired=False):
    """SciPy's interval from given resamples."""
    result = stats.bootstrap(
        data, statistic, n_resamples=2, rng=0, paired=paired, vectorized=False, method="percentile"
    )
    result.bootstrap_distribution = draws
    return stats.bootstrap(
        data, statistic, n_resamples=0, bootstrap_result=result, paired=paired, vectorized=False, method=method
    ).confidence_interval


def repeated(weights, draw):
    return np.repeat(np.arange(weights.n), weights.rows(np.arange(weights.n))[:, draw])


@pytest.fixture
def values():
    return np.random.default_rng(0).lognormal(size=120)


def test_the_bca_interval_of_a_mean_equals_that_of_scipy(values):
    found = mean_estimate(values, ResampleWeights(1, len(values)))
    expected = scipy_interval((values,), np.mean, found.draws, "BCa")
    assert found.estimate.method == "BCa"
    assert (found.estimate.low, found.estimate.high) == pytest.approx(tuple(expected), rel=1e-12)


def test_the_percentile_interval_of_a_mean_equals_that_of_scipy():
    values = np.random.default_rng(0).lognormal(size=400)
    found = mean_estimate(values, ResampleWeights(1, len(values)))
    expected = scipy_interval((values,), np.mean, found.draws, "percentile")
    assert found.estimate.method == "bootstrap"
    assert (found.estimate.low, found.estimate.high) == pytest.approx(tuple(expected), rel=1e-12)


def test_the_basic_interval_equals_that_of_scipy(values):
    rows = np.column_stack([values, np.ones(120)])
    found = bootstrap_estimate(lambda t: t[:, 0] / t[:, 1], rows, ResampleWeights(1, 120), basic=True)
    expected = scipy_interval((values,), np.mean, found.draws, "basic")
    assert (found.estimate.low, found.estimate.high) == pytest.approx(tuple(expected), rel=1e-12)


def test_the_draws_of_a_mean_are_means_of_the_resampled_images(values):
    weights = ResampleWeights(1, len(values), draws=20)
    found = mean_estimate(values, weights)
    for draw in range(20):
        assert found.draws[draw] == pytest.approx(values[repeated(weights, draw)].mean(), rel=1e-13)


def test_the_bca_interval_of_an_area_equals_that_of_scipy():
    rng = np.random.default_rng(3)
    labels = (rng.random(90) < 0.4).astype(float)
    scores = rng.standard_normal(90) + labels
    found = auc_estimate(scores, labels, ResampleWeights(2, 90))
    assert not np.isnan(found.draws).any()
    expected = scipy_interval(
        (scores, labels), lambda s, y: sklearn_metrics.roc_auc_score(y, s), found.draws, "BCa", paired=True
    )
    assert (found.estimate.low, found.estimate.high) == pytest.approx(tuple(expected), rel=1e-10)


@pytest.mark.parametrize("decimals", [8, 0])
def test_draws_of_an_area_equal_those_of_scikit_learn_on_the_resampled_images(decimals):
    rng = np.random.default_rng(4)
    labels = (rng.random(400) < 0.3).astype(float)
    scores = (rng.standard_normal(400) + labels).round(decimals)
    weights = ResampleWeights(5, 400, draws=25)
    area = auc_estimate(scores, labels, weights)
    assert area.value == pytest.approx(sklearn_metrics.roc_auc_score(labels, scores), rel=1e-12)
    for draw in range(25):
        rows = repeated(weights, draw)
        assert area.draws[draw] == pytest.approx(sklearn_metrics.roc_auc_score(labels[rows], scores[rows]), rel=1e-12)


def test_balanced_accuracy_equals_that_of_scikit_learn():
    rng = np.random.default_rng(8)
    labels = rng.integers(0, 4, 500).astype(float)
    predicted = np.where(rng.random(500) < 0.6, labels, rng.integers(0, 4, 500))
    weights = ResampleWeights(9, 500, draws=10)
    found = balanced_accuracy_estimate(predicted, labels, weights)
    assert found.value == pytest.approx(sklearn_metrics.balanced_accuracy_score(labels, predicted), rel=1e-12)
    for draw in range(10):
        rows = repeated(weights, draw)
        expected = sklearn_metrics.balanced_accuracy_score(labels[rows], predicted[rows])
        assert found.draws[draw] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (3, 10), (10, 10), (480, 500), (1, 1)])
@pytest.mark.parametrize("level", [0.95, 0.99])
@pytest.mark.parametrize("interval", [wilson, clopper_pearson])
def test_the_intervals_of_a_proportion_equal_those_of_scipy(interval, successes, n, level):
    found = interval(successes, n, level)
    expected = stats.binomtest(successes, n).proportion_ci(level, method=found.method)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_a_proportion_has_wilsons_interval_and_bootstrap_draws():
    values = np.array([1.0] * 30 + [0.0] * 10 + [np.nan] * 5)
    found = proportion_estimate(values, ResampleWeights(0, 45))
    assert found.estimate == wilson(30, 40)
    assert found.draws.mean() == pytest.approx(0.75, abs=0.01)


def test_the_log_scale_interval_of_a_ratio_by_brute_force():
    rng = np.random.default_rng(10)
    u, v = rng.lognormal(size=(2, 80))
    weights = ResampleWeights(11, 80, draws=400)
    found = ratio_estimate(u, v, weights)

    def log_and_error(rows):
        r = u[rows].sum() / v[rows].sum()
        # standard error of the mean residual, divided by the mean of the numerator
        return np.log(r), np.std(u[rows] - r * v[rows]) / np.sqrt(len(rows)) / u[rows].mean()

    centre, error = log_and_error(np.arange(80))
    steps = []
    for draw in range(400):
        value, scale = log_and_error(repeated(weights, draw))
        steps.append(abs(value - centre) / scale)
    half = np.quantile(steps, 0.95, method="higher") * error
    assert found.estimate.method == "log-scale bootstrap"
    assert (found.estimate.low, found.estimate.high) == pytest.approx(
        (np.exp(centre - half), np.exp(centre + half)), rel=1e-10
    )


def test_fiellers_limits_have_a_p_value_of_five_per_cent_in_the_t_test():
    rng = np.random.default_rng(12)
    u, v = rng.normal(0.1, 1, 60), rng.normal(3, 1, 60)
    found = ratio_estimate(u, v, ResampleWeights(13, 60)).estimate
    assert found.method == "Fieller"
    assert found.low < found.value < found.high
    for end in (found.low, found.high):
        assert stats.ttest_1samp(u - end * v, 0).pvalue == pytest.approx(0.05, abs=1e-10)


def test_a_ratio_whose_denominator_may_be_zero_has_no_interval():
    rng = np.random.default_rng(14)
    found = ratio_estimate(rng.normal(1, 1, 60), rng.normal(0.05, 1, 60), ResampleWeights(13, 60))
    assert np.isnan(found.estimate.low)
    assert np.isfinite(found.value)
    assert "denominator" in found.note


def test_means_and_differences_of_estimates_equal_those_of_the_rows():
    rng = np.random.default_rng(15)
    table = rng.lognormal(size=(150, 3))
    weights = ResampleWeights(16, 150)
    parts = [mean_estimate(column, weights) for column in table.T]
    mean, direct = mean_over(parts), mean_estimate(table.mean(axis=1), weights)
    assert mean.draws == pytest.approx(direct.draws, rel=1e-12)
    for field in ("value", "low", "high"):
        assert getattr(mean.estimate, field) == pytest.approx(getattr(direct.estimate, field), rel=1e-10)
    gap, direct = difference(parts[0], parts[1]), mean_estimate(table[:, 0] - table[:, 1], weights)
    for field in ("value", "low", "high"):
        assert getattr(gap.estimate, field) == pytest.approx(getattr(direct.estimate, field), rel=1e-8)


def test_the_bound_of_perfect_separation_is_that_of_clopper_and_pearson_for_the_smaller_class():
    labels = np.array([1.0] * 12 + [0.0] * 50)
    found = auc_estimate(labels * 2, labels, ResampleWeights(0, 62)).estimate
    assert found.value == 1
    expected = stats.binomtest(12, 12).proportion_ci(0.95, method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    mirrored = auc_estimate(-labels, labels, ResampleWeights(0, 62)).estimate
    assert (mirrored.low, mirrored.high) == pytest.approx((0, 1 - expected.low), rel=1e-12)
