r"""How far apart two classes of codes lie in one column: d', overlap, Jensen-Shannon divergence, Wasserstein distance.

Densities are Gaussian kernel estimates with Silverman's bandwidth for each class (that of SciPy's ``gaussian_kde``):
:math:`h = s\,(3n/4)^{-1/5}`. Integrals are trapezoids on the union of one even grid for each class, a quarter of its
bandwidth apart and five bandwidths beyond its extremes; measured against adaptive quadrature of the same densities,
overlap and divergence are exact to 3e-4, to 1e-3 where one class's outliers make its bandwidth many times the other's
(tests/oracle/test_statistics_densities.py).

Smoothing makes two classes look more alike, by a bias of the order :math:`h^2`. The value is that of the smoothed
densities, but its interval is set around :math:`2 S(h) - S(\sqrt2 h)`, which is S extrapolated to no smoothing, and
then drawn out to the value. (Measured for two Gaussians 1 and 2.5 deviations apart, 600 images: the plain interval
covers the Gaussians' own overlap and divergence in .77 to .94 of the samples, this one in .95 to .98; .89 to .95
with 200 images.) At chance the
overlap of finite samples stays below 1: compare it with its permutation null.

Degenerate codes, decided in words:

- fewer than two codes in a class: everything is NaN, there is no deviation;
- a class whose codes are constant, or of which less than half are distinct, has no density: both classes are then
  compared as point masses on the values that occur (overlap and divergence of the two histograms);
- both classes constant: d' and the scaled Wasserstein distance are NaN, there is no deviation to measure by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import wasserstein_distance

from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.statistics.intervals import Resampled, bootstrap_estimate, missing, resampled
from ccvae_eval.statistics.resampling import BLOCK, Counts, ResampleWeights, reservoir
from ccvae_eval.statistics.threads import one_thread

STEPS = 4
"""Grid points in one bandwidth."""

REACH = 5
"""Bandwidths that a grid extends beyond the extreme codes: 3e-7 of a kernel's mass lies beyond."""

DISTINCT = 0.5
"""Codes of which a smaller share is distinct are discrete."""

Functional = Callable[[Floats, Floats, Floats], Floats]
"""Integration weights (G,) and two densities (B, G) to values (B,)."""


def bandwidth(values: Floats) -> float:
    """Silverman's bandwidth as in ``scipy.stats.gaussian_kde``; 0 for constant values, NaN for fewer than two."""
    return float(values.std(ddof=1) * (0.75 * len(values)) ** -0.2) if len(values) > 1 else math.nan


def kde(values: Floats, grid: Floats) -> Floats:
    r"""Density of the values at the points of a grid.

    Args:
        values: shape :math:`(N,)`.
        grid: shape :math:`(G,)`.

    Returns:
        shape :math:`(G,)`; NaN where the values have no density (fewer than two, or constant).
    """
    width = bandwidth(values)
    return _mean_density(values, grid, width) if width > 0 else np.full(len(grid), np.nan)


def kde_curves(classes: Sequence[Floats], points: int = 256) -> tuple[Floats, Floats]:
    r"""Densities of several classes on one even grid that reaches beyond all of them, for a plot.

    Args:
        classes: the codes of each class, shape :math:`(N_k,)`.
        points: of the grid.

    Returns:
        the grid, shape :math:`(G,)`, and one density for each class, shape :math:`(K, G)`, NaN for one without.
    """
    every = [values for values in classes if len(values)]
    margins = [width * REACH for values in every if (width := bandwidth(values)) > 0]
    margin = max(margins, default=0.5)
    low = min((float(values.min()) for values in every), default=0.0) - margin
    high = max((float(values.max()) for values in every), default=0.0) + margin
    grid = np.linspace(low, high, points)
    return grid, np.stack([kde(values, grid) for values in classes]) if len(classes) else np.empty((0, points))


