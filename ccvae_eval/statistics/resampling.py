"""The bootstrap as integer weights on images: the same for all metrics and models of a run.

A resample of n images with replacement gives each image a count, and the counts of one resample are multinomial. They
are made in blocks of images: how many of a resample's n draws fall into a block is binomial of what remains, and
inside the block they are uniform. So the draws x n matrix need never exist, and the first images' weights do not wait
for the last ones'.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.statistics.threads import column_products

BLOCK = 1024
"""Images in a block. It is part of the definition of the draws: another block size is another set of resamples."""

KEPT = 1 << 26
"""Weights kept in memory, in bytes: 2,000 resamples of up to 33,554 images. Beyond, they are drawn again when asked."""

KEPT_AS_FLOATS = 1 << 22
"""Weights kept as they are multiplied too (32 MB): turning bytes into floats takes a third of a sum over images."""

RANKED = 20_000
"""Images that a rank statistic looks at; beyond, it takes a seeded reservoir of this size."""

Counts = NDArray[np.uint8]


@dataclass(frozen=True)
class ResampleWeights:
    """Bootstrap weights on n images, keyed by the seed and n only.

    Fewer draws are a prefix of more: ``ResampleWeights(0, n, 500)`` are the first 500 of ``ResampleWeights(0, n)``.

    Args:
        seed: the evaluation's seed.
        n: how many images the sample has.
        draws: how many resamples.
        level: the level of the intervals that are made with these weights.

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
            raise ValueError(f"no such resamples: {self}")

    def blocks(self) -> Iterator[tuple[slice, Floats]]:
        r"""Each block's place among the images, and its weights, float64, shape :math:`(draws, block)`."""
        for rows, counts in self._blocks():
            yield rows, counts.T.astype(np.float64)

    def totals(self, values: Floats) -> Floats:
        r"""Weighted sums over the images, NaN being absent. Equal bits whatever the number of threads.

        Args:
            values: one row for each image, shape :math:`(N, C)` or :math:`(N,)`.

        Returns:
            shape :math:`(draws, C)` or :math:`(draws,)`.
        """
        table = np.asarray(values, dtype=np.float64)
        if len(table) != self.n:
            raise ValueError(f"{len(table)} rows for weights on {self.n} images")
        present = np.where(np.isnan(table), 0.0, table).reshape(self.n, -1)
        everyone = (present == 1).all(0)  # a count of images of which none is absent: n in every resample
        sums = np.where(everyone[:, None], float(self.n), np.zeros((len(everyone), self.draws)))
        if not everyone.all():
            for rows, counts in self._floats():
                sums[~everyone] += column_products(present[rows][:, ~everyone], counts)
        return sums[0] if table.ndim == 1 else sums.T

    def counts(self, mask: Bools) -> Floats:
        r"""Weighted number of images where the mask holds; shapes as in ``totals``."""
        return self.totals(np.asarray(mask, dtype=np.float64))

    def rows(self, index: Ids) -> Counts:
        r"""The weights of some images, in that order, shape :math:`(len(index), draws)`.

        Meant for rank statistics: at most ``RANKED`` images, see ``reservoir``.
        """
        if self.n * self.draws <= KEPT:
            return _kept(self.seed, self.n, self.draws)[index]
        chosen = np.empty((len(index), self.draws), dtype=np.uint8)
        for rows, counts in self._blocks():
            here = (index >= rows.start) & (index < rows.stop)
            chosen[here] = counts[index[here] - rows.start]
        return chosen

    def _floats(self) -> Iterator[tuple[slice, Floats]]:
        if self.n * self.draws <= KEPT_AS_FLOATS:
            whole = _kept_as_floats(self.seed, self.n, self.draws)
            yield from ((rows, whole[rows]) for rows, _ in self._blocks())
        else:
            yield from ((rows, counts.astype(np.float64)) for rows, counts in self._blocks())

    def _blocks(self) -> Iterator[tuple[slice, Counts]]:
        if self.n * self.draws > KEPT:
            yield from _drawn(self.seed, self.n, self.draws)
            return
        whole = _kept(self.seed, self.n, self.draws)
        for first in range(0, self.n, BLOCK):
            rows = slice(first, min(first + BLOCK, self.n))
            yield rows, whole[rows]


@lru_cache(maxsize=2)
def _kept(seed: int, n: int, draws: int) -> Counts:
    parts = [counts for _, counts in _drawn(seed, n, draws)]
    whole = np.concatenate(parts) if parts else np.empty((0, draws), dtype=np.uint8)
    whole.flags.writeable = False
    return whole


@lru_cache(maxsize=1)
def _kept_as_floats(seed: int, n: int, draws: int) -> Floats:
    whole = _kept(seed, n, draws).astype(np.float64)
    whole.flags.writeable = False
    return whole


def _drawn(seed: int, n: int, draws: int) -> Iterator[tuple[slice, Counts]]:
    """Block by block, shape (block, draws). A count beyond 255 has probability below 1e-500 for n > 255."""
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


def reservoir(seed: int, index: Ids, limit: int = RANKED) -> Ids:
    """All of the images if there are at most ``limit``, else a seeded sample of them without replacement, in order."""
    if len(index) <= limit:
        return index
    places = numpy_stream(seed, "reservoir", len(index)).choice(len(index), limit, replace=False)
    return np.asarray(index[np.sort(places)])
