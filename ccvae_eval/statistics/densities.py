r"""Separation of two classes in one latent dimension: d', overlap, Jensen-Shannon divergence, Wasserstein distance.

Densities are Gaussian kernel estimates with Silverman's bandwidth for each class, :math:`h = s\,(3n/4)^{-1/5}` (as in
SciPy's ``gaussian_kde``). Integrals use the trapezoidal rule on the union of one even grid for each class, with a
spacing of a quarter of its bandwidth and a margin of five bandwidths beyond its extreme codes.

Smoothing makes two classes look more alike, by a bias of order :math:`h^2`. The value is that of the smoothed
densities. Its confidence interval is placed around :math:`2 S(h) - S(\sqrt2 h)`, the statistic S extrapolated to no
smoothing, and extended to the value (coverage: docs/metrics.md, section 0). The overlap of finite samples of the
same distribution stays below 1: compare it with its permutation null (``permuted_null``).

Degenerate codes:

- fewer than two codes in a class: NaN (the unscaled Wasserstein distance needs only one);
- a class whose codes are constant, or of which less than half are distinct, has no density: both classes are then
  compared as point masses on the values that occur (overlap and divergence of the two histograms);
- both classes constant: d' and the scaled Wasserstein distance are NaN, since the standard deviation is 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from scipy.stats import wasserstein_distance

from ccvae_eval.core.devices import one_thread
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.statistics.intervals import Resampled, bootstrap_estimate, estimate_from_draws, undefined_estimate
from ccvae_eval.statistics.ratios import safe_ratio
from ccvae_eval.statistics.resampling import BLOCK, Counts, ResampleWeights, reservoir
from ccvae_eval.statistics.subsampling import NUMBERS

STEPS = 4
"""Grid points per bandwidth."""

REACH = 5
"""Bandwidths by which a grid extends beyond the extreme codes; 3e-7 of a kernel's mass lies outside."""

DISTINCT = 0.5
"""Least share of distinct codes for a density; with fewer, the codes are discrete."""

PERMUTATIONS = 20
"""Label permutations by default."""


def bandwidth(values: Floats) -> float:
    """Silverman's bandwidth as in ``scipy.stats.gaussian_kde``; 0 for constant values, NaN for fewer than two."""
    return float(values.std(ddof=1) * (0.75 * len(values)) ** -0.2) if len(values) > 1 else math.nan


def kde_curves(classes: Sequence[Floats], points: int = 256) -> tuple[Floats, Floats]:
    r"""Densities of several classes on a common even grid that covers all of them, for a plot.

    Args:
        classes: codes of each class, shape :math:`(N_k,)`.
        points: size G of the grid.

    Returns:
        The grid, shape :math:`(G,)`, and the densities, shape :math:`(K, G)`, NaN for a class without a density.
    """
    occurring = [values for values in classes if len(values)]
    margins = [width * REACH for values in occurring if (width := bandwidth(values)) > 0]
    margin = max(margins, default=0.5)
    low = min((float(values.min()) for values in occurring), default=0.0) - margin
    high = max((float(values.max()) for values in occurring), default=0.0) + margin
    grid = np.linspace(low, high, points)
    found = np.full((len(classes), points), np.nan)
    for values, density in zip(classes, found, strict=True):
        if (width := bandwidth(values)) > 0:
            density[:] = densities_of(values, grid, width, np.ones((len(values), 1), dtype=np.uint8))[0]
    return grid, found


def pooled_deviation(one: Floats, other: Floats) -> float:
    r"""Pooled standard deviation :math:`\sqrt{(s_0^2 + s_1^2)/2}`, divisors n - 1; NaN for fewer than two codes."""
    return math.sqrt((one.var(ddof=1) + other.var(ddof=1)) / 2) if _enough(one, other) else math.nan


def wasserstein(one: Floats, other: Floats, *, scaled: bool = False) -> float:
    r"""Wasserstein-1 distance of two samples, :math:`\int |F - G|`.

    Args:
        one, other: codes of the two classes, shapes :math:`(N_1,)` and :math:`(N_0,)`.
        scaled: divides by the pooled standard deviation.

    Returns:
        At least 0, in the codes' unit or in standard deviations; NaN for an empty class or a standard deviation of 0.
    """
    if not len(one) or not len(other):
        return math.nan
    unit = pooled_deviation(one, other) if scaled else 1.0
    return float(wasserstein_distance(one, other)) / unit if unit > 0 else math.nan


