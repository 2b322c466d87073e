r"""Estimates over images with their 95% confidence intervals.

The image is the unit of resampling. An estimate keeps the draws that its interval was computed from (``Resampled``), so
that means over characteristics and differences are computed draw by draw, on the same resamples.

Choice of interval (coverage: docs/metrics.md, section 0, and tests/statistics/test_coverage.py):

- means and smooth functions of totals: percentile bootstrap; BCa if fewer than 300 images enter;
- ratios of means: symmetric studentised bootstrap on the log scale, which covers skewed terms better than percentile
  and BCa intervals; Fieller's interval if a numerator or denominator is not positive in every resample;
- proportions of images: Wilson; means of proportions: the exact intervals combined (``mover_interval``);
- means of one share per image (``kept``, ``transfer``): exact interval at the effective number of images
  (``korn_graubard``);
- statistics that sampling noise biases in one direction (overlap, divergences, calibration error): basic bootstrap,
  which subtracts their bias once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np
from scipy.special import betaincinv, ndtr, ndtri, stdtrit

from ccvae_eval.core.results import Estimate, Method, undefined
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.statistics.ratios import safe_ratio
from ccvae_eval.statistics.resampling import ResampleWeights, Table, blocks_of, table_of


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
    return Estimate(share, low, high, n, Method.WILSON)


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Proportion with its exact interval (Clopper and Pearson 1934); n > 0.

    >>> round(clopper_pearson(10, 10).low, 3)
    0.692
    """
    low, high = _exact_ends(successes, n, level)
    return Estimate(successes / n, low, high, n, Method.EXACT)


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
    return Estimate(mean, low, high, n, Method.KORN_GRAUBARD)


def with_exact_interval(share: Estimate, level: float) -> Estimate:
    """Replaces Wilson's interval by the exact one, because combined Wilson intervals are too short near 0 and 1."""
    if share.method != Method.WILSON:
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
    found = safe_ratio(products, norms, 1.0)
    np.fill_diagonal(found, 1.0)
    return found


SMALL_SAMPLE = 300
"""Number of images below which BCa replaces the percentile interval."""

MIN_IMAGES = 8
"""Least number of images for an interval."""

MAX_UNDEFINED = 0.01
"""Largest share of undefined resamples (a class without images) for which there is an interval."""


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    r"""An estimate with the resamples that its interval was computed from.

    Args:
        estimate: value, interval, count and method.
        draws: value in each resample, shape :math:`(B,)`; NaN for a resample without images of a class.
        note: reason why the value or its interval is undefined; "" otherwise.
        leave_one_out: value without image i, shape :math:`(N,)`, if fewer than 300 images enter.
        beyond_draws: how far the interval of a mean extends below and above that of its draws, because the draws of
            some parts do not vary although the parts have exact intervals.
    """

    estimate: Estimate
    draws: Floats
    note: str = ""
    leave_one_out: Floats | None = None
    beyond_draws: tuple[float, float] = (0.0, 0.0)

    @property
    def value(self) -> float:
        return self.estimate.value

    @property
    def defined(self) -> bool:
        return self.estimate.defined


def undefined_estimate(draws: int, note: str, n: int = 0) -> Resampled:
    """An undefined value with its reason; all ``draws`` resamples are NaN."""
    return Resampled(undefined(n), np.full(draws, np.nan), note)


