"""Values of statistics on all images, without resamples: oracles of the estimates, and for direct comparisons."""

from __future__ import annotations

import numpy as np

from ccvae_eval.statistics.calibration_error import BINS, calibration_error_estimate
from ccvae_eval.statistics.densities import overlap_and_js_estimates, pooled_deviation
from ccvae_eval.statistics.information import equal_mass_bins
from ccvae_eval.statistics.resampling import ResampleWeights


def dprime(one, other):
    deviation = pooled_deviation(one, other)
    return abs(one.mean() - other.mean()) / deviation if deviation > 0 else np.nan


def overlap(one, other):
    return _overlap_and_js(one, other)[0]


def js(one, other):
    return _overlap_and_js(one, other)[1]


def _overlap_and_js(one, other):
    codes, labels = np.concatenate([one, other]), np.repeat([1.0, 0.0], [len(one), len(other)])
    return [found.value for found in overlap_and_js_estimates(codes, labels, ResampleWeights(0, len(codes), 1))]


def calibration_gaps(probabilities, labels, bins=BINS):
    """Gap, frequency of the label and number of images of each bin."""
    places = equal_mass_bins(probabilities, bins)
    groups = [places == place for place in np.unique(places)]
    return [(labels[g].mean() - probabilities[g].mean(), labels[g].mean(), g.sum()) for g in groups]


def plain_calibration_error(probabilities, labels):
    return sum(abs(gap) * n for gap, _, n in calibration_gaps(probabilities, labels)) / len(labels)


def calibration_error(probabilities, labels, bins=BINS):
    weights = ResampleWeights(0, len(labels), 1)
    return calibration_error_estimate(probabilities, labels, weights, bins=bins).value