def dprime(one: Floats, other: Floats) -> float:
    r"""Distance of the means in pooled deviations, :math:`|m_1 - m_0| / \sqrt{(s_0^2 + s_1^2)/2}`, not negative."""
    return (
        _over(abs(float(one.mean() - other.mean())), pooled_deviation(one, other)) if _enough(one, other) else math.nan
    )


def pooled_deviation(one: Floats, other: Floats) -> float:
    r""":math:`\sqrt{(s_0^2 + s_1^2)/2}`, s with divisor n - 1; NaN with fewer than two codes in a class."""
    return math.sqrt((one.var(ddof=1) + other.var(ddof=1)) / 2) if _enough(one, other) else math.nan


def overlap(one: Floats, other: Floats) -> float:
    r"""Mass that the two densities share, :math:`\int \min(p, q)`: 1 for equal classes, 0 for disjoint ones."""
    return _compared(one, other, overlap_of)


def js(one: Floats, other: Floats) -> float:
    r"""Jensen-Shannon divergence of the two densities in bits, equal class weights: 0 for equal, 1 for disjoint."""
    return _compared(one, other, js_of)


def wasserstein(one: Floats, other: Floats, *, scaled: bool = False) -> float:
    r"""Wasserstein-1 distance :math:`\int |F - G|`, in the codes' unit, or over the pooled deviation."""
    if not len(one) or not len(other):
        return math.nan
    distance = float(wasserstein_distance(one, other))
    return _over(distance, pooled_deviation(one, other)) if scaled else distance


def dprime_estimate(codes: Floats, labels: Floats, weights: ResampleWeights) -> Resampled:
    r"""``dprime`` between the images with label 1 and those with 0, with its bootstrap interval.

    Args:
        codes: shape :math:`(N,)`, NaN = absent.
        labels: 0, 1 or NaN = missing, shape :math:`(N,)`.
        weights: the run's resamples.
    """
    present = ~(np.isnan(codes) | np.isnan(labels))
    one, other = codes[present & (labels == 1)], codes[present & (labels == 0)]
    if not _enough(one, other) or not pooled_deviation(one, other) > 0:
        return missing(weights.draws, _why(one, other) or "constant codes", int(present.sum()))
    # about a common centre, so that second moments do not lose digits
    moved = codes - codes[present].mean()
    columns = [part for value in (1, 0) for part in _moments(moved, present, labels == value)]
    return bootstrap_estimate(_dprime_of_totals, np.column_stack(columns), weights)


def _moments(codes: Floats, present: Bools, inside: Bools) -> list[Floats]:
    rows = np.where(inside, codes, 0.0)
    return [np.where(present, column, np.nan) for column in (rows, rows * rows, inside.astype(np.float64))]


def _dprime_of_totals(totals: Floats) -> Floats:
    means, variances = [], []
    for sums, squares, n in (totals[:, :3].T, totals[:, 3:].T):
        means.append(sums / n)
        variances.append((squares - sums * sums / n) / (n - 1))
    return np.asarray(np.abs(means[0] - means[1]) / np.sqrt((variances[0] + variances[1]) / 2))


def overlap_estimate(codes: Floats, labels: Floats, weights: ResampleWeights) -> Resampled:
    """``overlap`` with a basic bootstrap interval, see above, conditional on the bandwidths; arguments as above."""
    return _density_estimates(codes, labels, weights, [overlap_of])[0]


def js_estimate(codes: Floats, labels: Floats, weights: ResampleWeights) -> Resampled:
    """``js`` with a basic bootstrap interval, see above, conditional on the bandwidths; arguments as above."""
    return _density_estimates(codes, labels, weights, [js_of])[0]


def overlap_and_js_estimates(codes: Floats, labels: Floats, weights: ResampleWeights) -> tuple[Resampled, Resampled]:
    """Both at once, of the same densities, at little more than the price of one; arguments as above."""
    found = _density_estimates(codes, labels, weights, [overlap_of, js_of])
    return found[0], found[1]


