"""Calibration errors against simulation and known miscalibration."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ccvae_eval.statistics.calibration_error import calibration_error_estimate, calibration_error_floor
from ccvae_eval.statistics.resampling import ResampleWeights
from tests.support.statistics import calibration_error, calibration_gaps, plain_calibration_error

pytestmark = pytest.mark.oracle


def sample(n, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    probabilities = rng.uniform(0.1, 0.7, n)
    return probabilities, (rng.random(n) < probabilities + shift).astype(float)


def test_the_subtracted_bias_equals_that_of_the_published_simulation():
    """Kumar, Liang and Ma resample each bin's frequency from a normal and measure the growth of the gap."""
    probabilities, labels = sample(700, 2)
    rng = np.random.default_rng(0)
    plain = simulated = 0.0
    for gap, frequency, n in calibration_gaps(probabilities, labels):
        plain += abs(gap) * n / 700
        again = rng.normal(gap, np.sqrt(frequency * (1 - frequency) / n), 400_000)
        simulated += np.abs(again).mean() * n / 700
    expected = plain - (simulated - plain)
    assert calibration_error(probabilities, labels) == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize(("shift", "plain_bias", "left"), [(0.0, 0.058, 0.04), (0.05, 0.022, 0.005), (0.2, 0.0, 0.008)])
def test_debiasing_where_the_error_is_known(shift, plain_bias, left):
    """A shift of the label's probability in every bin is the error. Where the error is 0, 3/5 of the bias remain."""
    samples = [sample(600, seed, shift) for seed in range(200)]
    errors = [(plain_calibration_error(*one), calibration_error(*one)) for one in samples]
    plain, debiased = np.mean(errors, axis=0) - shift
    assert plain == pytest.approx(plain_bias, abs=0.005)
    assert abs(debiased) < left


@pytest.mark.parametrize("shift", [0.0, 0.03, 0.1, 0.2])
def test_interval_covers_known_errors(shift):
    """At a coverage of .90, fewer than 46 of 60 are practically impossible."""
    inside = 0
    for seed in range(60):
        found = calibration_error_estimate(*sample(600, seed, shift), ResampleWeights(0, 600, draws=500)).estimate
        assert found.low <= found.value <= found.high
        inside += found.low <= shift <= found.high
    assert inside >= 50


def test_degenerate_probabilities():
    assert np.isnan(calibration_error(np.empty(0), np.empty(0)))
    # certain and correct
    labels = np.array([0.0, 1.0] * 20)
    assert calibration_error(labels, labels) == 0
    found = calibration_error_estimate(np.full(40, np.nan), labels, ResampleWeights(0, 40))
    assert not found.defined
    # missing labels change neither value nor rows
    probabilities, wanted = sample(100, 3)
    wanted[::3] = np.nan
    kept = ~np.isnan(wanted)
    found = calibration_error_estimate(probabilities, wanted, ResampleWeights(0, 100))
    assert found.value == pytest.approx(calibration_error(probabilities[kept], wanted[kept]), rel=1e-12)
    assert found.estimate.n == kept.sum()


def test_the_floor_is_the_mean_error_over_labels_drawn_from_the_probabilities():
    rng = np.random.default_rng(5)
    for n, bins in ((300, 15), (1000, 5)):
        probabilities = rng.random(n)
        scores = [
            calibration_error(probabilities, (rng.random(n) < probabilities).astype(np.float64), bins=bins)
            for _ in range(400)
        ]
        error = np.std(scores) / np.sqrt(len(scores))
        assert calibration_error_floor(probabilities, bins=bins) == pytest.approx(np.mean(scores), abs=4 * error + 5e-4)
    assert math.isnan(calibration_error_floor(np.full(3, np.nan)))
