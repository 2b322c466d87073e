"""Paired differences: tests and intervals against SciPy, definitions, and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from ccvae_eval.metrics.accuracy.metric import BalancedAccuracy
from ccvae_eval.metrics.shared.contrasts import RocAuc
from ccvae_eval.statistics.paired import (
    DRAWS,
    UNDEFINED,
    Contributions,
    Difference,
    holm,
    sign_flip_p_values,
    standard_error,
    studentised_intervals,
    welch,
)
from ccvae_eval.statistics.resampling import ResampleWeights

pytestmark = pytest.mark.oracle


def test_a_ratio_of_sums_and_its_influence() -> None:
    numerator = np.array([1.0, 2.0, np.nan, 4.0])
    denominator = np.array([2.0, 2.0, 5.0, 4.0])
    found = Contributions(numerator, denominator)
    assert found.value == 7 / 8
    assert found.entering.tolist() == [True, True, False, True]
    assert found.shares().mean() == pytest.approx(7 / 8)
    # derivative of the ratio with respect to the weight of each image, times N
    step = 1e-6
    for i in (0, 1, 3):
        weights = np.ones(4)
        weights[i] += step
        moved = np.nansum(weights * numerator) / np.sum(weights[[0, 1, 3]] * denominator[[0, 1, 3]])
        assert found.influence()[i] / 4 == pytest.approx((moved - 7 / 8) / step, rel=1e-4)
    assert found.influence().sum() == pytest.approx(0)
    assert math.isnan(found.only(np.zeros(4, dtype=bool)).value)


def test_a_value_with_its_own_influence_cannot_be_restricted() -> None:
    with pytest.raises(ValueError, match="cannot be restricted"):
        Contributions(np.ones(3), np.ones(3), np.zeros(3)).only(np.ones(3, dtype=bool))


def test_sign_flips_are_exact_for_few_images() -> None:
    differences = np.array([0.3, 0.1, 0.5, -0.2, 0.4, 0.25])
    exact = stats.permutation_test(
        (differences,), np.mean, permutation_type="samples", n_resamples=np.inf, vectorized=False
    ).pvalue
    found = float(sign_flip_p_values(differences[:, None], seed=0)[0])
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact / DRAWS))


def test_sign_flips_ignore_missing_images_and_count_ties() -> None:
    ties = np.array([[1.0, np.nan]] * 3 + [[-1.0, np.nan]] * 3)
    assert sign_flip_p_values(ties, seed=0, draws=500).tolist() == [1.0, 1.0]


def test_holm_agrees_with_its_definition() -> None:
    """Adjusted p of the k-th smallest: the largest of (m - j + 1) p_(j) over j <= k, at most 1."""
    p = np.random.default_rng(0).random(12) / 5
    order = np.sort(p)
    expected = {value: min(1.0, max((12 - j) * order[j] for j in range(k + 1))) for k, value in enumerate(order)}
    assert holm(p.tolist()) == pytest.approx([expected[value] for value in p])
    found = holm([0.02, math.nan, 0.01])
    assert found[0] == found[2] == 0.02
    assert math.isnan(found[1])


def test_welch_agrees_with_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(4) + 1, 3 * rng.standard_normal(6)
    expected = stats.ttest_ind(a, b, equal_var=False)
    found = welch(a.tolist(), b.tolist())
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.n == 10
    assert welch([1.0], [1.0, 2.0]) is UNDEFINED
    assert welch([1.0, 1.0], [1.0, 1.0]).p == 1
    assert math.isnan(welch([2.0, 2.0], [1.0, 1.0]).p)


def test_the_studentised_interval_agrees_with_resamples_drawn_one_by_one() -> None:
    rng = np.random.default_rng(0)
    psi = rng.exponential(size=80)
    psi -= psi.mean()
    ((low, high, p),) = studentised_intervals([0.2], [psi], ResampleWeights(0, 80, DRAWS))
    draws = psi[rng.integers(0, 80, (DRAWS, 80))]
    ratios = np.abs(draws.mean(1)) / (draws.std(1) / math.sqrt(80))
    error = standard_error(psi)
    assert error == pytest.approx(psi.std() / math.sqrt(80))
    assert high - 0.2 == pytest.approx(np.quantile(ratios, 0.95) * error, rel=0.03)
    assert low + high == pytest.approx(0.4)
    assert p == pytest.approx((ratios >= 0.2 / error).mean(), abs=0.01)


def test_an_interval_contains_0_exactly_if_p_is_above_5_percent() -> None:
    rng = np.random.default_rng(1)
    psi = rng.standard_normal((6, 50))
    psi -= psi.mean(axis=1, keepdims=True)
    found = studentised_intervals([0.1, 0.2, 0.25, 0.3, 0.35, 0.5], list(psi), ResampleWeights(0, 50, DRAWS))
    assert [low <= 0 <= high for low, high, _ in found] == [p > 0.05 for _, _, p in found]
    assert len({p > 0.05 for _, _, p in found}) == 2


def test_degenerate_differences() -> None:
    weights = ResampleWeights(0, 100, 500)
    flat, few = np.zeros(100), np.zeros(100)
    few[:3] = 1
    found = studentised_intervals([0.0, 0.3, 0.03], [flat, flat, few - few.mean()], weights)
    assert found[0] == (0, 0, 1)
    assert found[1] == (0.3, 0.3, 1 / 501)
    assert all(math.isnan(number) for number in found[2])
    assert studentised_intervals([], [], weights) == []


def mean(rng: np.random.Generator, n: int, shared: np.ndarray) -> Contributions:
    return Contributions(shared + rng.standard_normal(n), np.ones(n))


def skewed_mean(rng: np.random.Generator, n: int, shared: np.ndarray) -> Contributions:
    return Contributions(shared + rng.exponential(size=n), np.ones(n))


def proportion(rng: np.random.Generator, n: int, shared: np.ndarray) -> Contributions:
    return Contributions(((shared > -1.3) & (rng.random(n) < 0.95)).astype(float), np.ones(n))


def ratio(rng: np.random.Generator, n: int, shared: np.ndarray) -> Contributions:
    inside = np.exp(shared / 2 + rng.standard_normal(n) / 4)
    return Contributions(0.05 * inside * np.exp(rng.standard_normal(n)), inside)


def area(rng: np.random.Generator, n: int, shared: np.ndarray) -> Contributions:
    label = (np.arange(n) % 5 == 0).astype(float)
    statistic = RocAuc([shared + rng.standard_normal(n) + label], [label])
    return Contributions(*statistic.terms(), statistic.influence())


def balanced(rng: np.random.Generator, n: int, shared: np.ndarray) -> Contributions:
    label = (np.arange(n) % 5 == 0).astype(float)
    right = shared + rng.standard_normal(n) > -1.5
    statistic = BalancedAccuracy(np.where(right, label, 1 - label), label)
    return Contributions(*statistic.terms(), statistic.influence())


KINDS = [mean, skewed_mean, proportion, ratio, area, balanced]


def check(kind, repeats: int, n: int = 256) -> None:
    """Coverage of the difference between two equal models; sign-flip tests find one in 5 % at most.

    The bootstrap's p-value is above 0.05 exactly where its interval contains 0.
    """
    weights = ResampleWeights(0, n, DRAWS)
    covered = positive = 0
    for k in range(repeats):
        rng = np.random.default_rng([k, 7])
        shared = rng.standard_normal(n)
        a, b = kind(rng, n, shared), kind(rng, n, shared)
        ((low, high, _),) = studentised_intervals([a.value - b.value], [a.influence() - b.influence()], weights)
        covered += low <= 0 <= high
        positive += a.is_mean and sign_flip_p_values((a.shares() - b.shares())[:, None], k)[0] < 0.05
    assert 0.93 <= covered / repeats <= 0.97 or stats.binomtest(covered, repeats, 0.95).pvalue > 0.001
    assert positive <= stats.binom.ppf(0.999, repeats, 0.05)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_coverage_and_false_positives(kind) -> None:
    check(kind, 60)


@pytest.mark.soak
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_coverage_and_false_positives_in_full(kind) -> None:
    check(kind, 2000)


def power(repeats: int, n: int = 200) -> float:
    """How often a difference of the size called smallest detectable is found."""
    found = 0
    for k in range(repeats):
        rng = np.random.default_rng([k, 11])
        size = Difference(0.0, standard_error=math.sqrt(2 / n)).smallest_detectable()
        differences = rng.standard_normal(n) - rng.standard_normal(n) + size
        found += sign_flip_p_values(differences[:, None], k, 2000)[0] < 0.05
    return found / repeats


def test_the_smallest_detectable_difference_is_found_with_a_power_of_80_percent() -> None:
    assert Difference(0.0, standard_error=1.0).smallest_detectable() == pytest.approx(2.8016, abs=1e-4)
    assert Difference(0.0, standard_error=1.0).smallest_detectable(0.05 / 6) == pytest.approx(3.4799, abs=1e-3)
    assert power(300) == pytest.approx(0.8, abs=0.08)
