"""Bootstrap resampling by integer weights on the images, shared by all metrics and models of a run.

Resampling n images with replacement gives each image a count; the counts of one resample are multinomial. They are
generated block by block: the number of a resample's draws that fall into a block is binomial given the remaining draws,
and uniform within the block. The matrix of all weights need therefore never exist in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.devices import column_products
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats, Ids

BLOCK = 1024
"""Images in a block. Another block size gives other resamples."""

CACHED_BYTES = 1 << 26
"""Largest weights kept in memory (2,000 resamples of 33,554 images). Larger ones are generated at each use."""

CACHED_FLOATS = 1 << 22
"""Largest weights that are also kept as float64 (32 MB), which saves their conversion in every sum."""

MAX_RANKED = 20_000
"""Images that a rank statistic uses at most; of more it takes a seeded sample of this size."""

Counts = NDArray[np.uint8]


@dataclass(frozen=True)
class ResampleWeights:
    """Bootstrap weights on n images; they depend on the seed and n only.

    ``ResampleWeights(0, n, 500)`` are the first 500 resamples of ``ResampleWeights(0, n)``.

    Args:
        seed: seed of the evaluation.
        n: number of images.
        draws: number of resamples.
        level: confidence level of the intervals computed with these weights.

    >>> weights = ResampleWeights(seed=0, n=10, draws=4)
    >>> weights.totals(np.ones(10))
    array([10., 10., 10., 10.])
    """

    seed: int
    n: int
    draws: int = 2000
    level: float = 0.95

    def __post_init__(self) -> None:
        if self.n < 0 or self.draws < 1 or not 0 < self.level < 1:
            raise ValueError(f"n must be at least 0, draws at least 1 and level between 0 and 1, got {self}")

    def totals(self, values: Floats) -> Floats:
        r"""Weighted sums over the images, NaN = absent; equal bits for any number of threads.

        Args:
            values: one row for each image, shape :math:`(N, C)` or :math:`(N,)`.

        Returns:
            Sums, shape :math:`(draws, C)` or :math:`(draws,)`.

        Raises:
            ValueError: the number of rows is not n.
        """
        table = np.asarray(values, dtype=np.float64)
        if len(table) != self.n:
            raise ValueError(f"values must have {self.n} rows, one for each image, got {len(table)}")
        present = np.where(np.isnan(table), 0.0, table).reshape(self.n, -1)
        ones = (present == 1).all(0)  # columns whose total is n in every resample
        sums = np.where(ones[:, None], float(self.n), np.zeros((len(ones), self.draws)))
        if not ones.all():
            for rows, counts in self._floats():
                sums[~ones] += column_products(present[rows][:, ~ones], counts)
        return sums[0] if table.ndim == 1 else sums.T

    def rows(self, index: Ids) -> Counts:
        r"""Weights of some images, in the order of ``index``, uint8, shape :math:`(len(index), draws)`.

        Meant for rank statistics, which use at most ``MAX_RANKED`` images (see ``reservoir``).
        """
        if self.n * self.draws <= CACHED_BYTES:
            return _cached(self.seed, self.n, self.draws)[index]
        chosen = np.empty((len(index), self.draws), dtype=np.uint8)
        for rows, counts in self._blocks():
            here = (index >= rows.start) & (index < rows.stop)
            chosen[here] = counts[index[here] - rows.start]
        return chosen

    def _floats(self) -> Iterator[tuple[slice, Floats]]:
        if self.n * self.draws <= CACHED_FLOATS:
            whole = _cached_as_floats(self.seed, self.n, self.draws)
            yield from ((rows, whole[rows]) for rows, _ in self._blocks())
        else:
            yield from ((rows, counts.astype(np.float64)) for rows, counts in self._blocks())

    def _blocks(self) -> Iterator[tuple[slice, Counts]]:
        if self.n * self.draws > CACHED_BYTES:
            yield from _generated(self.seed, self.n, self.draws)
            return
        whole = _cached(self.seed, self.n, self.draws)
        for first in range(0, self.n, BLOCK):
            rows = slice(first, min(first + BLOCK, self.n))
            yield rows, whole[rows]


@lru_cache(maxsize=2)
def _cached(seed: int, n: int, draws: int) -> Counts:
    parts = [counts for _, counts in _generated(seed, n, draws)]
    whole = np.concatenate(parts) if parts else np.empty((0, draws), dtype=np.uint8)
    whole.flags.writeable = False
    return whole


@lru_cache(maxsize=1)
def _cached_as_floats(seed: int, n: int, draws: int) -> Floats:
    whole = _cached(seed, n, draws).astype(np.float64)
    whole.flags.writeable = False
    return whole


def _generated(seed: int, n: int, draws: int) -> Iterator[tuple[slice, Counts]]:
    """Weights block by block, shape (block, draws). For n > 255 a count above 255 has probability below 1e-500."""
    remaining = np.full(draws, n)
    for first in range(0, n, BLOCK):
        size = min(BLOCK, n - first)
        share = size / (n - first)
        inside = numpy_stream(seed, "bootstrap split", f"{n}/{first}").binomial(remaining, share)
        remaining = remaining - inside
        places = numpy_stream(seed, "bootstrap", f"{n}/{first}").integers(0, size, int(inside.sum()), dtype=np.uint16)
        ends = np.cumsum(inside)
        counts = np.empty((draws, size), dtype=np.uint8)
        for draw, (start, end) in enumerate(zip(ends - inside, ends, strict=True)):
            counts[draw] = np.bincount(places[start:end], minlength=size)
        yield slice(first, first + size), np.ascontiguousarray(counts.T)


def reservoir(seed: int, index: Ids, limit: int = MAX_RANKED) -> Ids:
    """All images if they are at most ``limit``, else a seeded ordered sample of that size without replacement."""
    if len(index) <= limit:
        return index
    places = numpy_stream(seed, "reservoir", len(index)).choice(len(index), limit, replace=False)
    return np.asarray(index[np.sort(places)])