def estimate_from_draws(
    value: float, draws: Floats, n: int, level: float, leave_one_out: Floats | None = None, *, basic: bool = False
) -> Resampled:
    r"""The value with the confidence interval of its draws: percentile, BCa or basic bootstrap.

    Args:
        value: value on all images; NaN = undefined.
        draws: value in each resample, shape :math:`(B,)`; NaN ones are dropped. There is no interval if they are more
            than 1%.
        n: number of images that enter; there is no interval below 8.
        level: confidence level.
        leave_one_out: values without each image; selects BCa (Efron 1987, "Better bootstrap confidence intervals"). The
            interval is extended to the value if it excludes it, as for a distance near 0 that every resample exceeds.
        basic: selects the basic bootstrap, which reflects the draws at the value (2 value - draw) and so subtracts the
            statistic's bias; extended to the value if it excludes it.
    """
    lost = int(np.isnan(draws).sum())
    if math.isnan(value):
        return Resampled(undefined(n), draws, "undefined on these images", leave_one_out)
    if n < MIN_IMAGES or lost > MAX_UNDEFINED * len(draws):
        reason = f"{n} images" if n < MIN_IMAGES else f"{lost} of {len(draws)} resamples undefined"
        return Resampled(Estimate(value, n=n), draws, f"no interval: {reason}", leave_one_out)
    kept = draws[~np.isnan(draws)]
    tail = (1 - level) / 2
    if basic:
        low, high = 2 * value - np.quantile(kept, [1 - tail, tail])
        # a bias greater than the half-width would exclude the value
        low, high = min(low, value), max(high, value)
        return Resampled(Estimate(value, float(low), float(high), n, Method.BASIC), draws, "", leave_one_out)
    if leave_one_out is None:
        levels, method = np.array([tail, 1 - tail]), Method.BOOTSTRAP
    else:
        levels, method = _bca_levels(value, kept, leave_one_out, tail), Method.BCA
    low, high = np.quantile(kept, levels)
    if leave_one_out is not None:
        low, high = min(low, value), max(high, value)
    return Resampled(Estimate(value, float(low), float(high), n, method), draws, "", leave_one_out)


