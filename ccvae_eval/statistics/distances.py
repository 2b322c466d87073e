"""How far two samples of feature vectors lie apart: distances of their laws, and of their manifolds.

How far codes lie from a normal distribution: the Wasserstein-1 distance to it, with interval and floor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy.special import ndtr, ndtri

from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import Estimate
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.statistics.intervals import Resampled, centred_and_basic, missing, resampled
from ccvae_eval.statistics.resampling import ResampleWeights, reservoir

FLOOR_DRAWS = 20
"""Samples of the normal distribution itself whose mean distance is the floor."""
CHANCE_DRAWS, CHANCE_SIZE = 1000, 200
"""The samples, and their size, behind the quantiles of that distance."""


def normal_wasserstein(scores: Floats) -> float:
    r"""Exact Wasserstein-1 distance between the empirical distribution of the scores and the standard normal.

    .. math:: W_1 = \int |F_n(t) - \Phi(t)|\,dt

    in closed form on each interval between neighbouring scores, split where :math:`\Phi` crosses :math:`F_n`.

    Args:
        scores: :math:`(z - \mu)/\sigma`, shape :math:`(N,)`, no NaN.

    Returns:
        in deviations of the normal; NaN without scores.

    >>> round(normal_wasserstein(np.array([0.0])), 4) == round(2 / (2 * np.pi) ** 0.5, 4)
    True
    """
    if not len(scores):
        return float("nan")
    ordered = np.sort(scores)
    low, high = ordered[:-1], ordered[1:]
    level = np.arange(1, len(ordered)) / len(ordered)
    crossing = np.clip(ndtri(level), low, high)
    first = level * (crossing - low) - (_below(crossing) - _below(low))
    second = _below(high) - _below(crossing) - level * (high - crossing)
    return float((first + second).sum() + _below(ordered[0]) + _below(-ordered[-1]))


def normal_wasserstein_estimate(scores: Floats, weights: ResampleWeights) -> Resampled:
    """``normal_wasserstein`` with an interval, not negative; NaN = the image does not enter.

    The interval is ``centred_and_basic``, and begins at 0 where as many draws of the normal itself would lie as far
    from it by chance. Measured, 200 and 1,000 images, distances 0 to 1: it covers .91 to .99; the basic interval alone
    .72 where the distance is that of chance.
    """
    index = reservoir(weights.seed, np.flatnonzero(~np.isnan(scores)))
    if not len(index):
        return missing(weights.draws, "no image")
    order = index[np.argsort(scores[index], kind="stable")]
    ordered = scores[order]
    rows = weights.rows(order)
    total = rows.sum(axis=0, dtype=np.float64)
    mass = np.diff(_below(ordered))
    gaps = np.diff(ordered)
    lead = np.zeros(rows.shape[1])
    area = np.zeros(rows.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        # a row at a time, as in the two-sample distance; an interval with a crossing counts by its net area, which
        # moves a resample by less than one gap over n
        for row, gap, normal in zip(rows, gaps, mass, strict=False):
            lead += row
            area += np.abs(lead / total * gap - normal)
    draws = np.where(total > 0, area + _below(ordered[0]) + _below(-ordered[-1]), np.nan)
    found = resampled(normal_wasserstein(ordered), draws, len(index), weights.level, basic=True)
    found = centred_and_basic(found, weights.level)
    if found.value > _by_chance((1 + weights.level) / 2) / math.sqrt(len(index)):
        return found
    return replace(found, estimate=replace(found.estimate, low=0.0))


@lru_cache(maxsize=4)
def _by_chance(level: float) -> float:
    """The quantile of the distance of n draws of the normal from it, times the root of n: hardly a matter of n."""
    streams = (numpy_stream(0, "normal chance", draw) for draw in range(CHANCE_DRAWS))
    found = [normal_wasserstein(stream.standard_normal(CHANCE_SIZE)) for stream in streams]
    return float(np.quantile(found, level)) * math.sqrt(CHANCE_SIZE)


@lru_cache(maxsize=64)
def normal_wasserstein_floor(n: int) -> float:
    """The mean distance of n draws of the standard normal from it, simulated with a seed of its own."""
    streams = (numpy_stream(0, "normal floor", f"{n}/{draw}") for draw in range(FLOOR_DRAWS))
    return float(np.mean([normal_wasserstein(stream.standard_normal(n)) for stream in streams]))


def _below(t: Floats) -> Floats:
    r""":math:`\int_{-\infty}^t \Phi = t \Phi(t) + \varphi(t)`."""
    return np.asarray(t * ndtr(t) + np.exp(-0.5 * np.square(t)) / np.sqrt(2 * np.pi))


BLOCK = 250
"""Rows of a matrix of inner products that are held at once; no number depends on it."""


def frechet_distance(x: Floats, y: Floats) -> float:
    r"""Fréchet distance of the Gaussians with the samples' means and covariances (divisor n - 1).

    .. math:: |m_x - m_y|^2 + \operatorname{tr}(S_x + S_y - 2 (S_x^{1/2} S_y S_x^{1/2})^{1/2})

    Dowson and Landau 1982. It is biased upwards, the more so the smaller the samples: compare at the same N.

    Args:
        x, y: shape :math:`(N, F)` and :math:`(M, F)`, at least two rows each.

    >>> frechet_distance(np.array([[0.0], [2.0]]), np.array([[3.0], [5.0]]))
    9.0
    """
    gap = x.mean(axis=0) - y.mean(axis=0)
    a, b = (np.atleast_2d(np.cov(z, rowvar=False)) for z in (x, y))
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    middle = np.sqrt(np.clip(np.linalg.eigvalsh(root @ b @ root), 0, None)).sum()
    return max(float(gap @ gap + np.trace(a) + np.trace(b) - 2 * middle), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class Manifolds:
    """What each image says of two samples' manifolds (Kynkäänniemi et al. 2019; Naeem et al. 2020).

    Args:
        precision: whether a generated row lies in the ball of some real one, shape (M,).
        recall: whether a real row lies in the ball of some generated one, shape (N,).
        density: in how many balls of real rows a generated one lies, over k, shape (M,).
        coverage: whether some generated row lies in a real one's ball, shape (N,).
    """

    precision: Bools
    recall: Bools
    density: Floats
    coverage: Bools


def kernel_and_manifolds(
    real: Floats, generated: Floats, k: int = 5, level: float = 0.95
) -> tuple[Estimate, Manifolds]:
    r"""Two comparisons that rest on the same inner products, which take most of the time of both.

    The first is the unbiased squared maximum mean discrepancy with the kernel :math:`k(u, v) = (u \cdot v / F + 1)^3`,

    .. math:: \frac{1}{n(n-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{m(m-1)} \sum_{i \ne j} k(y_i, y_j)
        - \frac{2}{nm} \sum_{i,j} k(x_i, y_j)

    Gretton et al. 2012 (lemma 6), with the kernel of Binkowski et al. 2018. Its mean is 0 for samples of one law; it
    may be negative. The interval is normal, from the variance of each row's first-order contribution, and too narrow
    where both laws are nearly the same.

    The second compares the samples by balls around their rows that reach to the k-th nearest row of the same sample.

    Args:
        real, generated: shape :math:`(N, F)` and :math:`(M, F)`, more than k rows each and at least two.
        k: which neighbour.
        level: of the interval.
    """
    norms, theirs = _norms(real), _norms(generated)
    own_real, radius = _among_themselves(real, norms, k)
    own_generated, reach = _among_themselves(generated, theirs, k)
    across, across_real = np.empty(len(generated)), np.zeros(len(real))
    precision, density = np.zeros(len(generated), np.bool_), np.zeros(len(generated))
    recall, coverage = np.zeros(len(real), np.bool_), np.zeros(len(real), np.bool_)
    for rows, products in _products(generated, real):
        kernel = _kernel(products, real.shape[1])
        across[rows] = kernel.mean(axis=1)
        across_real += kernel.sum(axis=0)
        apart = _squares(products, theirs[rows], norms)
        inside = apart <= radius
        precision[rows], density[rows] = inside.any(axis=1), inside.sum(axis=1) / k
        coverage |= inside.any(axis=0)
        recall |= (apart <= reach[rows, None]).any(axis=0)
    across_real /= len(generated)
    value = float(own_real.mean() + own_generated.mean() - 2 * across_real.mean())
    parts = own_real - across_real, own_generated - across
    error = 2 * np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts))
    width = float(ndtri((1 + level) / 2) * error)
    estimate = Estimate(value, value - width, value + width, min(len(real), len(generated)), "normal")
    return estimate, Manifolds(precision, recall, density, coverage)


def _among_themselves(x: Floats, norms: Floats, k: int) -> tuple[Floats, Floats]:
    """Of each row the mean kernel with all others, and the squared distance to its k-th neighbour."""
    total, radius = np.empty(len(x)), np.empty(len(x))
    for rows, products in _products(x, x):
        total[rows] = _kernel(products, x.shape[1]).sum(axis=1)
        apart = _squares(products, norms[rows], norms)
        apart.partition(k, axis=1)
        radius[rows] = apart[:, k]
    return (total - (norms / x.shape[1] + 1) ** 3) / (len(x) - 1), radius


def _products(x: Floats, y: Floats) -> Iterator[tuple[slice, Floats]]:
    """The inner products of some rows at a time with all of y."""
    for first in range(0, len(x), BLOCK):
        rows = slice(first, first + BLOCK)
        yield rows, x[rows] @ y.T


def _norms(x: Floats) -> Floats:
    return np.asarray((x * x).sum(axis=1))


def _kernel(products: Floats, features: int) -> Floats:
    found = products / features
    found += 1
    cube = found * found  # a power takes ten times as long
    cube *= found
    return np.asarray(cube)


def _squares(products: Floats, norms: Floats, others: Floats) -> Floats:
    """Squared distances, in place: only their order matters here, and roots take as long as all else."""
    products *= -2
    products += norms[:, None]
    products += others
    return np.asarray(np.maximum(products, 0, out=products))
