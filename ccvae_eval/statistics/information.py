r"""Information in nats: entropies of binned values, and divergences by nearest neighbours.

Entropies count values on equal-mass bins (``equal_mass_bins``) with the correction of Miller and Madow. The divergence
between two classes of codes compares distances to nearest neighbours and needs no bins; ``neighbour_divergences`` is
the estimator for many pairs of classes at once, ``knn_divergences`` adds its permutation null and confidence interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import xlogy

from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.statistics.intervals import Resampled, undefined_estimate
from ccvae_eval.statistics.ratios import safe_ratio
from ccvae_eval.statistics.subsampling import DRAWS, parts_of, subsample_estimates

REPEATED = 0.01
"""Largest share of codes that may be copies of another one; with more, the codes are discrete."""

BIAS_RATE = 0.5
"""Power of the number of images by which the divergence's bias falls."""

HALVES = 64
"""Subsamples of half of the images, which estimate the rate of convergence: it is slower the farther apart the classes
lie, because a few images at a class's edge are then the nearest neighbours of all others."""

MAX_DIMENSIONS = 5
"""Latent dimensions above which nearest neighbours carry no information about the divergence."""

Classes = NDArray[np.int64]


def robust_bins(n: int) -> int:
    """Number of equal-mass bins for n values: n/50, at least 2, at most 20."""
    return int(np.clip(n // 50, 2, 20))


def equal_mass_bins(values: Floats, bins: int) -> Classes:
    r"""Bin of each value, with sizes as nearly equal as ties permit.

    Equal values share a bin, so values with few levels get fewer bins, and constant values get one.

    Args:
        values: shape :math:`(N,)`, no NaN.
        bins: largest number of bins.

    Returns:
        Bins 0, 1, ..., at most ``bins`` - 1, shape :math:`(N,)`.

    >>> equal_mass_bins(np.array([5.0, 1.0, 3.0, 9.0]), 2)
    array([1, 0, 0, 1])
    """
    if not len(values):
        return np.empty(0, dtype=np.int64)
    ordered = np.sort(values)
    # the first value of each bin but the first
    edges = np.unique(ordered[np.arange(1, bins) * len(values) // bins])
    return np.unique(np.searchsorted(edges, values, side="right"), return_inverse=True)[1].astype(np.int64)


def entropy_of_counts(counts: NDArray[np.floating], *, corrected: bool = True) -> Floats:
    r"""Entropy in nats of tables of counts, over the last axis.

    .. math:: H = \log n - \frac1n \sum_i c_i \log c_i + \frac{K - 1}{2n}

    The last term, with K occupied cells, is the correction of Miller and Madow (1955); ``corrected=False`` omits it.

    Args:
        counts: not negative, shape :math:`(..., C)`.
        corrected: adds the last term.

    Returns:
        Entropies, at least 0, shape :math:`(...)`; NaN for an empty table.

    >>> float(entropy_of_counts(np.array([2.0, 2.0]), corrected=False).round(4))
    0.6931
    """
    table = np.asarray(counts, dtype=np.float64)
    n = table.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        plain = np.log(n) - xlogy(table, table).sum(axis=-1) / n
        bias = ((table > 0).sum(axis=-1) - 1) / (2 * n) if corrected else 0.0
        return np.asarray(np.where(n > 0, plain + bias, np.nan))


def joint_entropies(counts: NDArray[np.floating], *, corrected: bool = True) -> tuple[Floats, Floats, Floats]:
    r"""Entropies of two variables and of both together; their information is :math:`H(a) + H(b) - H(a, b)`.

    Args:
        counts: contingency tables, shape :math:`(..., A, B)`.
        corrected: as of :func:`entropy_of_counts`.

    Returns:
        H(a), H(b) and H(a, b) in nats, shape :math:`(...)` each.

    >>> [float(h.round(4)) for h in joint_entropies(np.array([[2.0, 0.0], [0.0, 2.0]]), corrected=False)]
    [0.6931, 0.6931, 0.6931]
    """
    tables = (counts.sum(axis=-1), counts.sum(axis=-2), counts.reshape(*counts.shape[:-2], -1))
    first, second, both = (entropy_of_counts(table, corrected=corrected) for table in tables)
    return first, second, both


def neighbour_divergences(first: Floats, second: Floats, k: int) -> Floats:
    r"""KL divergences in nats by distances to k-th neighbours, in both directions, for each of B pairs of samples.

    .. math:: KL(first \| second) = \log \frac{m}{n - 1} + \frac dn \sum_i \log \frac{\nu_k(i)}{\rho_k(i)}

    :math:`\rho_k(i)` is the distance of the i-th code of ``first`` to its k-th neighbour among the others of ``first``,
    :math:`\nu_k(i)` the distance to its k-th neighbour in ``second`` (Wang, Kulkarni and Verdu 2009). Codes at distance
    0 are left out of the mean, because float32 codes may coincide by accident.

    Args:
        first: shape :math:`(B, n, d)`.
        second: shape :math:`(B, m, d)`.
        k: which neighbour.

    Returns:
        KL(first || second) and KL(second || first), shape :math:`(B, 2)`; may be negative. NaN if n <= k or m <= k, or
        if more than 1% of a sample's distances are 0: discrete codes have no density.
    """
    n, m, d = first.shape[1], second.shape[1], first.shape[2]
    if min(n, m) <= k:
        return np.full((len(first), 2), np.nan)
    if d == 1:
        one, other = np.sort(first[:, :, 0], axis=1), np.sort(second[:, :, 0], axis=1)
        own = [_own_distances(points, k) for points in (one, other)]
        cross = [_cross_distances(one, other, k), _cross_distances(other, one, k)]
    else:
        distances = [_tree_distances(a, b, k) for a, b in zip(first, second, strict=True)]
        own = [np.stack([pair[side] for pair in distances]) for side in (0, 1)]
        cross = [np.stack([pair[side] for pair in distances]) for side in (2, 3)]
    found = np.empty((len(first), 2))
    for side, (size, others) in enumerate(((n, m), (m, n))):
        apart = (own[side] > 0) & (cross[side] > 0)
        count = apart.sum(axis=1)
        logs = np.log(safe_ratio(cross[side], np.where(apart, own[side], 0.0), 1.0)).sum(axis=1)
        kept = math.log(others / (size - 1)) + safe_ratio(d * logs, count)
        found[:, side] = np.where(count >= (1 - REPEATED) * size, kept, np.nan)
    return found


def _own_distances(points: Floats, k: int) -> Floats:
    """Distance of each sorted point to its k-th neighbour among the others, shape (B, n).

    A point and its k neighbours fill a window of k + 1 sorted points; the nearest of the k + 1 windows counts.
    """
    n = points.shape[1]
    padded = _padded(points, k)
    best = np.full(points.shape, np.inf)
    for start in range(k + 1):
        left, right = padded[:, start : start + n], padded[:, start + k : start + k + n]
        np.minimum(best, np.maximum(points - left, right - points), out=best)
    return best


def _cross_distances(points: Floats, others: Floats, k: int) -> Floats:
    """Distance of each sorted point to its k-th neighbour among the sorted others, shape (B, n)."""
    padded = _padded(others, k)
    below = np.stack([np.searchsorted(row, point) for row, point in zip(others, points, strict=True)])
    best = np.full(points.shape, np.inf)
    for start in range(k + 1):
        # windows of k others, from all k below the point to all k above it
        left = np.take_along_axis(padded, below + start, axis=1)
        right = np.take_along_axis(padded, below + start + k - 1, axis=1)
        np.minimum(best, np.maximum(points - left, right - points), out=best)
    return best


def _padded(points: Floats, k: int) -> Floats:
    """Adds k points at infinity on both sides, so that no window beyond the ends is the nearest."""
    ends = np.full((len(points), k), np.inf)
    return np.concatenate([-ends, points, ends], axis=1)


def _tree_distances(first: Floats, second: Floats, k: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Distances within each sample, then from each sample to the other."""
    trees = cKDTree(first), cKDTree(second)
    own = [np.ravel(tree.query(points, [k + 1])[0]) for tree, points in zip(trees, (first, second), strict=True)]
    cross = [np.ravel(tree.query(points, [k])[0]) for tree, points in zip(trees, (second, first), strict=True)]
    return own[0], own[1], cross[1], cross[0]


@dataclass(frozen=True, slots=True)
class Divergence:
    """One direction of the nearest-neighbour divergence between the codes of two classes, in nats.

    Args:
        kl: the divergence; its interval is that of ``excess``, shifted by the null.
        excess: the divergence minus its permutation null.
        null: mean divergence with permuted labels.
    """

    kl: Resampled
    excess: Resampled
    null: float


def knn_divergences(
    codes: Floats,
    labels: Floats,
    *,
    seed: int,
    k: int = 5,
    scaled: bool = True,
    balances: int = 10,
    permutations: int = 20,
    draws: int = DRAWS,
    level: float = 0.95,
) -> tuple[Divergence, Divergence]:
    r"""KL(present || absent) and KL(absent || present) of the codes in nats, with confidence intervals.

    The estimator is ``neighbour_divergences`` on classes subsampled to equal size, averaged over ``balances`` seeded
    draws. The interval is that of ``subsample_estimates`` with an estimated rate of convergence, extended by the bias
    that smaller subsamples show. Where one class has codes and the other hardly any, the divergence is underestimated:
    coverage falls to about 0.85 for a divergence of 2 nats, and is lost for a class much wider than the other
    (docs/metrics.md, section 0).

    Args:
        codes: shape :math:`(N, d)`, d <= 5.
        labels: 0, 1 or NaN = missing, shape :math:`(N,)`.
        seed: seed of the draws.
        k: which neighbour.
        scaled: divides each latent dimension by its pooled standard deviation first.
        balances, permutations, draws: numbers of balanced draws, label permutations and subsamples.
        level: confidence level.

    Returns:
        Both directions; may be negative. Undefined with more than 5 dimensions, discrete codes, or fewer than k + 1
        images in a class.
    """
    rows = np.flatnonzero(~np.isnan(labels))
    present: Bools = labels[rows] == 1
    smaller = int(min(present.sum(), len(rows) - present.sum()))
    reason = ""
    if codes.shape[1] > MAX_DIMENSIONS:
        reason = f"{codes.shape[1]} latent dimensions: nearest neighbours need at most {MAX_DIMENSIONS}"
    elif smaller <= k:
        reason = f"a class has {smaller} images"
    else:
        points = _scaled(codes[rows], present) if scaled else codes[rows]
        if len(np.unique(points, axis=0)) < (1 - REPEATED) * len(points):
            reason = "discrete codes"
    if reason:
        undefined = undefined_estimate(draws, reason, len(rows))
        return Divergence(undefined, undefined, math.nan), Divergence(undefined, undefined, math.nan)
    groups = np.full(len(labels), -1, dtype=np.int64)
    groups[rows] = present
    places = np.full(len(labels), -1, dtype=np.int64)
    places[rows] = np.arange(len(rows))
    nulls = _permuted(points, present, k, seed, permutations)
    excesses = subsample_estimates(
        lambda taken: neighbour_divergences(points[places[taken[1]]], points[places[taken[0]]], k),
        groups, _balanced(points, present, k, seed, balances) - nulls,
        seed=seed, level=level, draws=draws, bias_rate=BIAS_RATE, halves=min(HALVES, draws),
    )  # fmt: skip
    one, other = (
        Divergence(_shifted(excess, float(null)), excess, float(null))
        for excess, null in zip(excesses, nulls, strict=True)
    )
    return one, other


def _shifted(found: Resampled, by: float) -> Resampled:
    """The estimate with value, interval and draws shifted by a constant."""
    estimate = found.estimate
    moved = replace(estimate, value=estimate.value + by, low=estimate.low + by, high=estimate.high + by)
    return Resampled(moved, found.draws + by, found.note)


def _scaled(codes: Floats, present: Bools) -> Floats:
    pooled = np.sqrt((codes[present].var(axis=0, ddof=1) + codes[~present].var(axis=0, ddof=1)) / 2)
    return np.asarray(codes / np.where(pooled > 0, pooled, 1.0))


def _balanced(points: Floats, present: Bools, k: int, seed: int, times: int) -> Floats:
    """Both directions, averaged over seeded draws of equally many images of each class."""
    if 2 * present.sum() == len(present):
        times = 1  # equal classes: every draw is the whole sample
    streams = [numpy_stream(seed, "balanced classes", i) for i in range(times)]
    return _mean_divergences(points, [present] * times, k, streams)


def _permuted(points: Floats, present: Bools, k: int, seed: int, times: int) -> Floats:
    """Both directions, averaged over label permutations; 0 without permutations."""
    streams = [numpy_stream(seed, "permuted labels", i) for i in range(times)]
    return _mean_divergences(points, [stream.permutation(present) for stream in streams], k, streams)


def _mean_divergences(points: Floats, marks: list[Bools], k: int, streams: list[np.random.Generator]) -> Floats:
    if not marks:
        return np.zeros(2)
    size = min(int(marks[0].sum()), int((~marks[0]).sum()))
    sides = [
        [stream.choice(np.flatnonzero(mark == side), size, replace=False) for side in (True, False)]
        for mark, stream in zip(marks, streams, strict=True)
    ]
    taken = np.array(sides)
    found = [
        neighbour_divergences(points[taken[part, 0]], points[taken[part, 1]], k)
        for part in parts_of(len(taken), len(points))
    ]
    return np.asarray(np.concatenate(found).mean(axis=0))