def _bca_levels(value: float, draws: Floats, leave_one_out: Floats, tail: float) -> Floats:
    """Quantile levels of BCa: bias correction z0, acceleration from the jackknife."""
    share = ((draws < value).mean() + (draws <= value).mean()) / 2
    half_a_draw = 0.5 / len(draws)
    bias = ndtri(np.clip(share, half_a_draw, 1 - half_a_draw))
    off = leave_one_out.mean() - leave_one_out
    spread = float((off**2).sum())
    acceleration = float((off**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    wanted = bias + ndtri(np.array([tail, 1 - tail]))
    return np.asarray(ndtr(bias + wanted / (1 - acceleration * wanted)))


def column_sums(table: Table) -> tuple[int, Floats]:
    """Number of images with a number in any column, and the sums of the columns; bits as if added image by image."""
    n, total = 0, np.zeros(table.columns)
    for block in [table.rows(slice(None))] if table.columns == 1 else blocks_of(table):  # NumPy adds a column in pairs
        present, rows = _present(block)
        total = (np.concatenate([total[None], rows]) if n else rows).sum(axis=0)
        n += int(present.sum())
    return n, total


def _present(block: Floats) -> tuple[Bools, Floats]:
    """Mask of the rows that have a number, and these rows with 0 in place of NaN."""
    present = np.asarray(~np.isnan(block).all(axis=1))
    return present, np.nan_to_num(block[present], copy=False, nan=0.0, posinf=np.inf, neginf=-np.inf)


def bootstrap_estimate(
    statistic: Callable[[Floats], Floats], values: Floats | Table, weights: ResampleWeights, *, basic: bool = False
) -> Resampled:
    r"""A smooth function of weighted totals over the images, with its bootstrap confidence interval.

    Args:
        statistic: maps totals, shape :math:`(B, C)`, to values, shape :math:`(B,)`; NaN = undefined (such as 0 / 0).
        values: one row for each image, shape :math:`(N, C)`; NaN = absent. The denominators of the statistic must be
            among the columns (for a count: a column of ones, NaN where absent).
        weights: the run's resamples.
        basic: see ``estimate_from_draws``.

    >>> rows = np.column_stack([np.arange(10.0), np.ones(10)])
    >>> bootstrap_estimate(lambda t: t[:, 0] / t[:, 1], rows, ResampleWeights(0, 10)).value
    4.5
    """
    table = table_of(values)
    n, total = column_sums(table)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(total[None])[0]) if n else math.nan
        if not math.isfinite(value):
            return undefined_estimate(weights.draws, "undefined on these images" if n else "no images", n)
        draws = _finite(statistic(weights.totals(table)))
        without = None
        if n < SMALL_SAMPLE and not basic:
            present, rows = zip(*map(_present, blocks_of(table)), strict=True)
            without = np.full(table.n, value)
            without[np.concatenate(present)] = statistic(total - np.concatenate(rows))
            without[~np.isfinite(without)] = value
    return estimate_from_draws(value, draws, n, weights.level, without, basic=basic)


def centred_and_basic(found: Resampled, level: float, least: float = 0.0, most: float = math.inf) -> Resampled:
    r"""Extends a basic interval to that of the draws centred on the value, and clips it to [``least``, ``most``].

    For statistics with a one-sided bias whose size depends on the truth, such as sums of absolute deviations. The
    interval always contains the value; the draws become the centred ones.
    """
    if math.isnan(found.estimate.low):
        return found
    centred = found.value + found.draws - np.nanmean(found.draws)
    low, high = np.nanquantile(centred, [(1 - level) / 2, (1 + level) / 2])
    ends = min(low, found.estimate.low), max(high, found.estimate.high)
    low, high = (float(np.clip(end, least, most)) for end in ends)
    low, high = min(low, found.value), max(high, found.value)
    return Resampled(Estimate(found.value, low, high, found.estimate.n, Method.CENTRED), centred)


def _finite(draws: Floats) -> Floats:
    return np.where(np.isfinite(draws), draws, np.nan)


def mean_estimate(values: Floats, weights: ResampleWeights) -> Resampled:
    r"""Mean over images of one number each, shape :math:`(N,)`; NaN = the image does not enter.

    The interval of constant values has width 0: use ``proportion_estimate`` for values 0 and 1.
    """

    def rows(block: slice) -> Floats:
        part = values[block]
        return np.column_stack([part, np.where(np.isnan(part), np.nan, 1.0)])

    return bootstrap_estimate(lambda totals: totals[:, 0] / totals[:, 1], Table(len(values), 2, rows), weights)


def difference_of_means(values: Floats, others: Floats, weights: ResampleWeights) -> Resampled:
    r"""Mean over the run's images minus that over other images, shapes :math:`(N,)` and :math:`(M,)`, no NaN.

    Welch's interval, because the run's resamples do not contain the other images.
    """
    n, m = len(values), len(others)
    value = float(values.mean() - others.mean()) if n and m else math.nan
    no_draws = np.full(weights.draws, np.nan)
    if math.isnan(value) or min(n, m) < MIN_IMAGES:
        note = f"{min(n, m)} images" if math.isnan(value) else f"no interval: {min(n, m)} images"
        return Resampled(Estimate(value, n=n), no_draws, note)
    a, b = float(values.var(ddof=1)) / n, float(others.var(ddof=1)) / m
    freedom = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1)) if a + b > 0 else float(n + m - 2)
    reach = float(stdtrit(freedom, (1 + weights.level) / 2)) * math.sqrt(a + b)
    return Resampled(Estimate(value, value - reach, value + reach, n, Method.WELCH), no_draws)


