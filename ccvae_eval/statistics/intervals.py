r"""From one row for each image to a value with its 95 % interval.

The unit is the image. Values come with the draws that made their interval (``Resampled``), so that means over
characteristics and differences are formed draw by draw, on the same resamples.

Which interval, and why (coverage of a nominal 95 %, 1,000 to 2,000 repeats, see the coverage tests):

- means and smooth functions of totals: percentile bootstrap; BCa where fewer than 300 images enter;
- ratios of means: symmetric studentised bootstrap on the log scale. With skewed (log-normal) terms it covers .945 to
  .957 at n = 30, 100 and 300, where the percentile interval covers .91 to .95 and BCa .88 to .95. Where a numerator or
  denominator is not positive in every resample: Fieller's interval;
- shares of images: Wilson; means of shares (balanced accuracy, means over characteristics): the exact ends' distances
  (Clopper and Pearson 1934) squared and added (``squares_added``). A class of 20 images told with probability .97
  beside one of 400 told with .9: covers .98, the bootstrap .74, since where none of the 20 is told wrongly it thinks it
  sure;
  means of 2 to 18 shares of .8 to .995: .91 to .98, with Wilson's ends .88 to .96;
- means of each image's share (``kept``, ``transfer``): the exact interval at the number of images that they are worth
  (``bounded``): covers .94 to .99, the bootstrap .65 to .96;
- statistics that more noise drives one way (overlap, divergences, calibration error): the basic bootstrap interval,
  which takes their bias off once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from ccvae_eval.core.results import Estimate, undefined
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.statistics.proportions import (
    CLOSED,
    SQUARES_ADDED,
    bounded,
    correlations_of,
    exactly,
    squares_added,
    wilson,
)
from ccvae_eval.statistics.resampling import ResampleWeights

SMALL = 300
"""Below so many images percentile intervals are replaced by BCa."""

FEWEST = 8
"""Below so many images no interval is given."""

BASIC = "basic bootstrap"

LOST = 0.01
"""The share of resamples that may be undefined (a class lost); beyond, there is no interval."""


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    r"""An estimate beside what its interval was made of.

    Args:
        estimate: value, interval, count and method.
        draws: the value in each resample, shape :math:`(B,)`; NaN where a resample has lost a class.
        note: why the value or its interval is undefined; "" otherwise.
        leave_one_out: the value without image i, shape :math:`(N,)`, where fewer than 300 images entered.
    """

    estimate: Estimate
    draws: Floats
    note: str = ""
    leave_one_out: Floats | None = None

    @property
    def value(self) -> float:
        return self.estimate.value

    @property
    def defined(self) -> bool:
        return self.estimate.defined


def missing(draws: int, note: str, n: int = 0) -> Resampled:
    """The value that does not exist, with its reason."""
    return Resampled(undefined(n), np.full(draws, np.nan), note)


def resampled(
    value: float, draws: Floats, n: int, level: float, leave_one_out: Floats | None = None, *, basic: bool = False
) -> Resampled:
    r"""The interval that the draws give: percentile, or BCa where ``leave_one_out`` is given, or ``basic``.

    Args:
        value: the value on all images; NaN is undefined.
        draws: its resamples, shape :math:`(B,)`; NaN ones are dropped. Above 1 % there is no interval.
        n: how many images entered; below 8 there is no interval.
        level: 0.95.
        leave_one_out: values without each image; calls for BCa (Efron 1987, "Better bootstrap confidence intervals").
            Drawn out to the value where it would exclude it: that of a distance near 0, of which every resample is
            greater, would lie below it altogether.
        basic: reflects the draws at the value (2 value - draw), which takes a bias of the statistic off; where the
            interval would exclude the value it is drawn out to it.
    """
    lost = int(np.isnan(draws).sum())
    if math.isnan(value):
        return Resampled(undefined(n), draws, "undefined on these images", leave_one_out)
    if n < FEWEST or lost > LOST * len(draws):
        note = f"no interval: {n} images" if n < FEWEST else f"no interval: {lost} of {len(draws)} resamples undefined"
        return Resampled(Estimate(value, n=n), draws, note, leave_one_out)
    kept = draws[~np.isnan(draws)]
    tail = (1 - level) / 2
    if basic:
        low, high = 2 * value - np.quantile(kept, [1 - tail, tail])
        # where the bias exceeds the half-width the reflected interval would exclude the very value it belongs to
        low, high = min(low, value), max(high, value)
        return Resampled(Estimate(value, float(low), float(high), n, BASIC), draws, "", leave_one_out)
    if leave_one_out is None:
        levels, method = np.array([tail, 1 - tail]), "bootstrap"
    else:
        levels, method = _bca_levels(value, kept, leave_one_out, tail), "BCa"
    low, high = np.quantile(kept, levels)
    if leave_one_out is not None:
        low, high = min(low, value), max(high, value)
    return Resampled(Estimate(value, float(low), float(high), n, method), draws, "", leave_one_out)


def _bca_levels(value: float, draws: Floats, leave_one_out: Floats, tail: float) -> Floats:
    """Levels at which to read the draws: bias correction z0, acceleration from the jackknife."""
    share = ((draws < value).mean() + (draws <= value).mean()) / 2
    half_a_draw = 0.5 / len(draws)
    bias = ndtri(np.clip(share, half_a_draw, 1 - half_a_draw))
    off = leave_one_out.mean() - leave_one_out
    spread = float((off**2).sum())
    acceleration = float((off**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    wanted = bias + ndtri(np.array([tail, 1 - tail]))
    return np.asarray(ndtr(bias + wanted / (1 - acceleration * wanted)))


def bootstrap_estimate(
    statistic: Callable[[Floats], Floats], values: Floats, weights: ResampleWeights, *, basic: bool = False
) -> Resampled:
    r"""A smooth function of weighted totals over the images.

    Args:
        statistic: totals, shape :math:`(B, C)`, to values, shape :math:`(B,)`; NaN where undefined (0 / 0 is).
        values: one row for each image, shape :math:`(N, C)`; NaN = absent. Whatever the statistic must divide by has
            to be among the columns (a column of ones, masked, for a count).
        weights: the run's resamples.
        basic: see ``resampled``.

    >>> rows = np.column_stack([np.arange(10.0), np.ones(10)])
    >>> bootstrap_estimate(lambda t: t[:, 0] / t[:, 1], rows, ResampleWeights(0, 10)).value
    4.5
    """
    table = np.asarray(values, dtype=np.float64)
    present = ~np.isnan(table).all(axis=1)
    n = int(present.sum())
    rows = np.nan_to_num(table[present], nan=0.0, posinf=np.inf, neginf=-np.inf)
    total = rows.sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(total[None])[0]) if n else math.nan
        if not math.isfinite(value):
            return missing(weights.draws, "undefined on these images" if n else "no image", n)
        draws = _finite(statistic(weights.totals(table)))
        without = None
        if n < SMALL and not basic:
            without = np.full(len(table), value)
            without[present] = statistic(total - rows)
            without[~np.isfinite(without)] = value
    return resampled(value, draws, n, weights.level, without, basic=basic)


def centred_and_basic(found: Resampled, level: float, least: float = 0.0, most: float = math.inf) -> Resampled:
    r"""A basic interval drawn out to the ends of the one whose draws are centred on the value, and cut to a range.

    For what noise drives one way, and by how much depends on the truth (sums of absolute deviations). The value itself
    is never cut off; the draws become the centred ones.
    """
    if math.isnan(found.estimate.low):
        return found
    centred = found.value + found.draws - np.nanmean(found.draws)
    low, high = np.nanquantile(centred, [(1 - level) / 2, (1 + level) / 2])
    ends = min(low, found.estimate.low), max(high, found.estimate.high)
    low, high = (float(np.clip(end, least, most)) for end in ends)
    low, high = min(low, found.value), max(high, found.value)
    return Resampled(Estimate(found.value, low, high, found.estimate.n, "centred and basic bootstrap"), centred)


def _finite(draws: Floats) -> Floats:
    return np.where(np.isfinite(draws), draws, np.nan)


def mean_estimate(values: Floats, weights: ResampleWeights) -> Resampled:
    r"""The mean over images, shape :math:`(N,)`; NaN = the image does not enter.

    Constant values have an interval of no width: use ``share_estimate`` for 0 and 1.
    """
    rows = np.column_stack([values, np.where(np.isnan(values), np.nan, 1.0)])
    return bootstrap_estimate(lambda totals: totals[:, 0] / totals[:, 1], rows, weights)


def difference_of_means(values: Floats, others: Floats, weights: ResampleWeights) -> Resampled:
    r"""The mean over the run's images less that over other images, shape :math:`(N,)` and :math:`(M,)`; no NaN.

    The interval is Welch's: the other images belong to no resample of the run.
    """
    n, m = len(values), len(others)
    value = float(values.mean() - others.mean()) if n and m else math.nan
    nothing = np.full(weights.draws, np.nan)
    if math.isnan(value) or min(n, m) < FEWEST:
        note = f"{min(n, m)} images" if math.isnan(value) else f"no interval: {min(n, m)} images"
        return Resampled(Estimate(value, n=n), nothing, note)
    a, b = float(values.var(ddof=1)) / n, float(others.var(ddof=1)) / m
    freedom = (a + b) ** 2 / (a**2 / (n - 1) + b**2 / (m - 1)) if a + b > 0 else float(n + m - 2)
    reach = float(stdtrit(freedom, (1 + weights.level) / 2)) * math.sqrt(a + b)
    return Resampled(Estimate(value, value - reach, value + reach, n, "welch"), nothing)


def ratio_estimate(numerator: Floats, denominator: Floats, weights: ResampleWeights) -> Resampled:
    r"""Sum of the numerators over sum of the denominators, of the images that have both.

    The interval is a symmetric studentised bootstrap on the log scale: with :math:`r = \bar u / \bar v`, each
    resample's :math:`|\log r^* - \log r| / s^*`, s* by the delta method from the resample's own second moments, gives
    the half-width in units of s. Where a resample's numerator or denominator is not positive: Fieller (1954); where
    the denominator may be 0, Fieller's interval is unbounded and none is given.

    Args:
        numerator, denominator: shape :math:`(N,)`.
        weights: the run's resamples.
    """
    both = ~(np.isnan(numerator) | np.isnan(denominator))
    u, v = np.where(both, [numerator, denominator], np.nan)
    rows = np.column_stack([u, v, u * u, u * v, v * v, np.where(both, 1.0, np.nan)])
    n = int(both.sum())
    sums = np.nansum(rows, axis=0)
    if not n or sums[1] == 0:
        return missing(weights.draws, "the denominator is 0" if n else "no image", n)
    value = float(sums[0] / sums[1])
    totals = weights.totals(rows)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = _finite(totals[:, 0] / totals[:, 1])
        without = None if n >= SMALL else _finite((sums[0] - rows[:, 0]) / (sums[1] - rows[:, 1]))
    if without is not None:
        without[np.isnan(without)] = value
    if n < FEWEST:
        return resampled(value, draws, n, weights.level, without)
    if sums[0] > 0 and sums[1] > 0 and bool((totals[:, :2] > 0).all()):
        low, high, method = *_log_interval(sums, totals, weights.level), "log-scale bootstrap"
    else:
        low, high, method = *_fieller(sums, weights.level), "Fieller"
    note = "no interval: the denominator may be 0" if math.isnan(low) else ""
    return Resampled(Estimate(value, low, high, n, "" if note else method), draws, note, without)


def _log_interval(sums: Floats, totals: Floats, level: float) -> tuple[float, float]:
    with np.errstate(divide="ignore", invalid="ignore"):
        centre, scale = _log_ratio(sums[None])
        drawn, scales = _log_ratio(totals)
        # a resample of one image over and over has no scale: its deviation counts as boundless
        steps = np.nan_to_num(np.abs(drawn - centre) / scales, nan=0.0, posinf=np.inf)
    half = float(np.quantile(steps, level, method="higher") * scale[0]) if scale[0] > 0 else 0.0
    return float(np.exp(centre[0] - half)), float(np.exp(centre[0] + half))


def _log_ratio(totals: Floats) -> tuple[Floats, Floats]:
    """log of the ratio and its standard error by the delta method; columns u, v, uu, uv, vv, 1."""
    u, v, uu, uv, vv, _ = totals.T
    ratio = u / v
    residual = uu - 2 * ratio * uv + ratio * ratio * vv
    # below the rounding of its terms it is 0: the ratio is the same for every image
    return np.log(ratio), np.sqrt(np.where(residual > 1e-12 * uu, residual, 0.0)) / u


def _fieller(sums: Floats, level: float) -> tuple[float, float]:
    """The values r for which the mean of u - r v does not differ from 0; NaN if they are unbounded."""
    u, v, uu, uv, vv, n = (float(s) for s in sums)
    # squared t, over n and n - 1, turns sums of squares about the mean into what the squared sum may reach
    factor = float(stdtrit(n - 1, (1 + level) / 2)) ** 2 * n / (n - 1)
    a = v * v - factor * (vv - v * v / n)
    b = u * v - factor * (uv - u * v / n)
    c = u * u - factor * (uu - u * u / n)
    inside = b * b - a * c
    if a <= 0 or inside < 0:
        return math.nan, math.nan
    return (b - math.sqrt(inside)) / a, (b + math.sqrt(inside)) / a


def share_estimate(values: Floats | Bools, weights: ResampleWeights) -> Resampled:
    r"""The share of images where a 0/1 value holds, shape :math:`(N,)`, NaN = absent: Wilson's interval, and draws."""
    column = np.asarray(values, dtype=np.float64)
    mean = mean_estimate(column, weights)
    if not mean.defined:
        return mean
    estimate = wilson(round(np.nansum(column)), mean.estimate.n, weights.level)
    return Resampled(estimate, mean.draws, "", mean.leave_one_out)


