r"""Information in nats: entropies and mutual information on bins, divergences by nearest neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.special import xlogy

from ccvae_eval.statistics.intervals import Resampled, missing
from ccvae_eval.statistics.subsampling import DRAWS, subsample_estimate
from ccvae_eval.streams import numpy_stream
from ccvae_eval.types import Bools, Floats, Ids

Classes = NDArray[np.int64]

REPEATED = 0.01
"""The share of codes that may repeat another one; beyond, the codes are discrete."""

MOST_COLUMNS = 5
"""With more columns nearest neighbours say nothing (+-1.1 nat between identical 27-D distributions, measured)."""


def robust_bins(n: int) -> int:
    """How many equal-mass bins n values bear: n/50, at least 2, at most 20."""
    return int(np.clip(n // 50, 2, 20))


def equal_mass_bins(values: Floats, bins: int) -> Classes:
    r"""The bin of each value, 0 .. at most bins - 1, with as nearly equal numbers as ties permit.

    Equal values share a bin, so values with few levels get fewer bins; constant ones get one.

    Args:
        values: shape :math:`(N,)`, no NaN.
        bins: how many.

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
    r"""Entropy in nats of tables of counts, over the last axis; NaN where a table is empty.

    .. math:: H = \log n - \frac1n \sum_i c_i \log c_i + \frac{K - 1}{2n}

    The last term is Miller's and Madow's correction (1955), K = occupied cells; ``corrected=False`` leaves it out.

    >>> float(entropy_of_counts(np.array([2.0, 2.0]), corrected=False).round(4))
    0.6931
    """
    table = np.asarray(counts, dtype=np.float64)
    n = table.sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        plain = np.log(n) - xlogy(table, table).sum(axis=-1) / n
        bias = ((table > 0).sum(axis=-1) - 1) / (2 * n) if corrected else 0.0
        return np.asarray(np.where(n > 0, plain + bias, np.nan))


def entropy(classes: Classes, *, corrected: bool = True) -> float:
    """Entropy in nats of classes 0, 1, ..., shape (N,); NaN if there are none."""
    return float(entropy_of_counts(np.bincount(classes).astype(np.float64), corrected=corrected))


def mutual_information(one: Classes, other: Classes, *, corrected: bool = True) -> float:
    r"""I in nats of two classings of the same images, each shape :math:`(N,)` with classes 0, 1, ...

    I <= min(H), so where either has one class it is 0. Corrected after Miller and Madow it may be negative.
    """
    width = int(other.max(initial=0)) + 1
    joint = np.bincount(one * width + other, minlength=(int(one.max(initial=0)) + 1) * width).astype(np.float64)
    table = joint.reshape(-1, width)
    parts = (table.sum(axis=1), table.sum(axis=0), joint)
    first, second, both = (float(entropy_of_counts(part, corrected=corrected)) for part in parts)
    return first + second - both


def knn_kl(first: Floats, second: Floats, k: int = 5) -> float:
    r"""Divergence KL(first || second) in nats from distances to k-th neighbours (Wang, Kulkarni and Verdu 2009).

    .. math:: \log \frac{m}{n - 1} + \frac dn \sum_i \log \frac{\nu_k(i)}{\rho_k(i)}

    :math:`\rho_k(i)` is the distance of the i-th of ``first`` to its k-th neighbour among the others of ``first``,
    :math:`\nu_k(i)` that to its k-th neighbour in ``second``. May be negative.

    Args:
        first: shape :math:`(n, d)`.
        second: shape :math:`(m, d)`.
        k: which neighbour.

    Returns:
        nats; NaN where a class has too few codes (n <= k or m < k). Codes at distance 0 are left out of the sum
        (float32 codes meet by accident); where they are more than 1 %, codes are discrete, have no density, and the
        value is NaN.
    """
    n, d = first.shape
    m = len(second)
    if n <= k or m < k:
        return math.nan
    own = np.reshape(cKDTree(first).query(first, [k + 1])[0], n)
    cross = np.reshape(cKDTree(second).query(first, [k])[0], n)
    apart = (own > 0) & (cross > 0)
    if apart.sum() < (1 - REPEATED) * n:
        return math.nan
    return math.log(m / (n - 1)) + float(d * np.log(cross[apart] / own[apart]).mean())