def ratio_estimate(numerator: Floats, denominator: Floats, weights: ResampleWeights) -> Resampled:
    r"""Ratio of two sums over the images that have both terms, with its confidence interval.

    .. math:: r = \sum_i u_i / \sum_i v_i

    The interval is a symmetric studentised bootstrap on the log scale. The quantile of
    :math:`|\log r^* - \log r| / s^*` over the resamples, with s* by the delta method from the resample's own second
    moments, is the half-width in units of s. If a numerator or denominator is not positive in every resample, the
    interval is that of Fieller (1954). An unbounded one, where the denominator may be 0, is left out.

    Args:
        numerator, denominator: shape :math:`(N,)`, NaN = the image does not enter.
        weights: the run's resamples.

    Returns:
        The ratio; undefined if the denominators sum to 0.
    """

    def rows(block: slice) -> Floats:
        both = ~(np.isnan(numerator[block]) | np.isnan(denominator[block]))
        u, v = np.where(both, [numerator[block], denominator[block]], np.nan)
        return np.column_stack([u, v, u * u, u * v, v * v, np.where(both, 1.0, np.nan)])

    table = Table(len(numerator), 6, rows)
    n, sums = column_sums(table)
    if not n or sums[1] == 0:
        return undefined_estimate(weights.draws, "the denominator is 0" if n else "no images", n)
    value = float(sums[0] / sums[1])
    totals = weights.totals(table)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = _finite(totals[:, 0] / totals[:, 1])
        whole = rows(slice(None)) if n < SMALL_SAMPLE else None
        without = None if whole is None else _finite((sums[0] - whole[:, 0]) / (sums[1] - whole[:, 1]))
    if without is not None:
        without[np.isnan(without)] = value
    if n < MIN_IMAGES:
        return estimate_from_draws(value, draws, n, weights.level, without)
    if sums[0] > 0 and sums[1] > 0 and bool((totals[:, :2] > 0).all()):
        low, high, method = *_log_interval(sums, totals, weights.level), Method.LOG_SCALE
    else:
        low, high, method = *_fieller(sums, weights.level), Method.FIELLER
    note = "no interval: the denominator may be 0" if math.isnan(low) else ""
    return Resampled(Estimate(value, low, high, n, Method.NONE if note else method), draws, note, without)


def _log_interval(sums: Floats, totals: Floats, level: float) -> tuple[float, float]:
    with np.errstate(divide="ignore", invalid="ignore"):
        centre, scale = _log_ratio(sums[None])
        logs, scales = _log_ratio(totals)
        # a resample of copies of one image has scale 0: its deviation counts as infinite
        steps = np.nan_to_num(np.abs(logs - centre) / scales, nan=0.0, posinf=np.inf)
    half = float(np.quantile(steps, level, method="higher") * scale[0]) if scale[0] > 0 else 0.0
    return float(np.exp(centre[0] - half)), float(np.exp(centre[0] + half))


def _log_ratio(totals: Floats) -> tuple[Floats, Floats]:
    """Logarithm of the ratio and its standard error (delta method) from totals of u, v, uu, uv, vv, 1."""
    u, v, uu, uv, vv, _ = totals.T
    ratio = u / v
    residual = uu - 2 * ratio * uv + ratio * ratio * vv
    # 0 below rounding: every image has the same ratio
    return np.log(ratio), np.sqrt(np.where(residual > 1e-12 * uu, residual, 0.0)) / u


def _fieller(sums: Floats, level: float) -> tuple[float, float]:
    """Fieller's interval: the r for which the mean of u - r v does not differ from 0; NaN if unbounded."""
    u, v, uu, uv, vv, n = (float(s) for s in sums)
    # turns a sum of squares about the mean into the greatest square of the sum
    factor = float(stdtrit(n - 1, (1 + level) / 2)) ** 2 * n / (n - 1)
    a = v * v - factor * (vv - v * v / n)
    b = u * v - factor * (uv - u * v / n)
    c = u * u - factor * (uu - u * u / n)
    inside = b * b - a * c
    if a <= 0 or inside < 0:
        return math.nan, math.nan
    return (b - math.sqrt(inside)) / a, (b + math.sqrt(inside)) / a


def proportion_estimate(values: Floats | Bools, weights: ResampleWeights) -> Resampled:
    r"""Proportion of images with value 1, with Wilson's interval; values 0, 1 or NaN = absent, shape :math:`(N,)`."""
    column = np.asarray(values, dtype=np.float64)
    mean = mean_estimate(column, weights)
    if not mean.defined:
        return mean
    estimate = wilson(round(np.nansum(column)), mean.estimate.n, weights.level)
    return Resampled(estimate, mean.draws, "", mean.leave_one_out)


