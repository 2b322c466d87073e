"""Calibration errors against scikit-learn, simulation and known miscalibration."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss

from ccvae_eval.statistics.calibration_error import (
    brier_estimate,
    calibration_error_estimate,
    expected_calibration_error,
    honest_calibration_error,
)
from ccvae_eval.statistics.information import equal_mass_bins
from ccvae_eval.statistics.resampling import ResampleWeights

pytestmark = pytest.mark.oracle


def drawn(n, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    probabilities = rng.uniform(0.1, 0.7, n)
    return probabilities, (rng.random(n) < probabilities + shift).astype(float)


def by_hand(probabilities, labels, bins=15):
    """Gap and images of each bin."""
    places = equal_mass_bins(probabilities, bins)
    groups = [places == place for place in np.unique(places)]
    return [(labels[g].mean() - probabilities[g].mean(), labels[g].mean(), g.sum()) for g in groups]


def test_brier_is_scikit_learns():
    probabilities, labels = drawn(500, 0)
    labels[3], probabilities[7] = np.nan, np.nan
    kept = ~np.isnan(labels + probabilities)
    found = brier_estimate(probabilities, labels, ResampleWeights(0, 500))
    assert found.value == pytest.approx(brier_score_loss(labels[kept], probabilities[kept]), rel=1e-12)
    assert found.estimate.n == 498


def test_plain_error_is_its_definition():
    probabilities, labels = drawn(700, 1)
    expected = sum(abs(gap) * n for gap, _, n in by_hand(probabilities, labels)) / 700
    assert expected_calibration_error(probabilities, labels, debiased=False) == pytest.approx(expected, rel=1e-12)


def test_bias_is_that_of_the_published_simulation():
    """Kumar, Liang and Ma draw each bin's frequency again from a normal and see how much the gap grows."""
    probabilities, labels = drawn(700, 2)
    rng = np.random.default_rng(0)
    plain = simulated = 0.0
    for gap, frequency, n in by_hand(probabilities, labels):
        plain += abs(gap) * n / 700
        again = rng.normal(gap, np.sqrt(frequency * (1 - frequency) / n), 400_000)
        simulated += np.abs(again).mean() * n / 700
    expected = plain - (simulated - plain)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("shift", "plain_bias", "left"), [(0.0, 0.058, 0.04), (0.05, 0.022, 0.005), (0.2, 0.0, 0.008)])
def test_debiasing_where_the_error_is_known(shift, plain_bias, left):
    """A shift of the labels' chance in every bin is the error. Where there is none, 3/5 of the bias remain: gaps have
    no sign to cancel by."""
    errors = [
        [expected_calibration_error(*drawn(600, seed, shift), debiased=way) for way in (False, True)]
        for seed in range(200)
    ]
    plain, debiased = np.mean(errors, axis=0) - shift
    assert plain == pytest.approx(plain_bias, abs=0.005)
    assert abs(debiased) < left


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.1, 0.2])
def test_interval_covers_known_errors(shift):
    """.90 or better: fewer than 46 of 60 would be as good as impossible."""
    inside = 0
    for seed in range(60):
        found = calibration_error_estimate(*drawn(600, seed, shift), ResampleWeights(0, 600, draws=500)).estimate
        assert found.low <= found.value <= found.high
        inside += found.low <= shift <= found.high
    assert inside >= 50


def test_degenerate_probabilities():
    assert np.isnan(expected_calibration_error(np.empty(0), np.empty(0)))
    # sure and right
    labels = np.array([0.0, 1.0] * 20)
    assert expected_calibration_error(labels, labels) == 0
    found = calibration_error_estimate(np.full(40, np.nan), labels, ResampleWeights(0, 40))
    assert not found.defined
    # the draws lie where the images are, whatever is missing
    probabilities, wanted = drawn(100, 3)
    wanted[::3] = np.nan
    kept = ~np.isnan(wanted)
    found = calibration_error_estimate(probabilities, wanted, ResampleWeights(0, 100))
    assert found.value == pytest.approx(expected_calibration_error(probabilities[kept], wanted[kept]), rel=1e-12)
    assert found.estimate.n == kept.sum()


def test_what_honest_probabilities_score_is_their_mean_over_drawn_labels():
    rng = np.random.default_rng(5)
    for n, bins in ((300, 15), (1000, 5)):
        told = rng.random(n)
        scores = [
            expected_calibration_error(told, (rng.random(n) < told).astype(np.float64), bins=bins) for _ in range(400)
        ]
        error = np.std(scores) / np.sqrt(len(scores))
        assert honest_calibration_error(told, bins=bins) == pytest.approx(np.mean(scores), abs=4 * error + 5e-4)
    assert math.isnan(honest_calibration_error(np.full(3, np.nan)))
