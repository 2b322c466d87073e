"""Confidence intervals of proportions of images, and of means of proportions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import betaincinv, ndtri

from ccvae_eval.core.results import Estimate, undefined
from ccvae_eval.core.types import Floats

WILSON = "wilson"
EXACT = "exact"
MOVER = "exact, squares added"
KORN_GRAUBARD = "exact, effective images"
CLOSED_FORM = {WILSON, MOVER, KORN_GRAUBARD}
"""Methods in closed form: means over such estimates use ``mover_interval``."""


def wilson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Proportion with Wilson's score interval (1927); undefined for n = 0.

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
    """Proportion with its exact interval (Clopper and Pearson 1934); n > 0.

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


def korn_graubard(mean: float, variance: float, n: int, level: float = 0.95) -> Estimate:
    r"""Mean of n numbers in [0, 1] with the exact interval at its effective number of images.

    .. math:: n^* = n \frac{\bar x (1 - \bar x)}{s^2}

    replaces n in the interval of Clopper and Pearson (Korn and Graubard 1998). For numbers 0 and 1, and for n equal
    numbers 0 or 1, n* = n.

    Args:
        mean, variance: of the numbers; the variance has divisor n - 1.
        n: count of the numbers, at least two.

    >>> korn_graubard(1.0, 0.0, 10).low == clopper_pearson(10, 10).low
    True
    >>> found = korn_graubard(0.5, 0.0025, 100)
    >>> round(found.low, 2), round(found.high, 2)
    (0.49, 0.51)
    """
    most = mean * (1 - mean)
    # between n and n * n: a variance near 0 is estimated too poorly to trust
    effective = (
        n * min(max(most / variance, 1.0), float(n)) if variance > 0 else float(n) if most == 0 else float(n * n)
    )
    low, high = _exact_ends(mean * effective, effective, level)
    return Estimate(mean, low, high, n, KORN_GRAUBARD)


def with_exact_interval(share: Estimate, level: float) -> Estimate:
    """Replaces Wilson's interval by the exact one, because combined Wilson intervals are too short near 0 and 1."""
    if share.method != WILSON:
        return share
    return clopper_pearson(round(share.value * share.n), share.n, level)


def mover_interval(parts: Sequence[Estimate], mean: float, correlations: Floats | None = None) -> tuple[float, float]:
    r"""Interval of a mean of estimates from their own intervals (MOVER, the method of variance estimates recovery).

    The lower limit is

    .. math:: \bar p - \frac1K \sqrt{\sum_{jk} r_{jk} (p_j - l_j)(p_k - l_k)}

    with l the lower limits of the parts; the upper limit likewise (Newcombe 1998, for differences of proportions; Zou
    and Donner 2008).

    Args:
        parts: K estimates with intervals.
        mean: mean of the estimates.
        correlations: r between the estimates, shape :math:`(K, K)`; None = independent.

    Returns:
        The lower and the upper limit.

    >>> low, high = mover_interval([clopper_pearson(9, 10), clopper_pearson(90, 100)], 0.9)
    >>> round(low, 3), round(high, 3)
    (0.723, 0.955)
    """
    together = np.eye(len(parts)) if correlations is None else correlations
    below = np.array([part.value - part.low for part in parts])
    above = np.array([part.high - part.value for part in parts])
    # exact sums, which do not depend on the order of the parts
    down, up = (math.fsum((np.outer(d, d) * together).ravel()) for d in (below, above))
    return mean - math.sqrt(max(down, 0.0)) / len(parts), mean + math.sqrt(max(up, 0.0)) / len(parts)


def correlations_of(draws: Sequence[Floats]) -> Floats:
    """Correlations of K estimates over their draws, without the resamples in which one is undefined; shape (K, K).

    1 for an estimate that never varies: its errors, of which none was observed, may all lie in the same images.
    """
    stack = np.stack(draws)
    stack = stack[:, ~np.isnan(stack).any(axis=0)]
    if stack.shape[1] < 2:
        return np.ones((len(stack), len(stack)))
    off = stack - stack.mean(axis=1, keepdims=True)
    # pair by pair, because the bits of a matrix product depend on the position of a row
    products = np.array([[float((a * b).sum()) for b in off] for a in off])
    norms = np.outer(np.sqrt(products.diagonal()), np.sqrt(products.diagonal()))
    found: Floats = np.divide(products, norms, out=np.ones_like(products), where=norms > 0)
    np.fill_diagonal(found, 1.0)
    return found