def bounded_estimate(values: Floats, weights: ResampleWeights, least: float = 0.0) -> Resampled:
    r"""The mean over images of numbers between ``least`` and 1, shape :math:`(N,)`, NaN = absent; see ``bounded``.

    A bootstrap thinks such a mean sure where no image errs.
    """
    mean = mean_estimate(np.asarray(values, dtype=np.float64), weights)
    if not mean.defined or mean.estimate.n < FEWEST:
        return mean
    scaled = (np.asarray(values, dtype=np.float64) - least) / (1 - least)
    found = bounded(float(np.nanmean(scaled)), float(np.nanvar(scaled, ddof=1)), mean.estimate.n, weights.level)
    low, high = (least + (1 - least) * end for end in (found.low, found.high))
    estimate = Estimate(mean.value, low, high, found.n, found.method)
    return Resampled(estimate, mean.draws, "", mean.leave_one_out)


def mean_over(parts: Sequence[Resampled], level: float = 0.95) -> Resampled:
    """The mean of several values (over characteristics), undefined ones left out, with its interval.

    The interval comes from the parts' own draws, which must be of the same resamples. Equal in every bit whatever the
    order of the parts: they are added from the least up (BCa counts draws below the value, and a last bit is a count).
    Where no resample differs from the value (every part perfect), the interval is the mean of the parts' own. Means of
    shares have theirs by ``squares_added``.
    """
    defined = [part for part in parts if part.defined]
    found = _combined(defined, _sorted_mean, level, parts)
    if found.defined and all(part.estimate.method in CLOSED for part in defined):
        if len(defined) == 1:
            return defined[0]
        exact = [exactly(part.estimate, level) for part in defined]
        low, high = squares_added(exact, found.value, correlations_of([part.draws for part in defined]))
        return replace(found, estimate=Estimate(found.value, low, high, found.estimate.n, SQUARES_ADDED), note="")
    if not found.defined or found.estimate.low != found.estimate.high:
        return found
    ends = np.array([[part.estimate.low, part.estimate.high] for part in defined])
    low, high = (float(end) for end in _sorted_mean(ends))
    methods = {part.estimate.method for part in defined if part.estimate.low < part.estimate.high}
    method = methods.pop() if len(methods) == 1 else found.estimate.method
    return replace(found, estimate=replace(found.estimate, low=low, high=high, method=method))


