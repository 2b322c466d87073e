r"""Intervals for statistics that repeated images would break: subsampling without replacement.

Nearest-neighbour distances are 0 between copies of an image, and plug-in information grows with every tie, so such
scores are never resampled with replacement (Politis, Romano and Wolf, "Subsampling", 1999).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.measure import Estimate
from ccvae_eval.statistics.intervals import Resampled, missing
from ccvae_eval.streams import numpy_stream
from ccvae_eval.types import Ids

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
    members = [np.flatnonzero(groups == group) for group in np.unique(groups[groups >= 0])]
    smallest = min((len(m) for m in members), default=0)
    n = sum(len(m) for m in members)
    if math.isnan(centre):
        return missing(draws, "undefined on these images", n)
    size = int(smallest**RATE)
    if size < FEWEST:
        note = f"no interval: subsamples of {size} images, {FEWEST} needed"
        return Resampled(Estimate(centre, n=n), np.full(draws, np.nan), note)
    found = np.empty(draws)
    for draw in range(draws):
        keys = numpy_stream(seed, "subsample", draw).random(len(groups))
        taken = [m[np.argpartition(keys[m], size - 1)[:size]] for m in members]
        found[draw] = statistic(np.sort(np.concatenate(taken)))
    lost = int(np.isnan(found).sum())
    if lost > 0.01 * draws:
        note = f"no interval: {lost} of {draws} subsamples undefined"
        return Resampled(Estimate(centre, n=n), np.full(draws, np.nan), note)
    # reflected, as in the basic bootstrap: a subsample too high by d says that the value may be too high by d
    values = centre - (found - np.nanmean(found)) * math.sqrt(size / (smallest - size))
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return Resampled(Estimate(centre, float(low), float(high), n, "subsampling"), values)
