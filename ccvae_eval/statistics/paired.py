r"""Tests and confidence intervals for models on the same images, and over training seeds.

A value is a ratio of sums over images, :math:`\theta = \sum_i a_i / \sum_i b_i`. Its influence function at image i is
:math:`\psi_i = N (a_i - \theta b_i) / \sum_j b_j`, and 0 for an image that does not enter. Two models on the same
images differ by :math:`D = \theta_A - \theta_B` with influence :math:`\psi_i^A - \psi_i^B` and standard error
:math:`\sqrt{\sum_i (\psi_i - \bar\psi)^2} / N`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit
from scipy.stats import norm, t

from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import Estimate, Method
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.statistics.resampling import ResampleWeights

DRAWS = 20_000
FLIPS_AT_ONCE = 500
MIN_IMAGES = 8
POWER = 0.8
TIE = 1e-12
"""Relative slack within which two sums count as equal: the order of summation changes the last bits."""
FLAT = 1e-9
"""A resample whose standard error is below this fraction of the sample's has none: its images are all alike."""
MOST_FLAT = 0.01
"""Fraction of flat resamples above which there is no interval: too few images differ."""


@dataclass(frozen=True, slots=True, eq=False)
class Contributions:
    """A value as numbers of single images.

    Args:
        numerator, denominator: shape (N,) each; NaN where the image does not enter.
        own_influence: influence of each image, if it does not follow from numerator and denominator (a ROC area, whose
            every comparison belongs to two images), shape (N,), NaN where the image does not enter.
    """

    numerator: Floats
    denominator: Floats
    own_influence: Floats | None = None

    @property
    def entering(self) -> Bools:
        """True for the images that enter the value, shape (N,)."""
        return ~(np.isnan(self.numerator) | np.isnan(self.denominator))

    @property
    def is_mean(self) -> bool:
        """True if the value is a mean of one independent number per image."""
        return self.own_influence is None and bool((self.denominator[self.entering] == 1).all())

    def only(self, images: Bools) -> Contributions:
        """The value on some of the images.

        Raises:
            ValueError: the value has an influence of its own, which depends on the images that enter.
        """
        if self.own_influence is not None:
            raise ValueError("a value with its own influence cannot be restricted to some images")
        return Contributions(np.where(images, self.numerator, np.nan), np.where(images, self.denominator, np.nan))

    @property
    def value(self) -> float:
        """Ratio of the sums; NaN if no image enters or the denominators sum to 0."""
        total = float(self.denominator[self.entering].sum())
        return float(self.numerator[self.entering].sum()) / total if total else math.nan

    def shares(self) -> Floats:
        """Part of the value that each image contributes, times N, shape (N,): their mean is the value."""
        total = self.denominator[self.entering].sum()
        return np.where(self.entering, len(self.numerator) * self.numerator / total, 0.0)

    def influence(self) -> Floats:
        """Influence of each image on the value, shape (N,), sum 0; 0 for images that do not enter."""
        if self.own_influence is not None:
            scale = len(self.numerator) / self.entering.sum()
            return np.where(self.entering, scale * self.own_influence, 0.0)
        total = self.denominator[self.entering].sum()
        centred = self.numerator - self.value * self.denominator
        return np.where(self.entering, len(self.numerator) * centred / total, 0.0)


def weighted_sum(parts: Sequence[tuple[float, Contributions]]) -> Contributions:
    """A weighted sum of values as one value, whose influence is the weighted sum of theirs."""
    entering = np.any([part.entering for _, part in parts], axis=0)
    scale = entering.sum() / len(entering)
    numerator, influence = (
        np.where(entering, scale * np.sum(columns, axis=0), np.nan)
        for columns in ([w * part.shares() for w, part in parts], [w * part.influence() for w, part in parts])
    )
    return Contributions(numerator, np.where(entering, 1.0, np.nan), influence)


