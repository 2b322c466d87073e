r"""Tests of conditional independence by the generalised covariance measure (Shah and Peters 2020).

A and B are independent given C only if the residuals of A and of B, each regressed on C, are uncorrelated. With
:math:`R_i` the product of both residuals of image i, the statistic

.. math:: T = \sqrt{n} \, \bar R / s_R

is standard normal under independence, if both regressions converge fast enough. Regressions are cross-fitted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import ndtr, ndtri

from ccvae_eval.core.devices import one_thread
from ccvae_eval.core.large_arrays import MAX_IN_MEMORY
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import Estimate, Method
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.statistics.intervals import clopper_pearson
from ccvae_eval.statistics.paired import holm
from ccvae_eval.statistics.probes import Folds, logistic_coefficients, standardised

DRAWS = 10_000
"""Draws of the null distribution of a maximum of several statistics."""
RIDGE = 1e-9
"""Ridge term per image, which keeps regressions on redundant columns solvable."""
CONSTANT = 1e-6
"""Residuals below this share of a column's standard deviation count as 0."""
CERTAIN = 5.0
"""Distance of a normal statistic from the critical value at which its decision repeats: 1.96 and three more."""
LARGEST_Z = 38.0
"""Normal quantile of the smallest positive p-value in double precision, nearly."""


def linear_residuals(targets: Floats, given: Floats, folds: Folds) -> Floats:
    r"""Residuals of linear regressions with an intercept, fitted on the other folds, in standard deviations.

    Args:
        targets: shape :math:`(N, T)`, finite.
        given: regressors, shape :math:`(N, C)`, finite.
        folds: fold of each image, shape :math:`(N,)`.

    Returns:
        Shape :math:`(N, T)`; 0 where a target is constant, or a linear function of the regressors up to rounding.
    """
    wanted, points = standardised(targets), standardised(given)
    found = np.empty_like(wanted)
    for fold in np.unique(folds):
        rest, held_out = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        gram = RIDGE * len(rest) * np.eye(points.shape[1] + 1)
        products = np.zeros((len(gram), wanted.shape[1]))
        with one_thread():
            for block in _blocks(rest):
                x = _with_intercept(points[block])
                gram = x.T @ x + gram
                products = x.T @ wanted[block] + products
            slopes = np.linalg.solve(gram, products)
            for block in _blocks(held_out):
                found[block] = wanted[block] - _with_intercept(points[block]) @ slopes
    found[:, np.abs(found).max(axis=0, initial=0.0) < CONSTANT] = 0.0
    return found


def logistic_residuals(targets: Floats, given: Floats, folds: Folds, *, strength: float = 1.0) -> Floats:
    r"""Residuals :math:`y - \hat p` of logistic regressions, fitted on the other folds.

    Args:
        targets: 0 or 1, shape :math:`(N, T)`.
        given: regressors, shape :math:`(N, C)`, finite.
        folds: fold of each image, shape :math:`(N,)`.
        strength: of the penalty on standardised regressors, see ``logistic_coefficients``.

    Returns:
        Shape :math:`(N, T)`. If the other folds have one class only, :math:`\hat p` is the frequency of 1 in them.
    """
    points = standardised(given)
    groups = np.unique(folds)
    masks = np.stack([folds != fold for fold in groups])
    found = np.empty(targets.shape)
    for index, column in enumerate(targets.T):
        fits = logistic_coefficients(points, np.broadcast_to(column, masks.shape), masks, strength=strength)
        for fold, rest, fit in zip(groups, masks, fits, strict=True):
            held_out = folds == fold
            if np.isnan(fit).any():
                probability = np.full(int(held_out.sum()), column[rest].mean() if rest.any() else 0.5)
            else:
                with one_thread():
                    probability = 1 / (1 + np.exp(-np.clip(_with_intercept(points[held_out]) @ fit, -700, 700)))
            found[held_out, index] = column[held_out] - probability
    return found


def _blocks(images: Ids) -> Iterator[Ids]:
    return (images[first : first + MAX_IN_MEMORY] for first in range(0, len(images), MAX_IN_MEMORY))


def _with_intercept(points: Floats) -> Floats:
    return np.concatenate([points, np.ones((len(points), 1))], axis=1)


@dataclass(frozen=True, slots=True)
class CovarianceTest:
    """Test of conditional independence of two groups of variables.

    Args:
        statistic: largest absolute T over all pairs of their columns.
        p: p-value, not adjusted.
        n: number of images.
    """

    statistic: float
    p: float
    n: int

    @property
    def equivalent(self) -> float:
        """Absolute value of a standard normal variable with the same two-sided p-value."""
        return min(-float(ndtri(self.p / 2)), LARGEST_Z) if self.p > 0 else LARGEST_Z

    @property
    def strength(self) -> float:
        """Statistic over the square root of n: the size of the dependence, whatever the number of images."""
        return float(self.statistic / np.sqrt(self.n))


