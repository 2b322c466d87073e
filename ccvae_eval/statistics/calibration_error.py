"""Expected calibration error of predicted probabilities of a binary label, on equal-mass bins."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtr

from ccvae_eval.core.types import Floats
from ccvae_eval.statistics.information import Classes, equal_mass_bins
from ccvae_eval.statistics.intervals import (
    Resampled,
    bootstrap_estimate,
    centred_and_basic,
    column_sums,
    undefined_estimate,
)
from ccvae_eval.statistics.ratios import safe_ratio
from ccvae_eval.statistics.resampling import ResampleWeights, Table

BINS = 15
"""Equal-mass bins by default."""


def calibration_error_floor(probabilities: Floats, *, bins: int = BINS) -> float:
    r"""Expected debiased calibration error of perfectly calibrated probabilities: labels drawn from them.

    Subtracting the bias once leaves 0.47 standard errors s of each bin where the true error is 0:
    :math:`2 E|X| - E|X + X'| = \sqrt{2/\pi} (2 - \sqrt 2) s`, X and X' normal with standard deviation s.

    Args:
        probabilities: shape :math:`(N,)`, NaN = absent.
        bins: largest number of bins.

    Returns:
        At least 0; NaN without images.

    >>> round(calibration_error_floor(np.full(100, 0.5), bins=1), 4)
    0.0234
    """
    present = probabilities[~np.isnan(probabilities)]
    if not len(present):
        return math.nan
    n, sums = _bin_sums(present, bins)
    mean = safe_ratio(sums, n, 0.0)
    deviation = np.sqrt(safe_ratio(mean * (1 - mean), n, 0.0))
    return float(math.sqrt(2 / math.pi) * (2 - math.sqrt(2)) * (n * deviation).sum() / n.sum())


def permuted_calibration_error(probabilities: Floats, labels: Floats, *, bins: int = BINS) -> float:
    r"""Chance level of the calibration error: that of the same probabilities with permuted labels, on average.

    .. math:: \sum_b \frac{n_b}{n} |\bar y - \bar p_b|

    Args:
        probabilities: shape :math:`(N,)`, NaN = absent.
        labels: 0, 1 or NaN = missing, shape :math:`(N,)`.
        bins: largest number of bins.

    Returns:
        In [0, 1]; NaN without images.

    >>> permuted_calibration_error(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 0.0, 1.0, 1.0]))
    0.5
    """
    present = ~(np.isnan(probabilities) | np.isnan(labels))
    if not present.any():
        return math.nan
    predicted, rate = probabilities[present], labels[present].mean()
    n, sums = _bin_sums(predicted, bins)
    return float(np.abs(n * rate - sums).sum() / n.sum())


def calibration_error_estimate(
    probabilities: Floats, labels: Floats, weights: ResampleWeights, *, bins: int = BINS
) -> Resampled:
    r"""Debiased expected calibration error with its bootstrap confidence interval; the bins stay fixed.

    .. math:: \sum_b \frac{n_b}{n} |\bar y_b - \bar p_b|

    Sampling noise biases this plain value upwards. Each gap is reduced by its expected growth if the bin's frequency
    were resampled from a normal distribution with variance :math:`\bar y (1 - \bar y) / n` (Kumar, Liang and Ma 2019,
    "Verified uncertainty calibration"; their simulation in closed form). Resampling adds noise to every gap, by an
    amount that depends on the gap: the interval is that of ``centred_and_basic``.

    Args:
        probabilities: of label 1, shape :math:`(N,)`, NaN = absent; equal ones share a bin.
        labels: 0, 1 or NaN = missing, shape :math:`(N,)`.
        weights: the run's resamples.
        bins: largest number of bins.

    Returns:
        Error in [0, 1], slightly negative at times; undefined without images.
    """
    present = ~(np.isnan(probabilities) | np.isnan(labels))
    if not present.any():
        return undefined_estimate(weights.draws, "no images")
    own_bin = np.full(len(labels), -1)
    own_bin[present] = equal_mass_bins(probabilities[present], bins)
    count = int(own_bin.max()) + 1

    def rows(block: slice) -> Floats:
        columns = _bin_columns(own_bin[block], count, labels[block], probabilities[block])
        columns[own_bin[block] < 0] = np.nan
        return columns

    found = bootstrap_estimate(_debiased_error, Table(len(labels), 3 * count, rows), weights, basic=True)
    return centred_and_basic(found, weights.level, most=1.0)  # a debiased value may be negative


def _bin_columns(own_bin: Classes, count: int, *others: Floats) -> Floats:
    """Membership of each image in each of K bins, times 1 and times each of the other columns; shape (N, K (1 + C))."""
    inside = (own_bin[:, None] == np.arange(count)).astype(np.float64)
    return np.concatenate([inside, *(inside * other[:, None] for other in others)], axis=1)


def _bin_sums(probabilities: Floats, bins: int) -> tuple[Floats, Floats]:
    """Number of images and sum of their probabilities in each bin; no NaN."""
    own_bin = equal_mass_bins(probabilities, bins)
    count = int(own_bin.max()) + 1
    table = Table(len(own_bin), 2 * count, lambda block: _bin_columns(own_bin[block], count, probabilities[block]))
    n, sums = np.split(column_sums(table)[1], 2)
    return n, sums


def _debiased_error(totals: Floats) -> Floats:
    n, labels, probabilities = np.split(totals, 3, axis=1)
    frequency = safe_ratio(labels, n, 0.0)
    gap = np.abs(frequency - safe_ratio(probabilities, n, 0.0))
    gap = 2 * gap - _folded_mean(gap, np.sqrt(safe_ratio(frequency * (1 - frequency), n, 0.0)))
    return np.asarray((n * gap).sum(axis=1) / n.sum(axis=1))


def _folded_mean(mean: Floats, deviation: Floats) -> Floats:
    """E|X| of a normal X (mean of the folded normal distribution)."""
    scale = np.where(deviation > 0, deviation, 1.0)
    ratio = mean / scale
    folded = scale * math.sqrt(2 / math.pi) * np.exp(-0.5 * ratio * ratio) + mean * (1 - 2 * ndtr(-ratio))
    return np.where(deviation > 0, folded, mean)
