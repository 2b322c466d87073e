r"""Intervals for statistics that repeated images would break: subsampling without replacement.

Nearest-neighbour distances are 0 between copies of an image, and plug-in information grows with every tie, so such
scores are never resampled with replacement (Politis, Romano and Wolf, "Subsampling", 1999).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.results import Estimate
from ccvae_eval.core.types import Floats, Ids
from ccvae_eval.statistics.intervals import Resampled, missing

RATE = 0.7
"""A subsample of n images has n ** .7."""

FEWEST = 50
"""Smaller subsamples give no interval (so below 268 images)."""

DRAWS = 500


def subsample_estimate(
    statistic: Callable[[Ids], float],
    groups: NDArray[np.int64],
    centre: float,
    *,
    seed: int,
    level: float = 0.95,
    draws: int = DRAWS,
) -> Resampled:
    r"""A value with its subsampling interval.

    Each draw takes :math:`b = m^{0.7}` images of each group, m = images of the smallest group, and so deviates from
    the draws' mean by :math:`\sqrt{(m - b)/b}` times what the value itself deviates: the deviations are shrunk by that
    and set off from ``centre``. The draws are keyed by (seed, draw) and the images' places, so that values of several
    characteristics have draws of the same subsamples.

    Args:
        statistic: the places of a subsample's images, ascending, to the value.
        groups: which group (class) each image is in, shape :math:`(N,)`; negative = not taken.
        centre: the value, its bias corrected.
        seed: the evaluation's seed.
        level: of the interval.
        draws: how many subsamples.

    Returns:
        the estimate; without interval where b < 50, or where more than 1 % of the subsamples are undefined.
    """

    def each(taken: Sequence[NDArray[np.int64]]) -> Floats:
        rows = np.sort(np.concatenate(taken, axis=1), axis=1)
        return np.array([[statistic(row)] for row in rows])

    return subsample_estimates(each, groups, np.array([centre]), seed=seed, level=level, draws=draws)[0]


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
    r"""Several values of the same subsamples at once; otherwise as ``subsample_estimate``.

    Args:
        statistic: for each group the places of its images in every draw, shape :math:`(draws, b)`, to the values of
            every draw, shape :math:`(draws, C)`.
        groups: which group each image is in, shape :math:`(N,)`; negative = not taken.
        centres: shape :math:`(C,)`.
        seed, level, draws: as there.
        bias_rate: the power of m by which the statistic's bias falls, None = it has none. What the draws' mean differs
            from the value then tells how much bias is left, :math:`(v - \bar v_b) / ((m/b)^{rate} - 1)`, and the
            interval is drawn out by it.
        halves: of so many subsamples of half of the images, which tell at what rate r deviations fall, by
            :math:`s_b / s_{m/2} = (m / 2b)^r` (Bertail, Politis and Romano 1999). Where r < 1/2 the interval is made
            :math:`(m/b)^{1/2 - r}` times as wide; 0 = they fall as those of a mean do.
    """
    members = [np.flatnonzero(groups == group) for group in np.unique(groups[groups >= 0])]
    smallest = min((len(m) for m in members), default=0)
    n = sum(len(m) for m in members)
    size = int(smallest**RATE)
    if size < FEWEST:
        note = f"no interval: subsamples of {size} images, {FEWEST} needed"
        return [_bare(centre, n, draws, note) for centre in centres]
    keys = _keys(seed, len(groups), draws)

    def of_size(taken: int, times: int) -> Floats:
        return statistic([m[np.argpartition(keys[:times, m], taken - 1, axis=1)[:, :taken]] for m in members])

    found = of_size(size, draws)
    wider = np.ones(len(centres))
    if halves:
        wider = _slower(found, size, of_size(smallest // 2, halves), smallest // 2, smallest)
    shrinkages = math.sqrt(size / (smallest - size)) * wider
    growth = (smallest / size) ** bias_rate - 1 if bias_rate else math.inf
    return [
        _estimate(centre, values, float(shrinkage), growth, n, level)
        for centre, values, shrinkage in zip(centres, found.T, shrinkages, strict=True)
    ]


def _slower(found: Floats, size: int, halves: Floats, half: int, whole: int) -> Floats:
    """How many times more the value deviates than it would if deviations fell as those of a mean do, shape (C,)."""
    # subsamples share images: of a mean, they deviate by a part sqrt(1 - size/whole) of what samples would
    small, large = (
        np.nanstd(values, axis=0) / math.sqrt(1 - taken / whole) for values, taken in ((found, size), (halves, half))
    )
    usable = (small > 0) & (large > 0)
    rate = np.log(np.where(usable, small, 1.0) / np.where(usable, large, 1.0)) / math.log(half / size)
    return np.asarray(np.where(usable, (whole / size) ** np.clip(0.5 - rate, 0.0, 0.5), 1.0))


@lru_cache(maxsize=2)
def _keys(seed: int, n: int, draws: int) -> Floats:
    """A random key for each draw and image; a draw takes the images with the least keys. Shape (draws, n)."""
    return np.stack([numpy_stream(seed, "subsample", draw).random(n) for draw in range(draws)])


def _bare(centre: float, n: int, draws: int, note: str) -> Resampled:
    if math.isnan(centre):
        return missing(draws, "undefined on these images", n)
    return Resampled(Estimate(float(centre), n=n), np.full(draws, np.nan), note)


def subsampled(
    centre: float, found: Floats, size: int, n: int, level: float = 0.95, *, bias_rate: float | None = None
) -> Resampled:
    r"""The interval of a value from what subsamples of ``size`` of its n images gave, shape :math:`(B,)`.

    For those who draw the subsamples themselves; shrunk, and drawn out by the bias, as in ``subsample_estimates``.
    """
    growth = (n / size) ** bias_rate - 1 if bias_rate else math.inf
    return _estimate(centre, found, math.sqrt(size / (n - size)), growth, n, level)


def _estimate(centre: float, found: Floats, shrinkage: float, growth: float, n: int, level: float) -> Resampled:
    lost = int(np.isnan(found).sum())
    if math.isnan(centre) or lost > 0.01 * len(found):
        return _bare(centre, n, len(found), f"no interval: {lost} of {len(found)} subsamples undefined")
    # reflected, as in the basic bootstrap: a subsample too high by d says that the value may be too high by d
    mean = float(np.nanmean(found))
    values = centre - (found - mean) * shrinkage
    tail = (1 - level) / 2
    left = (centre - mean) / growth
    low, high = (float(end) for end in np.nanquantile(values, [tail, 1 - tail]))
    return Resampled(Estimate(float(centre), low + min(left, 0.0), high + max(left, 0.0), n, "subsampling"), values)