def mean_proportion_estimate(values: Floats, weights: ResampleWeights, least: float = 0.0) -> Resampled:
    r"""Mean over images of numbers in [``least``, 1], shape :math:`(N,)`, NaN = absent.

    The interval is that of ``korn_graubard``; a bootstrap interval has width 0 where no image errs.
    """
    mean = mean_estimate(np.asarray(values, dtype=np.float64), weights)
    if not mean.defined or mean.estimate.n < MIN_IMAGES:
        return mean
    scaled = (np.asarray(values, dtype=np.float64) - least) / (1 - least)
    found = korn_graubard(float(np.nanmean(scaled)), float(np.nanvar(scaled, ddof=1)), mean.estimate.n, weights.level)
    low, high = (least + (1 - least) * end for end in (found.low, found.high))
    estimate = Estimate(mean.value, low, high, found.n, found.method)
    return Resampled(estimate, mean.draws, "", mean.leave_one_out)


def mean_over(parts: Sequence[Resampled], level: float = 0.95) -> Resampled:
    """Mean of several estimates, such as those of the characteristics; undefined ones are left out.

    The interval comes from the parts' draws, which must belong to the same resamples. Parts whose draws do not vary,
    such as the areas of perfectly separated classes, extend it by the mean distance to their exact bounds: their
    errors, of which none was observed, may all lie in the same images. Means of proportions use ``mover_interval``.
    The result has equal bits for every order of the parts.
    """
    defined = [part for part in parts if part.defined]
    found = _combined(defined, _sorted_mean, level, parts)
    if _method_of(defined) == Method.MOVER:
        if len(defined) == 1:
            return defined[0]
        exact = [with_exact_interval(part.estimate, level) for part in defined]
        low, high = mover_interval(exact, found.value, correlations_of([part.draws for part in defined]))
        return replace(found, estimate=Estimate(found.value, low, high, found.estimate.n, Method.MOVER), note="")
    if math.isnan(found.estimate.low):
        return found
    below, above = (float(end) for end in _sorted_mean(np.array([_beyond_draws(part) for part in defined])))
    if not below and not above:
        return found
    low, high = found.estimate.low - below, found.estimate.high + above
    methods = {part.estimate.method for part in defined if part.estimate.low < part.estimate.high}
    vary = found.estimate.low < found.estimate.high
    method = Method.EXTENDED if vary or len(methods) > 1 else methods.pop()
    return replace(
        found, estimate=replace(found.estimate, low=low, high=high, method=method), beyond_draws=(below, above)
    )


def _beyond_draws(part: Resampled) -> tuple[float, float]:
    """How far the interval of a part of a mean extends below and above that of its draws."""
    estimate = part.estimate
    same = part.draws[~np.isnan(part.draws)] == estimate.value
    if not same.all() or not estimate.low <= estimate.value <= estimate.high:
        return part.beyond_draws
    return estimate.value - estimate.low, estimate.high - estimate.value


def _sorted_mean(stack: Floats) -> Floats:
    """Mean of the parts, added from the smallest up, so that the order of the parts does not change a bit."""
    return np.asarray(np.sort(stack, axis=0).mean(axis=0))


def difference(one: Resampled, other: Resampled, level: float = 0.95) -> Resampled:
    """One estimate minus another on the same images, draw by draw; undefined if either is."""
    parts = [one, other] if one.defined and other.defined else []
    return _combined(parts, lambda stack: stack[0] - stack[1], level, [one, other])


