"""What the scores of one panel share: the table, the settings, information counted once, one set of resamples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import TypeVar, cast

import numpy as np

from ccvae_eval.data.contract import DataSet
from ccvae_eval.metrics.disentanglement.blocks import Told, told_by_blocks
from ccvae_eval.metrics.disentanglement.counting import (
    Counted,
    Information,
    counted,
    duplicates,
    permutations,
    subsamples,
)
from ccvae_eval.metrics.disentanglement.findings import Drawn, Finding
from ccvae_eval.metrics.disentanglement.gaps import Parts, active_by_information
from ccvae_eval.metrics.disentanglement.settings import Settings
from ccvae_eval.metrics.disentanglement.table import Table
from ccvae_eval.statistics.intervals import Resampled
from ccvae_eval.statistics.resampling import ResampleWeights
from ccvae_eval.statistics.subsampling import FEWEST, RATE
from ccvae_eval.types import Bools, Floats, Gaussian, Ids

T = TypeVar("T")
At = Mapping[str, str | int | float]

MOST_COUNTS = 2_000_000_000
"""Rows and cells that are counted for intervals; beyond, information scores have none, and say so."""

ROWS_IN_A_BIN = 50
"""Rows that a bin of the robust profile must have."""

PRUNED_RANGE = 20.0
"""``pruning="range"``: a code is inactive if it spans less than a twentieth of what the widest spans."""


@dataclass(eq=False)
class Bench:
    """One panel in the making.

    Args:
        table: codes and factors.
        settings: of the panel.
        seed: of every draw.
        posterior: q(z|x) of the rows, where a model gave the codes.
        data: the data set that they were encoded from, or None.
        encode: from images of that data set to codes, where it can render others; or None.
        quick: points alone: no intervals, no chance (for the score of the factors themselves).
        weights: bootstrap weights on the rows.
        notes: sentences for the reader.
    """

    table: Table
    settings: Settings
    seed: int
    weights: ResampleWeights
    posterior: Gaussian | None = None
    data: DataSet | None = None
    encode: Callable[..., Floats] | None = None
    quick: bool = False
    notes: list[str] = field(default_factory=list)
    _kept: dict[str, object] = field(default_factory=dict)

    def once(self, key: str, compute: Callable[[], T]) -> T:
        """What several scores share is computed when the first asks for it."""
        if key not in self._kept:
            self._kept[key] = compute()
        return cast("T", self._kept[key])

    @cached_property
    def rows(self) -> Ids:
        """The rows that information is counted on: the training ones as published, else all."""
        return self.table.rows if self.settings.robust else self.table.train

    @property
    def settings_bins(self) -> int:
        """The bins of each code: as asked, in the robust profile no more than the rows bear."""
        asked = self.settings.bins
        return min(asked, max(len(self.rows) // ROWS_IN_A_BIN, 2)) if self.settings.robust else asked

    @cached_property
    def counts(self) -> Counted:
        return counted(self.table, self.rows, self.settings_bins, robust=self.settings.robust)

    @cached_property
    def wide(self) -> tuple[int, ...]:
        """The blocks of several columns."""
        return tuple(j for j, block in enumerate(self.table.blocks) if len(block) > 1)

    @cached_property
    def told(self) -> Told:
        """What the wide blocks tell of each factor on the held-out rows."""
        return told_by_blocks(self.table, [self.table.blocks[j] for j in self.wide], self.seed)

    def mutual(self, rows: Ids | slice = slice(None), order: Ids | None = None, *, permuted: bool = False) -> Floats:
        """Information of every block with every factor, shape (J, K), as counted."""
        columns = self.counts.mutual(rows, order)
        found = columns[[block[0] for block in self.table.blocks]]
        if self.wide:
            terms = self.told.terms[self.table.rows[rows]]
            count = (~np.isnan(terms)).sum(axis=0)
            mean = np.nansum(terms, axis=0) / np.maximum(count, 1)
            # a held-out score of permuted factors is below 0 on average: its null is 0
            found[list(self.wide)] = 0.0 if permuted else mean
        return found

    @cached_property
    def null(self) -> Floats:
        """What permuted factors give, shape (S, J, K)."""
        count = self.settings.shuffles
        orders = permutations(self.seed, len(self.rows), count)
        return np.stack([self.mutual(order=order, permuted=True) for order in orders])

    @cached_property
    def twins(self) -> dict[int, int]:
        """Blocks that repeat an earlier one up to a monotone transform, and which."""
        if not self.settings.robust:
            return {}
        single = {block[0]: j for j, block in enumerate(self.table.blocks) if len(block) == 1}
        columns = list(single)
        found = duplicates(self.table.codes[:, columns]) if columns else {}
        return {single[columns[a]]: single[columns[b]] for a, b in found.items()}

    @cached_property
    def kept(self) -> Ids:
        """The blocks that are scored: each once."""
        return np.array([j for j in range(len(self.table.blocks)) if j not in self.twins], dtype=np.int64)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the blocks that are scored."""
        return tuple(self.table.names[j] for j in self.kept)

    @cached_property
    def information(self) -> Information:
        """The information that is scored."""
        factors, columns, conditional = self.counts.entropies()
        plain = self.mutual()[self.kept]
        codes = np.array([columns[b[0]] if len(b) == 1 else np.nan for b in (self.table.blocks[j] for j in self.kept)])
        limited = self.settings.robust and not self.wide
        most = float(np.log(self.settings_bins)) if limited else np.inf
        every = np.ones(len(self.kept), dtype=bool)
        base = Information(plain, factors, codes, conditional, self.counts.bins, every, most)
        if not self.settings.robust:
            return base.with_mutual(plain, self._active(plain))
        excess = plain - self.null[:, self.kept].mean(axis=0)
        return base.with_mutual(np.maximum(excess, 0.0), self._active(excess))

    def _active(self, excess: Floats) -> Bools:
        if self.settings.robust and self.settings.pruning == "information":
            centred = self.null[:, self.kept] - self.null[:, self.kept].mean(axis=0)
            freedom = (self.counts.bins - 1) * (np.array(self.counts.levels, dtype=np.float64) - 1)
            known = (self.counts.classes >= 0).sum(axis=1).astype(np.float64)
            return active_by_information(excess, centred, freedom, known)
        codes = self.table.codes[self.rows]
        spans = np.array([float(np.ptp(codes[:, self.table.blocks[j]], axis=0).max()) for j in self.kept])
        return np.asarray((spans > spans.max() / PRUNED_RANGE) & (spans > 0))

    @cached_property
    def permuted(self) -> Information:
        """The same of permuted factors, shape (S, J, K): what chance levels are computed from."""
        null = self.null[:, self.kept]
        shown = np.maximum(null - null.mean(axis=0), 0.0) if self.settings.robust else null
        return self.information.with_mutual(shown)

    @property
    def subsample_size(self) -> int:
        return int(len(self.rows) ** RATE)

    @cached_property
    def redrawn(self) -> tuple[Information | None, str]:
        """The information of subsamples, shape (B, J, K), the null of their size taken off; or why there is none."""
        size, settings = self.subsample_size, self.settings
        if self.quick:
            return None, ""
        if size < FEWEST or size >= len(self.rows):
            return None, f"no interval: subsamples of {size} rows, {FEWEST} needed"
        width = self.table.codes.shape[1]
        each = size * len(self.table.factors) + self.counts.bins * sum(self.counts.levels)
        if each * width * settings.draws > MOST_COUNTS:
            return None, f"no interval: {width} codes are too many to count {settings.draws} times"
        drawn = list(subsamples(self.seed, len(self.rows), size, settings.draws))
        found = np.stack([self.mutual(rows) for rows in drawn])[:, self.kept]
        if settings.robust:
            orders = permutations(self.seed, size, settings.shuffles)
            null = np.stack(
                [self.mutual(rows, order, permuted=True) for rows, order in zip(drawn, orders, strict=False)]
            )[:, self.kept].mean(axis=0)
            found = np.maximum(found - null, 0.0)
        active = np.broadcast_to(self.information.active, found.shape[:-1])
        return self.information.with_mutual(found, active), ""

    def weighed(self, rows: Floats) -> tuple[Floats, Floats | None]:
        """Sums over the table's rows, NaN being absent, shape (N, C), and those of each resample (None if quick).

        Returns:
            shapes (C,) and (B, C).
        """
        total = np.nansum(rows, axis=0)
        return total, None if self.quick else self.weights.totals(rows)

    def fitted(
        self,
        name: str,
        rows: Floats,
        formula: Callable[[Floats], Parts],
        chance: Parts | None,
        why: str,
        note: str = "",
        resampled: Callable[[Floats], Parts] | None = None,
        counted: tuple[Resampled, ...] = (),
    ) -> Finding:
        """A score of held-out rows: ``formula`` takes sums of ``rows``, shape (..., C); so does ``resampled``, for
        resamples that need another one. ``counted`` as in ``Finding``."""
        total, draws = self.weighed(rows)
        drawn = Drawn(None if draws is None else (resampled or formula)(draws))
        n = int((~np.isnan(rows)).any(axis=1).sum())
        return Finding(name, formula(total), n, drawn, None if self.quick else chance, why, note, counted=counted)

    def informed(
        self, name: str, formula: Callable[[Information], Parts], why: str, at: At = MappingProxyType({})
    ) -> Finding:
        """A score that is a formula of the information matrix, with its interval and chance."""
        redrawn, note = self.redrawn
        drawn = Drawn(None, note=note)
        if redrawn is not None:
            drawn = Drawn(formula(redrawn), "subsampling", self.subsample_size)
        chance = None if self.quick else formula(self.permuted)
        return Finding(name, formula(self.information), len(self.rows), drawn, chance, why, at=at)
