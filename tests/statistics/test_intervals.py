import math

import numpy as np
import pytest

from ccvae_eval.core.results import Estimate
from ccvae_eval.statistics.auc import auc_estimate, balanced_accuracy_estimate
from ccvae_eval.statistics.intervals import (
    MIN_IMAGES,
    Resampled,
    bootstrap_estimate,
    clopper_pearson,
    difference,
    estimate_from_draws,
    mean_estimate,
    mean_over,
    proportion_estimate,
    ratio_estimate,
    undefined_estimate,
    wilson,
)
from ccvae_eval.statistics.resampling import ResampleWeights

WEIGHTS = ResampleWeights(0, 400, draws=200)
RNG = np.random.default_rng(0)
VALUES = RNG.lognormal(size=400)
LABELS = (RNG.random(400) < 0.3).astype(float)


def test_estimates_without_images_are_undefined_not_zero():
    absent = np.full(400, np.nan)
    for found in (
        mean_estimate(absent, WEIGHTS),
        ratio_estimate(absent, VALUES, WEIGHTS),
        proportion_estimate(absent, WEIGHTS),
        auc_estimate(absent, LABELS, WEIGHTS),
        balanced_accuracy_estimate(absent, LABELS, WEIGHTS),
    ):
        assert math.isnan(found.value)
        assert found.note
        assert found.estimate.n == 0
        assert found.draws.shape == (200,)
    assert math.isnan(wilson(0, 0).value)


def test_a_constant_label_is_undefined():
    assert auc_estimate(VALUES, np.zeros(400), WEIGHTS).note == "the label is never present"
    assert auc_estimate(VALUES, np.ones(400), WEIGHTS).note == "the label is never absent"
    assert balanced_accuracy_estimate(LABELS, np.ones(400), WEIGHTS).note == "fewer than two classes occur"


def test_absent_images_do_not_change_the_value():
    some = VALUES.copy()
    some[::4] = np.nan
    assert mean_estimate(some, WEIGHTS).value == pytest.approx(np.nanmean(some), rel=1e-13)
    assert mean_estimate(some, WEIGHTS).estimate.n == 300
    scores = np.where(np.arange(400) % 4 == 0, np.nan, LABELS + RNG.standard_normal(400))
    kept = ~np.isnan(scores)
    short = auc_estimate(scores[kept], LABELS[kept], ResampleWeights(0, 300))
    assert auc_estimate(scores, LABELS, WEIGHTS).value == short.value


def test_a_rare_label_has_no_interval():
    """With 3 of 400 images a resample has no image of the label with probability exp(-3)."""
    labels = np.zeros(400)
    labels[:3] = 1
    found = auc_estimate(VALUES, labels, ResampleWeights(0, 400))
    lost = int(np.isnan(found.draws).sum())
    assert 0.03 < lost / 2000 < 0.07
    assert math.isfinite(found.value)
    assert math.isnan(found.estimate.low)
    assert found.note == f"no interval: {lost} of 2000 resamples undefined"


def test_up_to_one_percent_of_undefined_resamples_are_dropped():
    draws = np.arange(200.0)
    draws[:2] = np.nan
    found = estimate_from_draws(100.0, draws, 400, 0.95)
    assert (found.estimate.low, found.estimate.high) == pytest.approx(tuple(np.quantile(draws[2:], [0.025, 0.975])))
    draws[2] = np.nan
    assert math.isnan(estimate_from_draws(100.0, draws, 400, 0.95).estimate.low)


@pytest.mark.parametrize("n", [1, MIN_IMAGES - 1])
def test_too_few_images_have_a_value_without_interval(n):
    weights = ResampleWeights(0, n)
    for found in (mean_estimate(VALUES[:n], weights), ratio_estimate(VALUES[:n], VALUES[1 : n + 1], weights)):
        assert math.isfinite(found.value)
        assert math.isnan(found.estimate.low)
        assert found.note == f"no interval: {n} images"