@dataclass(frozen=True, slots=True)
class Divergence:
    """One direction of the nearest-neighbour divergence between the codes of two classes, in nats.

    Args:
        kl: as estimated; its interval has the width of ``excess``'s.
        excess: the permutation null subtracted.
        null: what permuted labels give on average.
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
    r"""KL(present || absent) and KL(absent || present) of the codes, by ``knn_kl``, with intervals.

    The classes are subsampled to equal size, ``balances`` seeded draws averaged. Intervals by ``subsample_estimate``.

    Args:
        codes: shape :math:`(N, d)`, d <= 5.
        labels: 0, 1 or NaN = missing, shape :math:`(N,)`.
        seed: of the draws.
        k: which neighbour.
        scaled: divide each column by its pooled deviation first (False: raw, as in the published toy).
        balances, permutations, draws: how many balanced draws, permuted labels, subsamples.
        level: of the intervals.

    Returns:
        both directions; undefined with the reason where there are more than 5 columns, discrete codes, or fewer than
        k + 1 images in a class.
    """
    rows = np.flatnonzero(~np.isnan(labels))
    present: Bools = labels[rows] == 1
    smaller = int(min(present.sum(), len(rows) - present.sum()))
    reason = ""
    if codes.shape[1] > MOST_COLUMNS:
        reason = f"{codes.shape[1]} columns: nearest neighbours need at most {MOST_COLUMNS}"
    elif smaller <= k:
        reason = f"a class has {smaller} images"
    else:
        points = _scaled(codes[rows], present) if scaled else codes[rows]
        if len(np.unique(points, axis=0)) < (1 - REPEATED) * len(points):
            reason = "discrete codes"
    if reason:
        nothing = Divergence(missing(draws, reason, len(rows)), missing(draws, reason, len(rows)), math.nan)
        return nothing, nothing
    both = (
        _Direction(points, present, k, one_first=True, seed=seed),
        _Direction(points, present, k, one_first=False, seed=seed),
    )
    groups = np.full(len(labels), -1, dtype=np.int64)
    groups[rows] = present
    places = np.full(len(labels), -1, dtype=np.int64)
    places[rows] = np.arange(len(rows))
    found = []
    for direction in both:
        value = direction.balanced(balances)
        null = direction.permuted(permutations)
        excess = subsample_estimate(
            lambda index, of=direction: of(places[index]),  # type: ignore[misc]
            groups, value - null, seed=seed, level=level, draws=draws,
        )  # fmt: skip
        found.append(Divergence(_moved(excess, null), excess, null))
    return found[0], found[1]


def _moved(found: Resampled, by: float) -> Resampled:
    """The same interval, somewhere else."""
    estimate = found.estimate
    moved = replace(estimate, value=estimate.value + by, low=estimate.low + by, high=estimate.high + by)
    return Resampled(moved, found.draws + by, found.note)


def _scaled(codes: Floats, present: Bools) -> Floats:
    pooled = np.sqrt((codes[present].var(axis=0, ddof=1) + codes[~present].var(axis=0, ddof=1)) / 2)
    return np.asarray(codes / np.where(pooled > 0, pooled, 1.0))


class _Direction:
    """One class's codes against the other's."""

    def __init__(self, points: Floats, present: Bools, k: int, *, one_first: bool, seed: int) -> None:
        self.points, self.first, self.k, self.seed = points, present == one_first, k, seed

    def __call__(self, rows: Ids) -> float:
        chosen, first = self.points[rows], self.first[rows]
        return knn_kl(chosen[first], chosen[~first], self.k)

    def balanced(self, times: int) -> float:
        """The mean over seeded draws of classes of equal size; one is enough where they have it."""
        if 2 * self.first.sum() == len(self.first):
            times = 1
        streams = [numpy_stream(self.seed, "balanced classes", i) for i in range(times)]
        return float(np.mean([self._once(self.first, stream) for stream in streams]))

    def permuted(self, times: int) -> float:
        streams = [numpy_stream(self.seed, "permuted labels", i) for i in range(times)]
        return (
            float(np.mean([self._once(stream.permutation(self.first), stream) for stream in streams])) if times else 0.0
        )

    def _once(self, first: Bools, stream: np.random.Generator) -> float:
        sides = [np.flatnonzero(first), np.flatnonzero(~first)]
        size = min(len(side) for side in sides)
        one, other = (self.points[np.sort(stream.choice(side, size, replace=False))] for side in sides)
        return knn_kl(one, other, self.k)