def dprime_estimate(codes: Floats, labels: Floats, weights: ResampleWeights) -> Resampled:
    r"""Sensitivity index d' (Green and Swets 1966) of label 1 against label 0, with its bootstrap confidence interval.

    .. math:: d' = |m_1 - m_0| / \sqrt{(s_0^2 + s_1^2)/2}

    Args:
        codes: shape :math:`(N,)`, NaN = absent.
        labels: 0, 1 or NaN = missing, shape :math:`(N,)`.
        weights: the run's resamples.

    Returns:
        Distance, at least 0; undefined with fewer than two codes in a class, or with constant codes.
    """
    present = ~(np.isnan(codes) | np.isnan(labels))
    one, other = codes[present & (labels == 1)], codes[present & (labels == 0)]
    if not _enough(one, other) or not pooled_deviation(one, other) > 0:
        return undefined_estimate(weights.draws, _too_few(one, other) or "constant codes", int(present.sum()))
    # centred, so that second moments do not lose digits
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


def overlap_and_js_estimates(codes: Floats, labels: Floats, weights: ResampleWeights) -> tuple[Resampled, Resampled]:
    r"""Overlap and Jensen-Shannon divergence of the two classes' densities p and q, with basic bootstrap intervals.

    .. math:: \int \min(p, q), \qquad \tfrac12 KL(p \| r) + \tfrac12 KL(q \| r), \quad r = (p + q)/2

    (Weitzman 1970; Lin 1991, in bits, with equal weights of the classes.) The intervals are conditional on the
    bandwidths. Arguments as in ``dprime_estimate``.

    Returns:
        The overlap in [0, 1], 1 for equal classes and 0 for disjoint ones, and the divergence in [0, 1], 0 for equal
        classes and 1 for disjoint ones; undefined with fewer than two codes in a class.
    """
    index, one, other, positive = _classes(codes, labels, weights)
    if not _enough(one, other):
        undefined = undefined_estimate(weights.draws, _too_few(one, other), len(index))
        return undefined, undefined
    support = _support(one, other)
    counts = weights.rows(index[positive]), weights.rows(index[~positive])
    found = _smoothed(support, one, other, counts)
    if max(support.widths) > 0:
        wide = replace(support, widths=(support.widths[0] * math.sqrt(2), support.widths[1] * math.sqrt(2)))
        # reflecting these at the value gives draws around the extrapolated value
        found = [
            (plain, 2 * draws - smooth_draws - 2 * (plain - smooth))
            for (plain, draws), (smooth, smooth_draws) in zip(found, _smoothed(wide, one, other, counts), strict=True)
        ]
    overlap, js = (
        _clipped(estimate_from_draws(plain, draws, len(index), weights.level, basic=True), 1.0)
        for plain, draws in found
    )
    return overlap, js


def wasserstein_estimate(codes: Floats, labels: Floats, weights: ResampleWeights, *, scaled: bool = False) -> Resampled:
    """``wasserstein`` with a basic bootstrap interval, at least 0; arguments as in ``dprime_estimate``.

    ``scaled`` divides the value and every resample by the pooled standard deviation of the full sample.
    """
    index, one, other, positive = _classes(codes, labels, weights)
    value = wasserstein(one, other, scaled=scaled)
    if math.isnan(value):
        return undefined_estimate(weights.draws, _too_few(one, other) or "constant codes", len(index))
    unit = pooled_deviation(one, other) if scaled else 1.0
    order = np.argsort(codes[index], kind="stable")
    gaps = np.diff(codes[index][order]) / unit
    draws = _area_between(gaps, positive[order], weights, index[order])
    return _clipped(estimate_from_draws(value, draws, len(index), weights.level, basic=True), math.inf)