@dataclass(frozen=True, slots=True)
class Difference:
    """Difference between two models, first minus second.

    Args:
        value: the difference; NaN if undefined.
        low, high: 95% confidence interval, not adjusted for multiple comparisons; NaN without one.
        p: two-sided p-value, not adjusted.
        standard_error: of the difference.
        n: images (or training seeds) that enter.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan
    standard_error: float = math.nan
    n: int = 0

    def smallest_detectable(self, alpha: float = 0.05) -> float:
        r"""Difference that a two-sided test at level ``alpha`` finds with a power of 80%.

        It is :math:`z_{1 - \alpha/2} + z_{0.8}` standard errors.
        """
        return float((norm.ppf(1 - alpha / 2) + norm.ppf(POWER)) * self.standard_error)


UNDEFINED = Difference(math.nan)


def standard_error(influence: Floats) -> float:
    """Standard error of a value from the influence of each image, shape (N,)."""
    return float(np.sqrt(((influence - influence.mean()) ** 2).sum())) / len(influence)


def studentised_intervals(
    differences: Sequence[float], influences: Sequence[Floats], weights: ResampleWeights
) -> list[tuple[float, float, float]]:
    r"""Intervals and two-sided p-values of differences by the studentised bootstrap.

    Source: Efron and Tibshirani, An introduction to the bootstrap (1993), section 12.5.

    To first order a resample's difference is :math:`D^* = D + \frac1N \sum_i w_i \psi_i`, with standard error
    :math:`s^{*2} = \frac1N (\frac1N \sum_i w_i \psi_i^2 - (\frac1N \sum_i w_i \psi_i)^2)`. The interval is
    :math:`D \pm q s`, with q the 95% quantile of :math:`|D^* - D| / s^*`, and p the share of resamples in which that
    ratio exceeds :math:`|D| / s`. The interval is symmetric because that covers skewed ratios (equal tails: 0.91 at
    256 images), and so that it contains 0 exactly if p is above 0.05.

    Args:
        differences: :math:`D` of each value.
        influences: :math:`\psi` of each value, shape (N,), sum 0.
        weights: resamples of the N images.

    Returns:
        Low, high and p of each value. If no image has an influence, the interval is the difference itself, and p is 1
        for a difference of 0, else the least p-value that the resamples can give. NaN if over 1% of the resamples have
        no standard error, because too few images differ.
    """
    if not differences:
        return []
    columns = np.stack([column for influence in influences for column in (influence, influence**2)], axis=1)
    totals = weights.totals(columns) / weights.n
    return [
        _studentised(difference, standard_error(influence), totals[:, 2 * k], totals[:, 2 * k + 1], weights)
        for k, (difference, influence) in enumerate(zip(differences, influences, strict=True))
    ]


def _studentised(
    difference: float, error: float, moved: Floats, squares: Floats, weights: ResampleWeights
) -> tuple[float, float, float]:
    """Interval and p-value of one difference, from the resampled means of its influence and of its square."""
    if error <= TIE * abs(difference):
        return difference, difference, 1 / (1 + weights.draws) if difference else 1.0
    spread = np.sqrt(np.maximum(squares - moved**2, 0) / weights.n)
    varied = spread > FLAT * error
    if 1 - varied.mean() > MOST_FLAT:
        return math.nan, math.nan, math.nan
    ratios = np.abs(moved[varied]) / spread[varied]
    half = float(np.quantile(ratios, weights.level)) * error
    p = (1 + int((ratios >= abs(difference) / error).sum())) / (1 + len(ratios))
    return difference - half, difference + half, p


def sign_flip_p_values(differences: Floats, seed: int, draws: int = DRAWS) -> Floats:
    r"""Two-sided p-values of paired sign-flip permutation tests (Fisher 1935; Good 2005, section 3.2).

    If the models are interchangeable, each image's difference has either sign with probability 1/2. So
    :math:`|\sum_i s_i d_i|` of random signs is compared with :math:`|\sum_i d_i|`.

    Args:
        differences: :math:`d`, shape (N, V); NaN counts as 0. All columns share the signs.
        seed: seed of the signs.
        draws: random sign vectors; the observed signs count in addition, so that p is at least 1 / (draws + 1).

    Returns:
        Shape (V,), in (0, 1]; 1 where all differences are 0.

    >>> sign_flip_p_values(np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.1]]), seed=0, draws=4000).round(1)
    array([1. , 0.1])
    """
    present = np.nan_to_num(differences, nan=0.0)
    observed = np.abs(present.sum(axis=0))
    bound = observed - TIE * np.abs(present).sum(axis=0)
    generator = numpy_stream(seed, "paired/signs")
    exceeding = np.zeros(present.shape[1], dtype=np.int64)
    for first in range(0, draws, FLIPS_AT_ONCE):
        count = min(FLIPS_AT_ONCE, draws - first)
        signs = generator.integers(0, 2, (count, len(present)), dtype=np.int8) * 2.0 - 1.0
        exceeding += (np.abs(signs @ present) >= bound).sum(axis=0)
    return np.asarray((1 + exceeding) / (1 + draws), dtype=np.float64)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values of a family (Holm 1979); NaN stays NaN and does not count.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = sorted((p, place) for place, p in enumerate(p_values) if not math.isnan(p))
    adjusted, least = [math.nan] * len(p_values), 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        adjusted[place] = least
    return adjusted


def welch(first: Sequence[float], second: Sequence[float]) -> Difference:
    """Difference between the means of two groups of independent numbers, by Welch's t (1947).

    Args:
        first, second: one number for each training seed.

    Returns:
        First minus second; undefined with fewer than two numbers in a group. Without any spread the interval is the
        difference itself, and p is 1 for a difference of 0, else undefined.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if min(len(a), len(b)) < 2:
        return UNDEFINED
    difference, n = float(a.mean() - b.mean()), len(a) + len(b)
    parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    error = float(np.sqrt(parts.sum()))
    if error == 0:
        return Difference(difference, difference, difference, math.nan if difference else 1.0, 0.0, n)
    freedom = parts.sum() ** 2 / (parts**2 / np.array([len(a) - 1, len(b) - 1])).sum()
    half = float(t.ppf(0.975, freedom)) * error
    return Difference(
        difference, difference - half, difference + half, float(2 * t.sf(abs(difference) / error, freedom)), error, n
    )


def over_seeds(
    values: Sequence[float], possible: tuple[float | None, float | None] = (None, None), level: float = 0.95
) -> Estimate:
    """Mean over training seeds with Student's t confidence interval (unit: the seed); no interval for a single seed.

    The interval is clipped to the value's possible range: with few seeds it is wide.

    >>> over_seeds([0.4, 0.6]).value
    0.5
    >>> over_seeds([0.4, 0.6], (0, 1)).low
    0
    """
    defined = np.array([value for value in values if not math.isnan(value)])
    if len(defined) < len(values) or not len(defined):
        return Estimate(math.nan, n=len(defined))
    mean = float(defined.mean())
    if len(defined) < 2:
        return Estimate(mean, n=1)
    quantile = float(stdtrit(len(defined) - 1, (1 + level) / 2))
    half = quantile * float(defined.std(ddof=1)) / math.sqrt(len(defined))
    minimum, maximum = possible
    low = mean - half if minimum is None else max(mean - half, minimum)
    high = mean + half if maximum is None else min(mean + half, maximum)
    return Estimate(mean, low, high, len(defined), Method.STUDENT)
