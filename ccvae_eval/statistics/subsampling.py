"""Confidence intervals by subsampling without replacement (Politis, Romano and Wolf, "Subsampling", 1999).

For statistics that copies of an image would bias: nearest-neighbour distances are 0 between copies, and plug-in
information grows with every tie.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.large_arrays import MAX_IN_MEMORY
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import Estimate, Method
from ccvae_eval.core.types import Floats
from ccvae_eval.statistics.intervals import Resampled, undefined_estimate
from ccvae_eval.statistics.ratios import safe_ratio

RATE = 0.7
"""Exponent of the subsample size: m ** 0.7 of m images."""

MIN_SUBSAMPLE = 50
"""Least size of a subsample for an interval, which takes 268 images."""

DRAWS = 500
"""Subsamples by default."""


NUMBERS = 1 << 18
"""Numbers of the subsamples that are computed at once."""


def parts_of(draws: int, n: int) -> Iterator[slice]:
    """Ranges of draws that together have about ``NUMBERS`` numbers, with n numbers in each."""
    together = max(1, NUMBERS // max(n, 1))
    return (slice(first, min(first + together, draws)) for first in range(0, draws, together))


def subsample_estimates(
    statistic: Callable[[Sequence[NDArray[np.int64]]], Floats],
    groups: NDArray[np.int64],
    centres: Floats,
    *,
    seed: int,
    level: float = 0.95,
    draws: int = DRAWS,
    bias_rate: float | None = None,
    halves: int = 0,
) -> list[Resampled]:
    r"""Values with their subsampling intervals, all from the same subsamples.

    Each subsample takes :math:`b = m^{0.7}` images of each group, with m the images of the smallest group. Its
    deviation from the subsamples' mean is :math:`\sqrt{(m - b)/b}` times the deviation of the value itself; the
    deviations are scaled down by that factor and reflected at ``centres``. Subsamples depend on (seed, draw) and the
    images' rows, so values of several characteristics share them.

    Args:
        statistic: maps the rows of each group's images in every subsample, each of shape :math:`(draws, b)`, to the
            values of every subsample, shape :math:`(draws, C)`.
        groups: group (class) of each image, shape :math:`(N,)`; negative = not used.
        centres: the values, corrected for bias, shape :math:`(C,)`.
        seed: seed of the evaluation.
        level: confidence level.
        draws: number of subsamples.
        bias_rate: power of m by which the statistic's bias falls, None = unbiased. The interval is extended by the
            remaining bias, estimated from the subsamples' mean as :math:`(v - \bar v_b) / ((m/b)^{rate} - 1)`.
        halves: number of subsamples of half of the images, which estimate the rate r of convergence by
            :math:`s_b / s_{m/2} = (m / 2b)^r` (Bertail, Politis and Romano 1999). For r < 1/2 the interval is
            :math:`(m/b)^{1/2 - r}` times as wide. 0 = the rate of a mean, r = 1/2.

    Returns:
        One estimate for each value; without interval if b < 50 or if more than 1% of the subsamples are undefined.
    """
    members = [np.flatnonzero(groups == group) for group in np.unique(groups[groups >= 0])]
    smallest = min((len(m) for m in members), default=0)
    n = sum(len(m) for m in members)
    size = int(smallest**RATE)
    if size < MIN_SUBSAMPLE:
        note = f"no interval: subsamples of {size} images, {MIN_SUBSAMPLE} needed"
        return [_without_interval(centre, n, draws, note) for centre in centres]

    def of_size(taken: int, times: int) -> Floats:
        found = []
        for part in parts_of(times, len(groups)):
            keys = _keys_of(seed, len(groups), draws, part)
            found.append(statistic([m[np.argpartition(keys[:, m], taken - 1, axis=1)[:, :taken]] for m in members]))
        return np.concatenate(found)

    found = of_size(size, draws)
    wider = np.ones(len(centres))
    if halves:
        wider = _widening(found, size, of_size(smallest // 2, halves), smallest // 2, smallest)
    shrinkages = math.sqrt(size / (smallest - size)) * wider
    growth = (smallest / size) ** bias_rate - 1 if bias_rate else math.inf
    return [
        _estimate(centre, values, float(shrinkage), growth, n, level)
        for centre, values, shrinkage in zip(centres, found.T, shrinkages, strict=True)
    ]


def _widening(found: Floats, size: int, halves: Floats, half: int, whole: int) -> Floats:
    """Standard deviation of each value relative to one that converges at the rate of a mean, shape (C,)."""
    # subsamples share images, which reduces their deviation by a factor of sqrt(1 - size/whole)
    small, large = (
        np.nanstd(values, axis=0) / math.sqrt(1 - taken / whole) for values, taken in ((found, size), (halves, half))
    )
    usable = (small > 0) & (large > 0)
    rate = np.log(safe_ratio(small, np.where(usable, large, 0.0), 1.0)) / math.log(half / size)
    return np.asarray(np.where(usable, (whole / size) ** np.clip(0.5 - rate, 0.0, 0.5), 1.0))


def _keys_of(seed: int, n: int, draws: int, part: slice) -> Floats:
    """Random keys of some draws, one for each image; each draw takes the images with the smallest keys."""
    if n <= MAX_IN_MEMORY:
        return _keys(seed, n, draws)[part]
    return np.stack([numpy_stream(seed, "subsample", draw).random(n) for draw in range(part.start, part.stop)])


@lru_cache(maxsize=2)
def _keys(seed: int, n: int, draws: int) -> Floats:
    return np.stack([numpy_stream(seed, "subsample", draw).random(n) for draw in range(draws)])


def _without_interval(centre: float, n: int, draws: int, note: str) -> Resampled:
    if math.isnan(centre):
        return undefined_estimate(draws, "undefined on these images", n)
    return Resampled(Estimate(float(centre), n=n), np.full(draws, np.nan), note)


def subsampled(
    centre: float, found: Floats, size: int, n: int, level: float = 0.95, *, bias_rate: float | None = None
) -> Resampled:
    r"""Subsampling interval of a value from its values on the caller's own subsamples.

    Scaled and extended by the bias as in ``subsample_estimates``.

    Args:
        centre: the value, corrected for bias.
        found: values on the subsamples, shape :math:`(B,)`.
        size, n: images of a subsample, and of the sample.
        level: confidence level.
        bias_rate: power of n by which the bias falls, None = unbiased.
    """
    growth = (n / size) ** bias_rate - 1 if bias_rate else math.inf
    return _estimate(centre, found, math.sqrt(size / (n - size)), growth, n, level)


def _estimate(centre: float, found: Floats, shrinkage: float, growth: float, n: int, level: float) -> Resampled:
    lost = int(np.isnan(found).sum())
    if math.isnan(centre) or lost > 0.01 * len(found):
        return _without_interval(centre, n, len(found), f"no interval: {lost} of {len(found)} subsamples undefined")
    # reflected, as in the basic bootstrap
    mean = float(np.nanmean(found))
    values = centre - (found - mean) * shrinkage
    tail = (1 - level) / 2
    bias = (centre - mean) / growth
    low, high = (float(end) for end in np.nanquantile(values, [tail, 1 - tail]))
    low, high = low + min(bias, 0.0), high + max(bias, 0.0)
    return Resampled(Estimate(float(centre), low, high, n, Method.SUBSAMPLING), values)