def test_each_estimate_names_its_interval_method():
    few = ResampleWeights(0, 299)
    assert mean_estimate(VALUES[:299], few).estimate.method == "BCa"
    assert mean_estimate(VALUES, WEIGHTS).estimate.method == "bootstrap"
    assert ratio_estimate(VALUES, VALUES[::-1], WEIGHTS).estimate.method == "log-scale bootstrap"
    assert ratio_estimate(VALUES - 3, VALUES, WEIGHTS).estimate.method == "Fieller"
    assert proportion_estimate(LABELS, WEIGHTS).estimate.method == "wilson"


def test_a_ratio_equal_for_all_images_has_an_interval_of_width_zero():
    found = ratio_estimate(3 * VALUES, VALUES, WEIGHTS).estimate
    assert (found.low, found.high) == pytest.approx((3, 3), rel=1e-6)
    zero = ratio_estimate(np.zeros(400), VALUES, WEIGHTS).estimate
    assert (zero.value, zero.low, zero.high) == (0, 0, 0)
    assert ratio_estimate(VALUES, np.zeros(400), WEIGHTS).note == "the denominator is 0"


def test_the_interval_of_a_ratio_scales_with_its_unit():
    one, other = ratio_estimate(VALUES, VALUES[::-1], WEIGHTS), ratio_estimate(1e6 * VALUES, VALUES[::-1], WEIGHTS)
    for field in ("value", "low", "high"):
        assert getattr(other.estimate, field) == pytest.approx(1e6 * getattr(one.estimate, field), rel=1e-9)


def test_a_higher_level_widens_the_interval():
    strict = ResampleWeights(0, 400, draws=200, level=0.99)
    for estimate in (
        lambda w: mean_estimate(VALUES, w),
        lambda w: ratio_estimate(VALUES, VALUES[::-1], w),
        lambda w: ratio_estimate(VALUES - 3, VALUES, w),
        lambda w: proportion_estimate(LABELS, w),
        lambda w: auc_estimate(VALUES, LABELS, w),
    ):
        usual, wide = estimate(WEIGHTS).estimate, estimate(strict).estimate
        assert wide.low < usual.low < usual.value < usual.high < wide.high


def test_mean_over_leaves_undefined_parts_out():
    parts = [mean_estimate(VALUES, WEIGHTS), undefined_estimate(200, "no images"), mean_estimate(3 * VALUES, WEIGHTS)]
    found = mean_over(parts)
    assert found.value == pytest.approx(2 * VALUES.mean())
    assert found.draws == pytest.approx(2 * parts[0].draws)
    assert not mean_over([undefined_estimate(200, "no images")]).defined
    assert not difference(parts[0], parts[1]).defined
    assert difference(parts[2], parts[0]).value == pytest.approx(2 * VALUES.mean())


def test_the_mean_of_basic_intervals_is_a_basic_interval():
    rows = np.column_stack([np.ones(400), RNG.standard_normal((400, 2))])
    parts = [
        bootstrap_estimate(lambda t, c=c: np.abs(t[:, c] / t[:, 0]), rows, ResampleWeights(0, 400), basic=True)
        for c in (1, 2)
    ]
    mean = mean_over(parts)
    draws = (parts[0].draws + parts[1].draws) / 2
    low, high = 2 * mean.value - np.quantile(draws, [0.975, 0.025])
    assert (mean.estimate.low, mean.estimate.high) == pytest.approx((min(low, mean.value), max(high, mean.value)))


def test_the_same_images_give_the_same_bits():
    for estimate in (
        lambda: mean_estimate(VALUES, ResampleWeights(0, 400)),
        lambda: ratio_estimate(VALUES, VALUES[::-1], ResampleWeights(0, 400)),
        lambda: auc_estimate(VALUES, LABELS, ResampleWeights(0, 400)),
    ):
        one, other = estimate(), estimate()
        assert one.estimate == other.estimate
        assert np.array_equal(one.draws, other.draws)


def test_the_method_names_a_ranked_sample():
    n = 20_500
    rng = np.random.default_rng(1)
    labels = (rng.random(n) < 0.3).astype(float)
    scores = rng.standard_normal(n) + labels
    found = auc_estimate(scores, labels, ResampleWeights(0, n, draws=20)).estimate
    assert found.method == f"bootstrap on 20000 of {n} images"
    assert found.value == pytest.approx(0.76, abs=0.02)