def _combined(
    parts: Sequence[Resampled], combine: Callable[[Floats], Floats], level: float, given: Sequence[Resampled]
) -> Resampled:
    if not parts:
        return undefined_estimate(len(given[0].draws) if given else 0, "undefined for every part")
    value = float(combine(np.array([part.value for part in parts])))
    draws = combine(np.stack([part.draws for part in parts]))
    without = [part.leave_one_out for part in parts if part.leave_one_out is not None]
    n = max(part.estimate.n for part in parts)
    jackknife = combine(np.stack(without)) if len(without) == len(parts) else None
    lacking = sum(bool(np.isnan(part.draws).all()) for part in parts)
    if lacking:
        note = f"no interval: {lacking} of {len(parts)} parts lack one"
        return Resampled(Estimate(value, n=n), np.full_like(draws, np.nan), note, jackknife)
    return estimate_from_draws(value, draws, n, level, jackknife, basic=_method_of(parts) == Method.BASIC)


def _method_of(parts: Sequence[Resampled]) -> Method:
    return Method.of_mean(part.estimate.method for part in parts)


def worst_of(parts: Sequence[Estimate], *, higher_is_better: bool, level: float = 0.95) -> Estimate:
    r"""The worst of the values of K classes, with a confidence interval that holds although the class was selected.

    For a value that is better if higher, the lower end is the least lower end of the classes: it exceeds the true worst
    value only if the interval of the truly worst class does. The upper end is the least upper end after Bonferroni's
    correction for K classes.

    Args:
        parts: estimates of independent classes.
        higher_is_better: direction of the value.
        level: confidence level of their intervals.

    Returns:
        The estimate of the worst class; without an interval if a class has none.

    >>> worst_of([wilson(9, 10), wilson(50, 100)], higher_is_better=True).value
    0.5
    """
    worst = (min if higher_is_better else max)(parts, key=lambda part: part.value)
    if any(math.isnan(part.low) for part in parts):
        return Estimate(worst.value, n=worst.n)
    wider = _wider(len(parts), level)
    if higher_is_better:
        low, high = min(p.low for p in parts), min(p.value + wider * (p.high - p.value) for p in parts)
    else:
        low, high = max(p.value - wider * (p.value - p.low) for p in parts), max(p.high for p in parts)
    return Estimate(worst.value, low, high, worst.n, Method.CLASSES)


def gap_between(parts: Sequence[Estimate], level: float = 0.95) -> Estimate:
    r"""The largest value of K classes minus the smallest one, with its confidence interval.

    The classes share no image, so the interval of a difference follows from those of both sides (Newcombe 1998):

    .. math:: L_{ab} = d_{ab} - \sqrt{(p_a - l_a)^2 + (u_b - p_b)^2}, \quad
        U_{ab} = d_{ab} + \sqrt{(u_a - p_a)^2 + (p_b - l_b)^2}

    The gap is the largest difference of all pairs. Its interval reaches from the largest :math:`L_{ab}`, with
    Bonferroni's correction for the pairs, or 0, to the largest :math:`U_{ab}`. For two classes it is the interval of
    the difference without its sign.

    Args:
        parts: estimates of independent classes.
        level: confidence level of their intervals.

    Returns:
        The gap, at least 0; without an interval if a class has none.

    >>> found = gap_between([wilson(90, 100), wilson(60, 100)])
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (0.3, 0.183, 0.408)
    """
    n = sum(part.n for part in parts)
    values = [part.value for part in parts]
    if any(math.isnan(part.low) for part in parts):
        return Estimate(max(values) - min(values), n=n)
    wider, lows, highs = _wider(math.comb(len(parts), 2), level), [0.0], []
    for a, b in permutations(parts, 2):
        difference = a.value - b.value
        lows.append(difference - wider * math.hypot(a.value - a.low, b.high - b.value))
        highs.append(difference + math.hypot(a.high - a.value, b.value - b.low))
    return Estimate(max(values) - min(values), max(lows), max(highs), n, Method.CLASSES)


def _wider(count: int, level: float) -> float:
    """Factor by which Bonferroni's correction for ``count`` ends widens a normal interval."""
    tail = (1 - level) / 2
    return float(ndtri(1 - tail / count) / ndtri(1 - tail))