def _sorted_mean(stack: Floats) -> Floats:
    return np.asarray(np.sort(stack, axis=0).mean(axis=0))


def difference(one: Resampled, other: Resampled, level: float = 0.95) -> Resampled:
    """One value minus another of the same images, draw by draw; undefined if either is."""
    parts = [one, other] if one.defined and other.defined else []
    return _combined(parts, lambda stack: stack[0] - stack[1], level, [one, other])


def _combined(
    parts: Sequence[Resampled], combine: Callable[[Floats], Floats], level: float, asked: Sequence[Resampled]
) -> Resampled:
    if not parts:
        return missing(len(asked[0].draws) if asked else 0, "undefined for every part")
    value = float(combine(np.array([part.value for part in parts])))
    draws = combine(np.stack([part.draws for part in parts]))
    without = [part.leave_one_out for part in parts if part.leave_one_out is not None]
    n = max(part.estimate.n for part in parts)
    jackknife = combine(np.stack(without)) if len(without) == len(parts) else None
    bare = sum(bool(np.isnan(part.draws).all()) for part in parts)
    if bare:
        note = f"no interval: {bare} of {len(parts)} parts have none"
        return Resampled(Estimate(value, n=n), np.full_like(draws, np.nan), note, jackknife)
    # parts whose bias the basic interval takes off have it in their mean, too
    basic = any(part.estimate.method == BASIC for part in parts)
    return resampled(value, draws, n, level, jackknife, basic=basic)