def _area_between(gaps: Floats, positive: Bools, weights: ResampleWeights, images: Ids) -> Floats:
    """Integral of |F - G| in each resample, accumulated over the sorted codes of the images."""
    totals = [
        sum(rows.sum(axis=0, dtype=np.float64) for rows in weights.rows_in_blocks(images[side]))
        for side in (positive, ~positive)
    ]
    signed = [safe_ratio(1.0, totals[0]), safe_ratio(-1.0, totals[1])]
    lead, area = np.zeros(weights.draws), np.zeros(weights.draws)
    for row, mark, gap in zip(chain.from_iterable(weights.rows_in_blocks(images)), positive, gaps, strict=False):
        lead += row * signed[0 if mark else 1]
        area += gap * np.abs(lead)
    return np.where((totals[0] > 0) & (totals[1] > 0), area, np.nan)


def _smoothed(support: _Support, one: Floats, other: Floats, rows: tuple[Counts, Counts]) -> list[tuple[float, Floats]]:
    """Overlap and divergence, each on all images and in each resample."""
    p, q = (
        densities_of(
            values, support.points, width, np.concatenate([np.ones((len(values), 1), np.uint8), counts], axis=1)
        )
        for values, width, counts in zip((one, other), support.widths, rows, strict=True)
    )
    found = [functional(support.measure, p, q) for functional in (overlap_of, js_of)]
    return [(float(values[0]), values[1:]) for values in found]


def _clipped(found: Resampled, most: float) -> Resampled:
    """Clips value and interval to [0, ``most``], which the sums on the grid can exceed by up to 1e-4."""
    value, low, high = np.clip([found.estimate.value, found.estimate.low, found.estimate.high], 0.0, most)
    return replace(found, estimate=replace(found.estimate, value=float(value), low=float(low), high=float(high)))


@dataclass(frozen=True, slots=True)
class _Support:
    """Support on which two classes are compared.

    Args:
        points: grid, shape (G,).
        measure: integration weights of the points, shape (G,).
        widths: bandwidths of the two classes; 0 = point masses.
    """

    points: Floats
    measure: Floats
    widths: tuple[float, float]


def _support(one: Floats, other: Floats) -> _Support:
    if is_discrete(one) or is_discrete(other):
        levels = np.unique(np.concatenate([one, other]))
        return _Support(levels, np.ones(len(levels)), (0.0, 0.0))
    widths = bandwidth(one), bandwidth(other)
    grids = []
    for values, width in zip((one, other), widths, strict=True):
        low, high = float(values.min()) - REACH * width, float(values.max()) + REACH * width
        grids.append(np.linspace(low, high, math.ceil((high - low) / width * STEPS) + 1))
    points = np.unique(np.concatenate(grids))
    steps = np.diff(points)
    return _Support(points, (np.append(steps, 0.0) + np.append(0.0, steps)) / 2, widths)


