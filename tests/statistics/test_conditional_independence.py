"""Tests of conditional independence: regressions against scikit-learn, the rest by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LinearRegression, LogisticRegression

from ccvae_eval.statistics.conditional_independence import (
    CovarianceTest,
    Decisions,
    covariance_test,
    linear_residuals,
    logistic_residuals,
)
from ccvae_eval.statistics.probes import folds_of, standardised

pytestmark = pytest.mark.oracle

COUNT = 400
FOLDS = folds_of(np.arange(COUNT))


def labelled(seed: int = 0, count: int = COUNT, labels: int = 9, correlation: float = 0.64):
    """Labels that go together, 0 or 1, and one latent dimension of each."""
    rng = np.random.default_rng(seed)
    common, own = rng.standard_normal((count, 1)), rng.standard_normal((count, labels))
    y = (np.sqrt(correlation) * common + np.sqrt(1 - correlation) * own > 0).astype(float)
    return y, 2 * (2 * y - 1) + rng.standard_normal((count, labels))


def decided(y, codes) -> tuple[list[tuple[int, int]], Decisions]:
    """The tests of every latent dimension and label, given the other labels."""
    folds, pairs, tests = folds_of(np.arange(len(y))), [], []
    for j in range(y.shape[1]):
        given = np.delete(y, j, axis=1)
        left, own = linear_residuals(codes, given, folds), logistic_residuals(y[:, [j]], given, folds)
        for c in range(codes.shape[1]):
            pairs.append((c, j))
            tests.append(covariance_test(left[:, [c]], own))
    return pairs, Decisions(tests)


def test_linear_residuals_are_those_of_least_squares():
    y, codes = labelled()
    found = linear_residuals(codes, y, FOLDS)
    points = standardised(codes)
    for fold in np.unique(FOLDS):
        fit = LinearRegression().fit(y[fold != FOLDS], points[fold != FOLDS])
        np.testing.assert_allclose(found[fold == FOLDS], (points - fit.predict(y))[fold == FOLDS], atol=1e-6)


def test_logistic_residuals_are_those_of_scikit_learn():
    y, _ = labelled()
    given = standardised(y[:, 1:])
    found = logistic_residuals(y[:, :1], y[:, 1:], FOLDS)
    for fold in np.unique(FOLDS):
        fit = LogisticRegression(tol=1e-10, max_iter=1000).fit(given[fold != FOLDS], y[fold != FOLDS, 0])
        expected = (y[:, 0] - fit.predict_proba(given)[:, 1])[fold == FOLDS]
        np.testing.assert_allclose(found[fold == FOLDS, 0], expected, atol=1e-6)


def test_redundant_regressors_change_nothing():
    y, codes = labelled()
    twice = np.concatenate([y, y, 1 - y, np.ones((COUNT, 2))], axis=1)
    np.testing.assert_allclose(linear_residuals(codes, twice, FOLDS), linear_residuals(codes, y, FOLDS), atol=1e-6)


def test_without_regressors_the_residuals_are_deviations_from_the_mean_of_the_other_folds():
    y, codes = labelled()
    nothing = np.empty((COUNT, 0))
    other = np.array([codes[fold != FOLDS].mean(axis=0) for fold in FOLDS])
    np.testing.assert_allclose(linear_residuals(codes, nothing, FOLDS) * codes.std(axis=0), codes - other, atol=1e-6)
    frequency = np.array([y[fold != FOLDS].mean(axis=0) for fold in FOLDS])
    np.testing.assert_allclose(logistic_residuals(y, nothing, FOLDS), y - frequency, atol=1e-6)


def test_a_class_that_the_other_folds_lack_has_the_probability_0():
    y = np.zeros((COUNT, 1))
    y[np.flatnonzero(FOLDS == 0)[:3]] = 1
    found = logistic_residuals(y, np.ones((COUNT, 1)), FOLDS)
    np.testing.assert_array_equal(found[FOLDS == 0], y[FOLDS == 0])


def test_the_statistic_is_the_studentised_mean_of_the_products():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, COUNT, 1))
    products = (a * b)[:, 0]
    test = covariance_test(a, b)
    assert test.statistic == pytest.approx(abs(np.sqrt(COUNT) * products.mean() / products.std()))
    assert test.p == pytest.approx(2 * stats.norm.sf(test.statistic))
    assert test.equivalent == pytest.approx(test.statistic)


def test_the_null_distribution_of_a_maximum_is_that_of_the_multiplier_bootstrap():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((COUNT, 3)), rng.standard_normal((COUNT, 2))
    a[:, 1] += a[:, 0]
    products = (a[:, :, None] * b[:, None, :]).reshape(COUNT, -1)
    centred = (products - products.mean(axis=0)) / products.std(axis=0)
    drawn = np.abs(rng.standard_normal((20_000, COUNT)) @ centred / np.sqrt(COUNT)).max(axis=1)
    test = covariance_test(a, b)
    assert test.p == pytest.approx((drawn >= test.statistic).mean(), abs=0.02)


def test_p_values_of_independent_blocks_are_uniform():
    p_values = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        shared = rng.standard_normal((200, 1))
        a, b = shared + rng.standard_normal((200, 3)), rng.standard_normal((200, 2))
        p_values.append(covariance_test(a, b).p)
    assert stats.kstest(p_values, "uniform").pvalue > 0.01


def test_small_p_values_of_a_block_are_not_limited_by_the_draws():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((2000, 2))
    test = covariance_test(a, a[:, :1] + rng.standard_normal((2000, 1)))
    assert 0 < test.p < 1e-30


def test_a_constant_code_depends_on_nothing():
    y, codes = labelled()
    codes[:, 0] = 7.0
    left = linear_residuals(codes[:, :1], y[:, 1:], FOLDS)
    assert not left.any()
    test = covariance_test(left, logistic_residuals(y[:, :1], y[:, 1:], FOLDS))
    assert (test.statistic, test.p) == (0.0, 1.0)


def test_a_code_that_equals_its_label_depends_on_no_other():
    y, _ = labelled()
    left = linear_residuals(y[:, :1], y[:, :-1], FOLDS)
    assert covariance_test(left, logistic_residuals(y[:, -1:], y[:, :-1], FOLDS)).p == 1.0


def violations(pairs, decisions: Decisions) -> float:
    return decisions.differing({place: c == j for place, (c, j) in enumerate(pairs)}).value


@pytest.mark.parametrize("draws", [6, pytest.param(40, marks=pytest.mark.soak)])
def test_correlated_labels_are_no_leakage_and_a_tenth_of_a_neighbour_is(draws):
    pure, found = 0, 0
    for seed in range(draws):
        y, codes = labelled(seed, 2000)
        pure += violations(*decided(y, codes)) == 0
        codes[:, 0] = 0.9 * codes[:, 0] + 0.1 * codes[:, 1]
        pairs, decisions = decided(y, codes)
        found += decisions.rejected[pairs.index((0, 1))]
    assert pure >= draws - 1
    assert found == draws


def test_decisions_are_those_of_holm():
    tests = [CovarianceTest(0.0, p, 100) for p in (0.01, 0.04, 0.03, 0.001)]
    decisions = Decisions(tests)
    assert decisions.adjusted == pytest.approx([0.03, 0.06, 0.06, 0.004])
    assert decisions.rejected.tolist() == [True, False, False, True]
    assert decisions.critical == pytest.approx(stats.norm.isf(0.05 / 2 / 2))
    assert decisions.differing({0: True, 1: True, 2: False, 3: False}).value == 2


def with_statistics(z) -> list[CovarianceTest]:
    return [CovarianceTest(float(t), float(2 * stats.norm.sf(t)), 1000) for t in z]


def test_the_interval_is_exact_over_the_tests_that_are_not_certain():
    decisions = Decisions(with_statistics([20.0, 15.0, 3.9, 1.0, 0.5]))
    found = decisions.differing({0: True, 1: False, 2: False, 3: False, 4: True})
    low, high = stats.binomtest(2, 3).proportion_ci(method="exact")
    assert (found.value, found.method) == (3, "exact")
    assert (found.low, found.high) == (pytest.approx(1 + 3 * low), pytest.approx(1 + 3 * high))


def test_the_interval_of_certain_decisions_has_no_width():
    found = Decisions(with_statistics([20.0, 15.0])).differing({0: True, 1: False})
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_no_test_has_no_adjusted_p_value():
    assert not len(Decisions([]).rejected)


SHIFTS = {
    "independent": np.zeros(40),
    "at the critical value": np.r_[np.zeros(35), np.full(5, 3.2)],
    "weak": np.full(40, 1.5),
    "mixed": np.r_[np.zeros(30), np.linspace(1, 6, 10)],
}


@pytest.mark.parametrize("case", SHIFTS)
@pytest.mark.parametrize("draws", [200, pytest.param(2000, marks=pytest.mark.soak)])
def test_the_interval_covers_the_expected_count(case, draws):
    rng, shifts = np.random.default_rng(0), SHIFTS[case]
    z = np.abs(shifts + rng.standard_normal((draws, len(shifts))))
    found = [Decisions(with_statistics(row)).differing(dict.fromkeys(range(len(shifts)), False)) for row in z]
    mean = np.mean([f.value for f in found])
    assert np.mean([f.low <= mean <= f.high for f in found]) >= 0.95


@pytest.mark.soak
def test_the_interval_covers_the_expected_distance_of_mixed_codes():
    found = []
    for seed in range(400):
        y, codes = labelled(seed, 400, labels=5)
        pairs, decisions = decided(y, codes + 0.12 * np.roll(codes, 1, axis=1))
        found.append(decisions.differing({place: c == j for place, (c, j) in enumerate(pairs)}))
    mean = np.mean([f.value for f in found])
    assert 0.5 < mean < 4.5
    assert np.mean([f.low <= mean <= f.high for f in found]) >= 0.95
