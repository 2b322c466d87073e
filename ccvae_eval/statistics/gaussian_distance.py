r"""How far codes lie from a normal distribution: the Wasserstein-1 distance to it, with interval and floor."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
from scipy.special import ndtr, ndtri

from ccvae_eval.statistics.intervals import Resampled, centred_and_basic, missing, resampled
from ccvae_eval.statistics.resampling import ResampleWeights, reservoir
from ccvae_eval.streams import numpy_stream
from ccvae_eval.types import Floats

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
