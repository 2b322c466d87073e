"""What overlap, divergence and distance are between classes that differ in nothing: their labels are permuted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.statistics.densities import REACH, STEPS, bandwidth, densities_of, is_discrete, js_of, overlap_of

PERMUTATIONS = 20


@dataclass(frozen=True, slots=True)
class ClassNull:
    """Means over permuted labels of two classes of the same sizes.

    Args:
        dprime, overlap, js, wasserstein, wasserstein_scaled: as in ``densities``.
    """

    dprime: float
    overlap: float
    js: float
    wasserstein: float
    wasserstein_scaled: float


def permuted_null(codes: Floats, labels: Floats, *, seed: int, permutations: int = PERMUTATIONS) -> ClassNull:
    r"""The null of one column and one label.

    The permuted classes' bandwidths are Silverman's with the deviation of all codes, so that all permutations share
    their kernels: the means agree with those of single evaluations to the noise of a deviation.

    Args:
        codes: shape :math:`(N,)`, NaN = absent.
        labels: 0, 1 or NaN = missing, shape :math:`(N,)`; both classes have at least two images.
        seed: of the permutations.
        permutations: how many.
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
    steps = np.where(marks[:, order], 1 / sizes[0], -1 / sizes[1])
    lead = np.abs(np.cumsum(steps, axis=1)[:, :-1])
    return np.asarray((lead * np.diff(values[order])).sum(axis=1))