def wasserstein_estimate(codes: Floats, labels: Floats, weights: ResampleWeights, *, scaled: bool = False) -> Resampled:
    """``wasserstein`` with a basic bootstrap interval, not negative; ``scaled`` by the full sample's deviation."""
    index, one, other, positive = _classes(codes, labels, weights)
    value = wasserstein(one, other, scaled=scaled)
    if math.isnan(value):
        return missing(weights.draws, _why(one, other) or "constant codes", len(index))
    unit = pooled_deviation(one, other) if scaled else 1.0
    order = np.argsort(codes[index], kind="stable")
    gaps = np.diff(codes[index][order]) / unit
    draws = _area_between(gaps, positive[order], weights.rows(index[order]))
    return _clipped(resampled(value, draws, len(index), weights.level, basic=True), math.inf)


def _area_between(gaps: Floats, positive: Bools, rows: Counts) -> Floats:
    """The integral of |F - G| in each resample, a row at a time."""
    totals = [rows[positive].sum(axis=0, dtype=np.float64), rows[~positive].sum(axis=0, dtype=np.float64)]
    with np.errstate(divide="ignore", invalid="ignore"):
        signed = [1 / totals[0], -1 / totals[1]]
        lead = np.zeros(rows.shape[1])
        area = np.zeros(rows.shape[1])
        for row, mark, gap in zip(rows, positive, gaps, strict=False):
            lead += row * signed[0 if mark else 1]
            area += gap * np.abs(lead)
    return np.where((totals[0] > 0) & (totals[1] > 0), area, np.nan)


def _density_estimates(
    codes: Floats, labels: Floats, weights: ResampleWeights, functionals: Sequence[Functional]
) -> list[Resampled]:
    index, one, other, positive = _classes(codes, labels, weights)
    if not _enough(one, other):
        return [missing(weights.draws, _why(one, other), len(index))] * len(functionals)
    pair = _pair(one, other)
    rows = weights.rows(index)
    counts = (rows[positive], rows[~positive])
    found = _smoothed(pair, one, other, counts, functionals)
    if max(pair.widths) > 0:
        wide = replace(pair, widths=(pair.widths[0] * math.sqrt(2), pair.widths[1] * math.sqrt(2)))
        smoother = _smoothed(wide, one, other, counts, functionals)
        # so placed that, reflected at the value, they lie around the extrapolated one
        found = [
            (plain, 2 * draws - smooth_draws - 2 * (plain - smooth))
            for (plain, draws), (smooth, smooth_draws) in zip(found, smoother, strict=True)
        ]
    return [_clipped(resampled(plain, draws, len(index), weights.level, basic=True), 1.0) for plain, draws in found]


def _smoothed(
    pair: _Pair, one: Floats, other: Floats, rows: tuple[Counts, Counts], functionals: Sequence[Functional]
) -> list[tuple[float, Floats]]:
    """Each functional on all images and in each resample."""
    p, q = (
        densities_of(values, pair.points, width, np.concatenate([np.ones((len(values), 1), np.uint8), counts], axis=1))
        for values, width, counts in zip((one, other), pair.widths, rows, strict=True)
    )
    found = [functional(pair.measure, p, q) for functional in functionals]
    return [(float(values[0]), values[1:]) for values in found]


def _clipped(found: Resampled, most: float) -> Resampled:
    """Value and interval within their range: the grid's sums are off by up to 1e-4."""
    value, low, high = np.clip([found.estimate.value, found.estimate.low, found.estimate.high], 0.0, most)
    return replace(found, estimate=replace(found.estimate, value=float(value), low=float(low), high=float(high)))


def _compared(one: Floats, other: Floats, functional: Functional) -> float:
    if not _enough(one, other):
        return math.nan
    pair = _pair(one, other)
    p, q = (
        _mean_density(values, pair.points, width)[None] for values, width in zip((one, other), pair.widths, strict=True)
    )
    return float(functional(pair.measure, p, q)[0])


