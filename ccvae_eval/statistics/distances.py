"""Distances between distributions: of two samples of features, and of codes from a normal distribution.

Two samples of feature vectors are compared by the Fréchet distance, the kernel distance (squared maximum mean
discrepancy) and by their manifolds (precision, recall, density, coverage). Codes are compared with the standard normal
by the Wasserstein-1 distance, with a confidence interval and the floor that sampling leaves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain

import numpy as np
from scipy.special import ndtr, ndtri

from ccvae_eval.core.devices import one_thread
from ccvae_eval.core.large_arrays import MAX_IN_MEMORY, LargeArray
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import Estimate
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.statistics.intervals import Resampled, centred_and_basic, estimate_from_draws, undefined_estimate
from ccvae_eval.statistics.resampling import ResampleWeights, reservoir

BLOCK = 250
"""Rows of a matrix of inner products computed at once; no number depends on it."""

FLOOR_DRAWS = 20
"""Samples of the standard normal whose mean distance is the floor."""

CHANCE_DRAWS, CHANCE_SIZE = 1000, 200
"""Samples of the standard normal, and their size, for the quantiles of the distance under chance."""


Rows = Floats | LargeArray
"""One row for each image, in memory or in a temporary file."""


def frechet_distance(x: Rows, y: Rows) -> float:
    r"""Squared Fréchet distance of the Gaussians with the samples' means and covariances (divisor n - 1).

    .. math:: |m_x - m_y|^2 + \operatorname{tr}(S_x + S_y - 2 (S_x^{1/2} S_y S_x^{1/2})^{1/2})

    (Dowson and Landau 1982.) It is biased upwards, more strongly for smaller samples: compare values at the same N.

    Args:
        x, y: shapes :math:`(N, F)` and :math:`(M, F)`, at least two rows each.

    Returns:
        Distance, at least 0.

    >>> frechet_distance(np.array([[0.0], [2.0]]), np.array([[3.0], [5.0]]))
    9.0
    """
    (mean, a), (other_mean, b) = _mean_and_covariance(x), _mean_and_covariance(y)
    gap = mean - other_mean
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    middle = np.sqrt(np.clip(np.linalg.eigvalsh(root @ b @ root), 0, None)).sum()
    return max(float(gap @ gap + np.trace(a) + np.trace(b) - 2 * middle), 0.0)


def _mean_and_covariance(rows: Rows) -> tuple[Floats, Floats]:
    """Mean, shape (F,), and covariance, shape (F, F), of the rows; of many rows with sums over blocks of them."""
    if len(rows) <= MAX_IN_MEMORY:
        whole = rows[:]
        return whole.mean(axis=0), np.atleast_2d(np.cov(whole, rowvar=False))
    blocks = [slice(first, first + MAX_IN_MEMORY) for first in range(0, len(rows), MAX_IN_MEMORY)]
    mean: Floats = sum(rows[block].sum(axis=0) for block in blocks) / len(rows)
    products = np.zeros((len(mean), len(mean)))
    for block in blocks:
        centred = rows[block] - mean
        with one_thread():
            products += centred.T @ centred
    return mean, products / (len(rows) - 1)


@dataclass(frozen=True, slots=True, eq=False)
class Manifolds:
    """Contribution of each row to precision, recall, density and coverage of N real and M generated rows.

    The manifold of a sample is the union of balls around its rows that reach to the k-th nearest row of the same sample
    (Kynkäänniemi et al. 2019; Naeem et al. 2020).

    Args:
        precision: True if a generated row lies in the ball of some real row, shape (M,).
        recall: True if a real row lies in the ball of some generated row, shape (N,).
        density: number of real balls that contain a generated row, divided by k, shape (M,).
        coverage: True if a real row's ball contains some generated row, shape (N,).
    """

    precision: Bools
    recall: Bools
    density: Floats
    coverage: Bools


def kernel_and_manifolds(
    real: Floats, generated: Floats, k: int = 5, level: float = 0.95
) -> tuple[Estimate, Manifolds]:
    r"""Kernel distance and manifolds of two samples, computed together because both need the same inner products.

    The kernel distance is the unbiased squared maximum mean discrepancy with the kernel
    :math:`k(u, v) = (u \cdot v / F + 1)^3`,

    .. math:: \frac{1}{n(n-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{m(m-1)} \sum_{i \ne j} k(y_i, y_j)
        - \frac{2}{nm} \sum_{i,j} k(x_i, y_j)

    (Gretton et al. 2012, lemma 6, with the kernel of Binkowski et al. 2018). It may be negative; its mean is 0 for
    samples of one distribution. The confidence interval is normal, from the variance of the rows' first-order
    contributions, and too narrow where both distributions are nearly equal.

    Args:
        real, generated: shapes :math:`(N, F)` and :math:`(M, F)`, more than k rows each and at least two.
        k: neighbour that a manifold's balls reach to.
        level: confidence level.

    Returns:
        The kernel distance with its interval, and the manifolds.
    """
    real_norms, generated_norms = _squared_norms(real), _squared_norms(generated)
    own_real, real_radius = _within_sample(real, real_norms, k)
    own_generated, generated_radius = _within_sample(generated, generated_norms, k)
    across, across_real = np.empty(len(generated)), np.zeros(len(real))
    precision, density = np.zeros(len(generated), np.bool_), np.zeros(len(generated))
    recall, coverage = np.zeros(len(real), np.bool_), np.zeros(len(real), np.bool_)
    for rows, products in _products(generated, real):
        kernel = _kernel(products, real.shape[1])
        across[rows] = kernel.mean(axis=1)
        across_real += kernel.sum(axis=0)
        apart = _squared_distances(products, generated_norms[rows], real_norms)
        inside = apart <= real_radius
        precision[rows], density[rows] = inside.any(axis=1), inside.sum(axis=1) / k
        coverage |= inside.any(axis=0)
        recall |= (apart <= generated_radius[rows, None]).any(axis=0)
    across_real /= len(generated)
    value = float(own_real.mean() + own_generated.mean() - 2 * across_real.mean())
    parts = own_real - across_real, own_generated - across
    error = 2 * np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts))
    width = float(ndtri((1 + level) / 2) * error)
    estimate = Estimate(value, value - width, value + width, min(len(real), len(generated)), "normal")
    return estimate, Manifolds(precision, recall, density, coverage)


def kernel_distance(x: Floats, y: Floats, *, paired: bool = False) -> float:
    r"""The kernel distance of :func:`kernel_and_manifolds` alone.

    Args:
        x, y: shapes :math:`(N, F)` and :math:`(M, F)`, at least two rows each.
        paired: True if row i of x and row i of y belong to one image. These pairs are then left out, as the pairs of a
            row with itself are, so that the distance stays unbiased.

    >>> kernel_distance(np.array([[0.0], [1.0]]), np.array([[0.0], [1.0]]), paired=True)
    0.0
    """
    return float(_weighted_distances(x, y, np.ones((len(x), 1)), np.ones((len(y), 1)), paired=paired)[0])


def kernel_distance_estimate(x: Floats, y: Floats, rows: tuple[Ids, Ids], weights: ResampleWeights) -> Resampled:
    """``kernel_distance`` with its bootstrap confidence interval.

    Pairs of copies of one image, which resampling with replacement creates, are left out like the pairs of a row with
    itself: they would bias the distance upwards. The interval is too wide where both distributions are nearly equal.

    Args:
        x, y: shapes (N, F) and (M, F), at least two rows each.
        rows: the images that the rows of x and of y belong to, shapes (N,) and (M,), no image in both.
        weights: the run's resamples.
    """
    w, v = (weights.rows(index).astype(np.float64) for index in rows)
    draws = _weighted_distances(x, y, w, v)
    return estimate_from_draws(kernel_distance(x, y), draws, min(len(x), len(y)), weights.level)


def _weighted_distances(x: Floats, y: Floats, w: Floats, v: Floats, *, paired: bool = False) -> Floats:
    """Kernel distances of weighted rows, weights of shapes (N, B) and (M, B); NaN without a pair of images."""
    with one_thread(), np.errstate(invalid="ignore", divide="ignore"):
        own_x, own_y = (_mean_kernel(z, z, u, u, apart=True) for z, u in ((x, w), (y, v)))
        return np.asarray(own_x + own_y - 2 * _mean_kernel(x, y, w, v, apart=paired))


def _mean_kernel(x: Floats, y: Floats, w: Floats, v: Floats, *, apart: bool) -> Floats:
    """Weighted mean kernel over all pairs of rows; with ``apart`` without the pairs of rows with the same index."""
    kernel, mass = _kernel(x @ y.T, x.shape[1]), w.sum(axis=0) * v.sum(axis=0)
    if apart:
        np.fill_diagonal(kernel, 0.0)
        mass = mass - (w * v).sum(axis=0)
    return np.asarray(((kernel.T @ w) * v).sum(axis=0) / mass)


def _within_sample(x: Floats, norms: Floats, k: int) -> tuple[Floats, Floats]:
    """For each row the mean kernel with all other rows, and the squared distance to its k-th neighbour."""
    total, radius = np.empty(len(x)), np.empty(len(x))
    for rows, products in _products(x, x):
        total[rows] = _kernel(products, x.shape[1]).sum(axis=1)
        apart = _squared_distances(products, norms[rows], norms)
        apart.partition(k, axis=1)
        radius[rows] = apart[:, k]
    return (total - (norms / x.shape[1] + 1) ** 3) / (len(x) - 1), radius


def _products(x: Floats, y: Floats) -> Iterator[tuple[slice, Floats]]:
    """Inner products with all of y, for a block of rows of x at a time."""
    for first in range(0, len(x), BLOCK):
        rows = slice(first, first + BLOCK)
        yield rows, x[rows] @ y.T


def _squared_norms(x: Floats) -> Floats:
    return np.asarray((x * x).sum(axis=1))


def _kernel(products: Floats, features: int) -> Floats:
    found = products / features
    found += 1
    cube = found * found  # much faster than a power
    cube *= found
    return np.asarray(cube)


def _squared_distances(products: Floats, norms: Floats, others: Floats) -> Floats:
    """Squared distances from inner products, in place; only their order matters, so no roots are taken."""
    products *= -2
    products += norms[:, None]
    products += others
    return np.asarray(np.maximum(products, 0, out=products))


def normal_wasserstein(scores: Floats) -> float:
    r"""Exact Wasserstein-1 distance between the empirical distribution of the scores and the standard normal.

    .. math:: W_1 = \int |F_n(t) - \Phi(t)|\,dt

    in closed form on each interval between neighbouring scores, split where :math:`\Phi` crosses :math:`F_n`.

    Args:
        scores: :math:`(z - \mu)/\sigma`, shape :math:`(N,)`, no NaN.

    Returns:
        Distance, at least 0, in standard deviations of the normal; NaN without scores.

    >>> round(normal_wasserstein(np.array([0.0])), 4) == round(2 / (2 * np.pi) ** 0.5, 4)
    True
    """
    if not len(scores):
        return float("nan")
    ordered = np.sort(scores)
    low, high = ordered[:-1], ordered[1:]
    level = np.arange(1, len(ordered)) / len(ordered)
    crossing = np.clip(ndtri(level), low, high)
    first = level * (crossing - low) - (_cdf_integral(crossing) - _cdf_integral(low))
    second = _cdf_integral(high) - _cdf_integral(crossing) - level * (high - crossing)
    return float((first + second).sum() + _cdf_integral(ordered[0]) + _cdf_integral(-ordered[-1]))


def normal_wasserstein_estimate(scores: Floats, weights: ResampleWeights) -> Resampled:
    """``normal_wasserstein`` with its confidence interval, at least 0.

    The interval is that of ``centred_and_basic``. It starts at 0 if as many draws of the standard normal would lie as
    far from it by chance.

    Args:
        scores: standardised codes, shape (N,), NaN = the image does not enter.
        weights: the run's resamples.
    """
    index = reservoir(weights.seed, np.flatnonzero(~np.isnan(scores)))
    if not len(index):
        return undefined_estimate(weights.draws, "no images")
    order = index[np.argsort(scores[index], kind="stable")]
    ordered = scores[order]
    total = sum(rows.sum(axis=0, dtype=np.float64) for rows in weights.rows_in_blocks(order))
    mass = np.diff(_cdf_integral(ordered))
    gaps = np.diff(ordered)
    lead = np.zeros(weights.draws)
    area = np.zeros(weights.draws)
    with np.errstate(divide="ignore", invalid="ignore"):
        # an interval with a crossing counts by its net area, an error below one gap over n
        for row, gap, normal in zip(chain.from_iterable(weights.rows_in_blocks(order)), gaps, mass, strict=False):
            lead += row
            area += np.abs(lead / total * gap - normal)
    draws = np.where(total > 0, area + _cdf_integral(ordered[0]) + _cdf_integral(-ordered[-1]), np.nan)
    found = estimate_from_draws(normal_wasserstein(ordered), draws, len(index), weights.level, basic=True)
    found = centred_and_basic(found, weights.level)
    if found.value > _chance_quantile((1 + weights.level) / 2) / math.sqrt(len(index)):
        return found
    return replace(found, estimate=replace(found.estimate, low=0.0))


@lru_cache(maxsize=4)
def _chance_quantile(level: float) -> float:
    """Quantile of the distance of n standard normal draws from the normal, times sqrt(n), nearly constant in n."""
    streams = (numpy_stream(0, "normal chance", draw) for draw in range(CHANCE_DRAWS))
    found = [normal_wasserstein(stream.standard_normal(CHANCE_SIZE)) for stream in streams]
    return float(np.quantile(found, level)) * math.sqrt(CHANCE_SIZE)


@lru_cache(maxsize=64)
def normal_wasserstein_floor(n: int) -> float:
    """Mean distance of n standard normal draws from the normal, simulated with a fixed seed."""
    streams = (numpy_stream(0, "normal floor", f"{n}/{draw}") for draw in range(FLOOR_DRAWS))
    return float(np.mean([normal_wasserstein(stream.standard_normal(n)) for stream in streams]))


def _cdf_integral(t: Floats) -> Floats:
    r""":math:`\int_{-\infty}^t \Phi = t \Phi(t) + \varphi(t)`."""
    return np.asarray(t * ndtr(t) + np.exp(-0.5 * np.square(t)) / np.sqrt(2 * np.pi))