def densities_of(values: Floats, points: Floats, width: float, counts: Counts) -> Floats:
    """Density of each resample at the points.

    Args:
        values: shape (N,).
        points: shape (G,).
        width: bandwidth; 0 gives the probability mass at each point.
        counts: how often each value occurs in each resample, shape (N, B).

    Returns:
        Densities, shape (B, G).
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
    return safe_ratio(sums, counts.sum(axis=0, dtype=np.float64)[:, None])


def overlap_of(measure: Floats, p: Floats, q: Floats) -> Floats:
    """Overlap of densities p and q, shape (B, G), with integration weights ``measure``, shape (G,); shape (B,)."""
    return np.asarray(np.minimum(p, q) @ measure)


def js_of(measure: Floats, p: Floats, q: Floats) -> Floats:
    """Jensen-Shannon divergence in bits, shape (B,); arguments as in ``overlap_of``."""
    middle = (p + q) / 2
    # 0 log 0 = 0
    safe = np.where(middle > 0, middle, 1.0)
    parts = [np.where(part > 0, part * np.log2(np.where(part > 0, part, 1.0) / safe), 0.0) for part in (p, q)]
    return np.asarray((parts[0] + parts[1]) @ measure / 2)


def _classes(codes: Floats, labels: Floats, weights: ResampleWeights) -> tuple[Ids, Floats, Floats, Bools]:
    """Images with code and label, codes of class 1 and class 0, and membership of class 1."""
    index = reservoir(weights.seed, np.flatnonzero(~(np.isnan(codes) | np.isnan(labels))))
    positive = labels[index] == 1
    return index, codes[index][positive], codes[index][~positive], positive


def _enough(one: Floats, other: Floats) -> bool:
    return min(len(one), len(other)) > 1


def _too_few(one: Floats, other: Floats) -> str:
    return "" if _enough(one, other) else f"a class has {min(len(one), len(other))} images"


def is_discrete(values: Floats) -> bool:
    """True if the values have no density: they are constant, or less than half of them are distinct."""
    distinct = len(np.unique(values))
    return distinct == 1 or distinct < DISTINCT * len(values)


@dataclass(frozen=True, slots=True)
class ClassNull:
    """Means of the statistics of two classes under permuted labels."""

    dprime: float
    overlap: float
    js: float
    wasserstein: float
    wasserstein_scaled: float


def permuted_null(codes: Floats, labels: Floats, *, seed: int, permutations: int = PERMUTATIONS) -> ClassNull:
    r"""Permutation null of one latent dimension and one label.

    The bandwidths are Silverman's with the standard deviation of all codes, so that all permutations share their
    kernels. This changes the means by no more than the sampling error of a standard deviation.

    Args:
        codes: shape :math:`(N,)`, NaN = absent.
        labels: 0, 1 or NaN = missing, shape :math:`(N,)`; both classes have at least two images.
        seed: seed of the permutations.
        permutations: number of permutations.

    Returns:
        The null; its d' and scaled Wasserstein distance are NaN for constant codes.
    """
    known = ~(np.isnan(codes) | np.isnan(labels))
    values, positive = codes[known], labels[known] == 1
    marks = np.stack([numpy_stream(seed, "permuted classes", i).permutation(positive) for i in range(permutations)])
    sizes = int(positive.sum()), int((~positive).sum())
    grid, one, other = _densities(values, marks, sizes)
    distance = _distances(values, marks, sizes)
    deviation = float(values.std(ddof=1))
    means = [abs(float(values[mark].mean() - values[~mark].mean())) for mark in marks]
    unit = deviation if deviation > 0 else math.nan
    return ClassNull(
        float(np.mean(means)) / unit,
        float(overlap_of(grid, one, other).mean()),
        float(js_of(grid, one, other).mean()),
        float(distance.mean()),
        float(distance.mean()) / unit,
    )


def _densities(values: Floats, marks: Bools, sizes: tuple[int, int]) -> tuple[Floats, Floats, Floats]:
    """Integration weights (G,) and the densities of both classes under each permutation, (P, G)."""
    if is_discrete(values):
        points, widths = np.unique(values), [0.0, 0.0]
        measure = np.ones(len(points))
    else:
        widths = [bandwidth(values) * (size / len(values)) ** -0.2 for size in sizes]
        low, high = float(values.min()) - REACH * max(widths), float(values.max()) + REACH * max(widths)
        points = np.linspace(low, high, math.ceil((high - low) / min(widths) * STEPS) + 1)
        measure = np.full(len(points), points[1] - points[0])
        measure[[0, -1]] /= 2
    counts = (marks.T.astype(np.uint8), (~marks.T).astype(np.uint8))
    one, other = (densities_of(values, points, width, count) for width, count in zip(widths, counts, strict=True))
    return measure, one, other


def _distances(values: Floats, marks: Bools, sizes: tuple[int, int]) -> Floats:
    """Wasserstein-1 distance under each permutation, shape (P,)."""
    order = np.argsort(values, kind="stable")
    gaps = np.diff(values[order])

    def distances(part: Bools) -> Floats:
        steps = np.where(part[:, order], 1 / sizes[0], -1 / sizes[1])
        lead = np.abs(np.cumsum(steps, axis=1)[:, :-1])
        return np.asarray((lead * gaps).sum(axis=1))

    # at least two permutations each: NumPy adds a single one in another order
    parts = min(max(marks.size // NUMBERS, 1), max(len(marks) // 2, 1))
    return np.concatenate([distances(part) for part in np.array_split(marks, parts)])