def test_the_mean_of_a_proportion_with_itself_has_its_exact_interval():
    one, exact = proportion_estimate(LABELS, WEIGHTS), clopper_pearson(int(LABELS.sum()), 400)
    mean = mean_over([one, one]).estimate
    assert (mean.low, mean.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert mean_over([one]).estimate == one.estimate


def test_means_of_independent_proportions_are_narrower_and_independent_of_the_order():
    parts = [proportion_estimate((RNG.random(400) < p).astype(float), WEIGHTS) for p in (0.1, 0.3, 0.9)]
    mean, back = mean_over(parts).estimate, mean_over(parts[::-1]).estimate
    assert mean == back
    distances = [part.value - clopper_pearson(round(400 * part.value), 400).low for part in parts]
    assert mean.value - mean.low == pytest.approx(np.hypot(np.hypot(*distances[:2]), distances[2]) / 3, rel=0.2)


def test_perfect_proportions_count_as_fully_correlated():
    perfect = proportion_estimate(np.ones(400), WEIGHTS)
    mean = mean_over([perfect, perfect, perfect]).estimate
    assert (mean.value, mean.low) == (1.0, pytest.approx(0.025 ** (1 / 400), abs=1e-12))


def areas(*shifts):
    """Areas of the same labels by scores with different distances between the classes."""
    return [auc_estimate(VALUES + shift * LABELS, LABELS, WEIGHTS) for shift in shifts]


def test_the_mean_of_areas_of_1_has_their_mean_bound():
    one, other = areas(100, 100)
    few = auc_estimate(VALUES[:60] + 100 * LABELS[:60], LABELS[:60], ResampleWeights(0, 60, draws=WEIGHTS.draws))
    mean = mean_over([one, other, few])
    assert mean.estimate.low == pytest.approx((2 * one.estimate.low + few.estimate.low) / 3, abs=1e-12)
    assert (mean.estimate.high, mean.estimate.method) == (1.0, "exact bound")


def test_areas_of_1_extend_the_interval_of_a_mean_by_their_bounds():
    rough, *perfect = areas(1, 100, 100)
    mean = mean_over([rough, *perfect])
    extent = 2 * (1 - perfect[0].estimate.low) / 3
    assert mean.estimate.method == "bootstrap and exact bounds"
    assert mean.estimate.low == pytest.approx(np.quantile(mean.draws, 0.025) - extent, abs=1e-12)
    assert mean.estimate.high == pytest.approx(np.quantile(mean.draws, 0.975), abs=1e-12)


def test_a_mean_of_means_keeps_the_bounds_of_perfect_parts():
    rough, *perfect = areas(1, 100, 100)
    inner = mean_over([rough, *perfect])
    outer = mean_over([inner, rough]).estimate
    draws = (inner.draws + rough.draws) / 2
    assert outer.low == pytest.approx(np.quantile(draws, 0.025) - (1 - perfect[0].estimate.low) / 3, abs=1e-12)


@pytest.mark.parametrize(("low", "high"), [(0.6, 0.6), (np.nan, np.nan)])
def test_a_part_whose_constant_draws_differ_from_its_value_does_not_extend_a_mean(low, high):
    part = Resampled(Estimate(0.5, low, high, 400, "bootstrap"), np.full(WEIGHTS.draws, 0.6))
    mean = mean_over([part, part]).estimate
    assert (mean.value, mean.low) == (0.5, pytest.approx(0.6))


def test_areas_without_constant_draws_keep_the_bootstrap_interval():
    mean = mean_over(areas(1, 2))
    assert mean.estimate.method == "bootstrap"
    assert mean.estimate.low == pytest.approx(np.quantile(mean.draws, 0.025), abs=1e-12)


def test_a_rare_class_without_an_error_widens_the_interval():
    labels = (np.arange(400) < 12).astype(float)
    predicted = labels.copy()
    predicted[300:] = 1  # a quarter of the frequent class is wrong
    found = balanced_accuracy_estimate(predicted, labels, WEIGHTS).estimate
    rare = clopper_pearson(12, 12)
    assert found.value - found.low > (1 - rare.low) / 2
    assert found.high < 1
