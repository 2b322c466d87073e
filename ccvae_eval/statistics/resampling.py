"""Bootstrap resampling by integer weights on the images, shared by all metrics and models of a run.

Resampling n images with replacement gives each image a count; the counts of one resample are multinomial. They are
generated block by block: the number of a resample's draws that fall into a block is binomial given the remaining draws,
and uniform within the block. The matrix of all weights need therefore never exist in memory.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.devices import column_products
from ccvae_eval.core.large_arrays import MAX_IN_MEMORY, LargeArray
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats, Ids

BLOCK = 1024
"""Images in a block. Another block size gives other resamples."""

STORED_BYTES = 1 << 30
"""Largest weights kept, for many images in a temporary file (2,000 resamples of 536,870 images). Larger ones, and those
for which the disk has no room, are generated at each use."""

CACHED_FLOATS = 1 << 22
"""Largest weights that are also kept as float64 (32 MB), which saves their conversion in every sum."""

MAX_RANKED = 20_000
"""Images that a rank statistic uses at most; of more it takes a seeded sample of this size."""

Counts = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers of n images in some columns, computed for one block of images at a time; NaN = absent.

    Args:
        n, columns: number of images and of columns.
        rows: the numbers of consecutive images, shape (m, columns).
    """

    n: int
    columns: int
    rows: Callable[[slice], Floats]


def table_of(values: Floats | Table) -> Table:
    """The table of an array, shape (N, C) or (N,)."""
    if isinstance(values, Table):
        return values
    whole = np.asarray(values, dtype=np.float64)
    whole = whole.reshape(len(whole), -1)
    return Table(len(whole), whole.shape[1], whole.__getitem__)


def blocks_of(table: Table) -> Iterator[Floats]:
    """The numbers of each block of images."""
    return map(table.rows, _block_ranges(table.n))


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

    def totals(self, values: Floats | Table) -> Floats:
        r"""Weighted sums over the images, NaN = absent; equal bits for any number of threads.

        Args:
            values: one row for each image, shape :math:`(N, C)` or :math:`(N,)`.

        Returns:
            Sums, shape :math:`(draws, C)` or :math:`(draws,)`.

        Raises:
            ValueError: the number of rows is not n.
        """
        table = table_of(values)
        if table.n != self.n:
            raise ValueError(f"values must have {self.n} rows, one for each image, got {table.n}")
        single = not isinstance(values, Table) and values.ndim == 1
        ones = np.ones(table.columns, bool)  # columns whose total is n in every resample
        for part in blocks_of(table):
            ones &= (part == 1).all(0)
        sums = np.where(ones[:, None], float(self.n), np.zeros((len(ones), self.draws)))
        if not ones.all():
            for part, counts in zip(blocks_of(table), self._floats(), strict=True):
                left = part[:, ~ones]
                sums[~ones] += column_products(np.where(np.isnan(left), 0.0, left), counts)
        return sums[0] if single else sums.T

    def rows(self, index: Ids) -> Counts:
        r"""Weights of some images, in the order of ``index``, uint8, shape :math:`(len(index), draws)`.

        Meant for rank statistics, which use at most ``MAX_RANKED`` images (see ``reservoir``).
        """
        whole = _kept(self.seed, self.n, self.draws)
        if whole is not None:
            return whole[index]
        chosen = np.empty((len(index), self.draws), dtype=np.uint8)
        for rows, counts in self._blocks():
            here = (index >= rows.start) & (index < rows.stop)
            chosen[here] = counts[index[here] - rows.start]
        return chosen

    def rows_in_blocks(self, index: Ids) -> Iterator[Counts]:
        """The same weights in blocks of consecutive images of ``index``."""
        chosen = self.rows(index) if _kept(self.seed, self.n, self.draws) is None else None
        for block in _block_ranges(len(index)):
            yield self.rows(index[block]) if chosen is None else chosen[block]

    def _floats(self) -> Iterator[Floats]:
        """The weights of each block as float64; the next block may take the place of the last one."""
        if self.n * self.draws <= CACHED_FLOATS:
            whole = _cached_as_floats(self.seed, self.n, self.draws)
            yield from (whole[rows] for rows in _block_ranges(self.n))
            return
        floats = np.empty((min(self.n, BLOCK), self.draws))
        for rows, counts in self._blocks():
            here = floats[: rows.stop - rows.start]
            here[:] = counts
            yield here

    def _blocks(self) -> Iterator[tuple[slice, Counts]]:
        whole = _kept(self.seed, self.n, self.draws)
        if whole is None:
            yield from _generated(self.seed, self.n, self.draws)
        else:
            yield from ((rows, whole[rows]) for rows in _block_ranges(self.n))


def _block_ranges(n: int) -> Iterator[slice]:
    return (slice(first, min(first + BLOCK, n)) for first in range(0, n, BLOCK))


@lru_cache(maxsize=2)
def _kept(seed: int, n: int, draws: int) -> Counts | LargeArray | None:
    """The weights, shape (n, draws); None if they are too large."""
    if n * draws > STORED_BYTES or (
        n > MAX_IN_MEMORY and n * draws > shutil.disk_usage(tempfile.gettempdir()).free // 2
    ):
        return None
    whole = LargeArray((n, draws), np.uint8) if n > MAX_IN_MEMORY else np.empty((n, draws), np.uint8)
    for rows, counts in _generated(seed, n, draws):
        whole[rows] = counts
    if isinstance(whole, np.ndarray):
        whole.flags.writeable = False
    return whole


@lru_cache(maxsize=1)
def _cached_as_floats(seed: int, n: int, draws: int) -> Floats:
    whole = np.empty((n, draws))
    for rows, counts in ResampleWeights(seed, n, draws)._blocks():
        whole[rows] = counts
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