def covariance_test(first: Floats, second: Floats, *, seed: int = 0) -> CovarianceTest:
    r"""Generalised covariance measure of two groups of residuals, by the maximum over their pairs of columns.

    The null distribution of the maximum is that of the Gaussian multiplier bootstrap: the greatest absolute value of
    normal variables with the correlations of the products of residuals. Its p-value, from ``DRAWS`` draws, is replaced
    by the smaller bound :math:`2 k (1 - \Phi(T))` of k pairs where that is smaller, since draws cannot resolve small
    p-values.

    Args:
        first, second: residuals, shapes :math:`(N, a)` and :math:`(N, b)`.
        seed: of the draws.

    Returns:
        The test. A pair of columns whose products are constant has T = 0; without any other, p is 1.
    """
    products = (first[:, :, None] * second[:, None, :]).reshape(len(first), -1)
    mean = products.mean(axis=0)
    centred = products - mean
    deviation = np.sqrt((centred**2).mean(axis=0))
    varied = deviation > np.finfo(float).tiny
    if not varied.any():
        return CovarianceTest(0.0, 1.0, len(first))
    statistic = float(len(first) ** 0.5 * np.abs(mean[varied] / deviation[varied]).max())
    count = int(varied.sum())
    p = min(2 * count * float(ndtr(-statistic)), 1.0)
    if count > 1:
        scaled = centred[:, varied] / deviation[varied]
        with one_thread():
            correlations = scaled.T @ scaled / len(scaled)
        exceeding = int((_null_maxima(correlations, seed) >= statistic).sum())
        p = min(p, (1 + exceeding) / (1 + DRAWS))
    return CovarianceTest(statistic, p, len(first))


def _null_maxima(correlations: Floats, seed: int) -> Floats:
    """Greatest absolute values of normal variables with these correlations, shape (DRAWS,)."""
    with one_thread():
        values, vectors = np.linalg.eigh(correlations)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        return np.asarray(np.abs(_normals(seed, len(root)) @ root.T).max(axis=1))


@lru_cache(maxsize=8)
def _normals(seed: int, size: int) -> Floats:
    return numpy_stream(seed, "conditional independence", size).standard_normal((DRAWS, size))


@dataclass(frozen=True, slots=True, eq=False)
class Decisions:
    """A family of tests, decided together.

    Args:
        tests: the tests.
        alpha: largest probability of any false rejection.
    """

    tests: Sequence[CovarianceTest]
    alpha: float = 0.05

    @property
    def adjusted(self) -> list[float]:
        """P-values adjusted by Holm's method (1979)."""
        return holm([test.p for test in self.tests])

    @property
    def rejected(self) -> Bools:
        """Tests whose independence is rejected, shape (tests,)."""
        return np.array([p <= self.alpha for p in self.adjusted], bool)

    @property
    def critical(self) -> float:
        """Absolute normal statistic that the next test would need for its rejection."""
        remaining = max(len(self.tests) - int(self.rejected.sum()), 1)
        return -float(ndtri(self.alpha / remaining / 2))

    def differing(self, expected: Mapping[int, bool], level: float = 0.95) -> Estimate:
        r"""Number of decisions that differ from the expected ones, with the confidence interval of its expectation.

        The expectation is the mean number on other images of the same number. A test whose normal statistic lies more
        than ``CERTAIN`` from the critical value decides in the same way on almost all of them. The decisions of the
        other m tests are binary variables with unequal probabilities, so the exact interval of Clopper and Pearson for
        m equal ones is conservative (Hoeffding 1956), if they are independent.

        Args:
            expected: True for a rejection, by index of the test; at least one.
            level: confidence level.
        """
        critical, rejected = self.critical, self.rejected
        certain, counts = 0, [0, 0]
        for index, rejection in expected.items():
            differs = bool(rejected[index]) != rejection
            if abs(self.tests[index].equivalent - critical) > CERTAIN:
                certain += differs
            else:
                counts[differs] += 1
        n, uncertain = max(self.tests[index].n for index in expected), sum(counts)
        total = float(certain + counts[1])
        if not uncertain:
            return Estimate(total, total, total, n, Method.EXACT)
        share = clopper_pearson(counts[1], uncertain, level)
        return Estimate(total, certain + uncertain * share.low, certain + uncertain * share.high, n, Method.EXACT)