@dataclass(frozen=True, slots=True)
class _Pair:
    """What two classes are compared on: points, integration weights (G,), bandwidths; a bandwidth of 0 = masses."""

    points: Floats
    measure: Floats
    widths: tuple[float, float]


def _pair(one: Floats, other: Floats) -> _Pair:
    if is_discrete(one) or is_discrete(other):
        levels = np.unique(np.concatenate([one, other]))
        return _Pair(levels, np.ones(len(levels)), (0.0, 0.0))
    widths = bandwidth(one), bandwidth(other)
    grids = []
    for values, width in zip((one, other), widths, strict=True):
        low, high = float(values.min()) - REACH * width, float(values.max()) + REACH * width
        grids.append(np.linspace(low, high, math.ceil((high - low) / width * STEPS) + 1))
    points = np.unique(np.concatenate(grids))
    steps = np.diff(points)
    return _Pair(points, (np.append(steps, 0.0) + np.append(0.0, steps)) / 2, widths)


def _mean_density(values: Floats, points: Floats, width: float) -> Floats:
    return np.asarray(densities_of(values, points, width, np.ones((len(values), 1), dtype=np.uint8))[0])


def densities_of(values: Floats, points: Floats, width: float, counts: Counts) -> Floats:
    """Density of each resample at the points, (B, G); ``counts`` says how often it has each value, (N, B).

    A width of 0 gives the mass at each point.
    """
    sums = np.zeros((counts.shape[1], len(points)))
    for first in range(0, len(values), BLOCK):
        part = values[first : first + BLOCK, None]
        if width > 0:
            distance = (points - part) / width
            kernels = np.exp(-0.5 * distance * distance) / (width * math.sqrt(2 * math.pi))
        else:
            kernels = (points == part).astype(np.float64)
        with one_thread():
            sums += counts[first : first + BLOCK].T.astype(np.float64) @ kernels
    with np.errstate(invalid="ignore"):
        return np.asarray(sums / counts.sum(axis=0, dtype=np.float64)[:, None])


def overlap_of(measure: Floats, p: Floats, q: Floats) -> Floats:
    """The mass that densities (B, G) share, given the integration weights (G,) of their points; shape (B,)."""
    return np.asarray(np.minimum(p, q) @ measure)


def js_of(measure: Floats, p: Floats, q: Floats) -> Floats:
    """Their Jensen-Shannon divergence in bits; arguments as in ``overlap_of``."""
    middle = (p + q) / 2
    # 0 log 0 is 0, and so is what lies where neither class does
    safe = np.where(middle > 0, middle, 1.0)
    parts = [np.where(part > 0, part * np.log2(np.where(part > 0, part, 1.0) / safe), 0.0) for part in (p, q)]
    return np.asarray((parts[0] + parts[1]) @ measure / 2)


def _classes(codes: Floats, labels: Floats, weights: ResampleWeights) -> tuple[Ids, Floats, Floats, Bools]:
    """Which images have both code and label, the codes of the two classes, and which are of class 1."""
    index = reservoir(weights.seed, np.flatnonzero(~(np.isnan(codes) | np.isnan(labels))))
    positive = labels[index] == 1
    return index, codes[index][positive], codes[index][~positive], positive


def _enough(one: Floats, other: Floats) -> bool:
    return min(len(one), len(other)) > 1


def _why(one: Floats, other: Floats) -> str:
    return "" if _enough(one, other) else f"a class has {min(len(one), len(other))} images"


def is_discrete(values: Floats) -> bool:
    """Whether the values have no density: constant, or less than half of them distinct."""
    distinct = len(np.unique(values))
    return distinct == 1 or distinct < DISTINCT * len(values)


def _over(value: float, unit: float) -> float:
    return value / unit if unit > 0 else math.nan
