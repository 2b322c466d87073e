"""Shares of images: their intervals, and that of a mean of shares."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import betaincinv, ndtri

from ccvae_eval.core.results import Estimate, undefined
from ccvae_eval.core.types import Floats

WILSON = "wilson"
EXACT = "exact"
SQUARES_ADDED = "exact, squares added"
BOUNDED = "exact, effective images"
CLOSED = {WILSON, SQUARES_ADDED, BOUNDED}
"""Methods that go by counts: their means do so too."""


def wilson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """A share with Wilson's score interval (1927); undefined for n = 0.

    >>> wilson(0, 10).high < 0.31
    True
    """
    if n == 0:
        return undefined()
    z = float(ndtri((1 + level) / 2))
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Estimate(share, low, high, n, WILSON)


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """A share with its exact interval (Clopper and Pearson 1934); n > 0.

    >>> round(clopper_pearson(10, 10).low, 3)
    0.692
    """
    low, high = _exact_ends(successes, n, level)
    return Estimate(successes / n, low, high, n, EXACT)


def _exact_ends(successes: float, n: float, level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low = float(betaincinv(successes, n - successes + 1, tail)) if successes > 0 else 0.0
    high = float(betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return low, high


def bounded(mean: float, variance: float, n: int, level: float = 0.95) -> Estimate:
    r"""The mean of n numbers in [0, 1] with the exact interval of a share of as many images as it is worth.

    .. math:: n^* = n \frac{\bar x (1 - \bar x)}{s^2}

    in the place of n (Korn and Graubard 1998): a 0/1 number is worth one image each, and so are n equal ones at an end.

    Args:
        mean, variance: of the numbers, the variance with divisor n - 1.
        n: how many, at least two.

    >>> bounded(1.0, 0.0, 10).low == clopper_pearson(10, 10).low
    True
    >>> found = bounded(0.5, 0.0025, 100)
    >>> round(found.low, 2), round(found.high, 2)
    (0.49, 0.51)
    """
    most = mean * (1 - mean)
    # never less than n images, nor more than n of each: a variance of nearly 0 is no knowledge of its size
    worth = n * min(max(most / variance, 1.0), float(n)) if variance > 0 else float(n) if most == 0 else float(n * n)
    low, high = _exact_ends(mean * worth, worth, level)
    return Estimate(mean, low, high, n, BOUNDED)


def exactly(share: Estimate, level: float) -> Estimate:
    """Of a single share the exact interval in Wilson's place: sums of squares of Wilson's fall short near 0 and 1."""
    if share.method != WILSON:
        return share
    return clopper_pearson(round(share.value * share.n), share.n, level)


def squares_added(parts: Sequence[Estimate], mean: float, correlations: Floats | None = None) -> tuple[float, float]:
    r"""The ends of the interval of a mean of estimates, from the ends of their own.

    .. math:: \bar p - \frac1K \sqrt{\sum_{jk} r_{jk} (p_j - l_j)(p_k - l_k)}

    and above likewise (Newcombe 1998, for differences of shares; Zou and Donner 2008).

    Args:
        parts: K estimates with intervals.
        mean: theirs.
        correlations: r between the estimates, shape :math:`(K, K)`; None = they are independent.

    >>> low, high = squares_added([clopper_pearson(9, 10), clopper_pearson(90, 100)], 0.9)
    >>> round(low, 3), round(high, 3)
    (0.723, 0.955)
    """
    together = np.eye(len(parts)) if correlations is None else correlations
    below = np.array([part.value - part.low for part in parts])
    above = np.array([part.high - part.value for part in parts])
    # summed exactly: the order of the parts does not matter
    down, up = (math.fsum((np.outer(d, d) * together).ravel()) for d in (below, above))
    return mean - math.sqrt(max(down, 0.0)) / len(parts), mean + math.sqrt(max(up, 0.0)) / len(parts)


def correlations_of(draws: Sequence[Floats]) -> Floats:
    """Of several values' draws, those resamples left out in which one is undefined.

    1 where a value never varies: errors that were not seen may all be of the same images.
    """
    stack = np.stack(draws)
    stack = stack[:, ~np.isnan(stack).any(axis=0)]
    if stack.shape[1] < 2:
        return np.ones((len(stack), len(stack)))
    off = stack - stack.mean(axis=1, keepdims=True)
    # one by one: a matrix product's bits depend on the place of a row
    products = np.array([[float((a * b).sum()) for b in off] for a in off])
    norms = np.outer(np.sqrt(products.diagonal()), np.sqrt(products.diagonal()))
    found: Floats = np.divide(products, norms, out=np.ones_like(products), where=norms > 0)
    np.fill_diagonal(found, 1.0)
    return found
