"""What the scores of one panel share: the table, the settings, information counted once, one set of resamples.

From a score with its parts and their draws to the rows of a measurement.

What a block of several columns tells of a factor: by a forest judged on held-out rows, never by joint bins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Literal, TypeVar, cast

import numpy as np

from ccvae_eval.core.random_streams import stream_key
from ccvae_eval.core.results import Estimate, Value
from ccvae_eval.core.types import Bools, Floats, Gaussian, Ids
from ccvae_eval.data.interface import DataSet
from ccvae_eval.metrics.disentanglement.information_scores import (
    Counted,
    Information,
    ScoreParts,
    active_by_information,
    counted,
    duplicates,
    permutations,
    subsamples,
)
from ccvae_eval.metrics.disentanglement.predictors import without_fit_warnings
from ccvae_eval.metrics.disentanglement.settings import PanelSettings
from ccvae_eval.metrics.disentanglement.table import Factor, PanelTable
from ccvae_eval.statistics.intervals import Resampled, mean_over, missing, resampled
from ccvae_eval.statistics.resampling import ResampleWeights
from ccvae_eval.statistics.subsampling import FEWEST, RATE, subsampled

CODE = "code"
"""What ``at`` calls a row of one code."""

Method = Literal["subsampling", "conditional"]


@dataclass(frozen=True, slots=True, eq=False)
class ResampledScore:
    """How a score moves when the rows are drawn again.

    Args:
        parts: the draws, a leading axis of samples.
        method: subsamples without replacement, or bootstrap weights on held-out rows of one fit.
        size: rows of a subsample.
        note: why there are none.
        bias_rate: the power of the rows by which the score's bias falls: subsamples show it, and it is drawn out by it.
    """

    parts: ScoreParts | None
    method: Method = "conditional"
    size: int = 0
    note: str = ""
    bias_rate: float | None = None


NO_DRAWS = ResampledScore(None)


@dataclass(frozen=True, slots=True, eq=False)
class ScoreResult:
    """One score.

    Args:
        name: of the value.
        point: the score and its parts, without leading axes.
        n: rows that entered.
        drawn: for intervals.
        chance: what permuted factors give, the same parts; or None where the score has no chance level.
        why: the reason, where the total is undefined.
        note: what must be said beside it.
        at: what else it depends on.
        interval: of the total, where it is known otherwise (Wilson's, of votes).
        counted: of each factor its own estimate, where it is a mean of shares and goes by counts; the total's then too.
    """

    name: str
    point: ScoreParts
    n: int
    drawn: ResampledScore = NO_DRAWS
    chance: ScoreParts | None = None
    why: str = ""
    note: str = ""
    at: Mapping[str, str | int | float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    counted: tuple[Resampled, ...] = ()

    def values(self, factors: tuple[str, ...], codes: tuple[str, ...], level: float) -> list[Value]:
        """The total, then the row of each factor, then of each code."""
        whole = mean_over(self.counted, level) if self.counted else None
        rows = [self._value(self.point.total, self._of("total"), self._chance("total"), level, whole)]
        for kind, names in (("factors", factors), ("codes", codes)):
            numbers: Floats | None = getattr(self.point, kind)
            if numbers is None:
                continue
            draws, chances = self._of(kind), self._chance(kind)
            left_out = int(np.isnan(numbers).sum())
            rows[0] = replace(rows[0], excluded=left_out)
            for i, name in enumerate(names):
                row = self._value(
                    numbers[i],
                    None if draws is None else draws[..., i],
                    None if chances is None else chances[..., i],
                    level,
                    self.counted[i] if self.counted and kind == "factors" else None,
                )
                if kind == "factors":
                    rows.append(replace(row, characteristic=name))
                else:
                    rows.append(replace(row, at={**self.at, CODE: name}))
        return rows

    def _of(self, kind: str) -> Floats | None:
        return None if self.drawn.parts is None else getattr(self.drawn.parts, kind)

    def _chance(self, kind: str) -> Floats | None:
        return None if self.chance is None else getattr(self.chance, kind)

    def _value(
        self, number: Floats, draws: Floats | None, chance: Floats | None, level: float, known: Resampled | None = None
    ) -> Value:
        found = self._resampled(float(number), draws, level, known)
        if not found.defined:
            return Value(self.name, found.estimate, at=dict(self.at), note=self.why or "undefined on these rows")
        usual = None if chance is None else float(np.nanmean(chance)) if not np.isnan(chance).all() else None
        note = "; ".join(part for part in (self.note, found.note, self.drawn.note) if part)
        return Value(self.name, found.estimate, at=dict(self.at), chance=usual, note=note)

    def _resampled(self, number: float, draws: Floats | None, level: float, known: Resampled | None) -> Resampled:
        if np.isnan(number):
            return missing(1, self.why, self.n)
        if self.interval is not None:
            low, high = self.interval
            return Resampled(Estimate(number, low, high, self.n, "of the votes"), np.full(1, np.nan))
        if draws is None:
            return Resampled(replace(missing(1, "", self.n).estimate, value=number), np.full(1, np.nan))
        if self.drawn.method == "subsampling":
            return subsampled(number, draws, self.drawn.size, self.n, level, bias_rate=self.drawn.bias_rate)
        found = known or resampled(number, draws, self.n, level)
        method = f"{found.estimate.method}, conditional on the fit" if found.estimate.method else ""
        return replace(found, estimate=replace(found.estimate, method=method))


def undefined_result(name: str, why: str, n: int = 0, at: Mapping[str, str | int | float] | None = None) -> ScoreResult:
    """A score that does not exist here."""
    return ScoreResult(name, ScoreParts(np.asarray(np.nan)), n, why=why, at=at or {})


TREES, LEAST_LEAF, LEAVES = 10, 5, 500
"""Trees of a forest, rows that a leaf must have, and leaves that a tree has at most where rows abound."""


@dataclass(frozen=True, slots=True, eq=False)
class BlockPredictions:
    r"""What blocks tell of factors on the held-out rows; NaN off them and where the factor is missing.

    Args:
        terms: log p(v|z) - log p(v) in nats, whose mean is a lower bound of the information, shape :math:`(N, B, K)`.
        right: whether the class is told, or the squared error of a number, same shape.
    """

    terms: Floats
    right: Floats


def predictions_by_block(table: PanelTable, blocks: Sequence[tuple[int, ...]], seed: int) -> BlockPredictions:
    """Fits a forest to each block and factor on the training rows and asks it about the held-out ones."""
    shape = (len(table), len(blocks), len(table.factors))
    found = BlockPredictions(np.full(shape, np.nan), np.full(shape, np.nan))
    for k, factor in enumerate(table.factors):
        inside, outside = (rows[factor.known[rows]] for rows in (table.train, table.test))
        if not len(inside) or not len(outside) or len(np.unique(factor.classes[inside])) < 2:
            continue
        classes = factor.classes[outside]
        prior = np.bincount(factor.classes[inside], minlength=factor.levels) / len(inside)
        for b, block in enumerate(blocks):
            probabilities = _probabilities(table.codes[:, list(block)], factor, inside, outside, prior, seed)
            own = probabilities[np.arange(len(outside)), classes]
            found.terms[outside, b, k] = np.log(own) - np.log(np.maximum(prior[classes], 1 / len(inside)))
            if factor.discrete:
                found.right[outside, b, k] = probabilities.argmax(axis=1) == classes
            else:
                totals = np.bincount(factor.classes[inside], factor.values[inside], minlength=factor.levels)
                means = totals / np.maximum(prior * len(inside), 1)
                found.right[outside, b, k] = (factor.values[outside] - probabilities @ means) ** 2
    return found


def _probabilities(codes: Floats, factor: Factor, inside: Ids, outside: Ids, prior: Floats, seed: int) -> Floats:
    """Of each class for each held-out row, a hair of the frequencies mixed in so that no loss is infinite."""
    from sklearn.ensemble import ExtraTreesClassifier

    forest = ExtraTreesClassifier(
        TREES,
        min_samples_leaf=max(LEAST_LEAF, len(inside) // LEAVES),
        max_features=None,
        random_state=stream_key(seed, "block", factor.name) % 2**31,
    )
    with without_fit_warnings():
        forest.fit(codes[inside], factor.classes[inside])
    told = np.zeros((len(outside), factor.levels))
    told[:, forest.classes_] = forest.predict_proba(codes[outside])
    share = 1 / len(inside) ** 0.5
    return np.asarray((1 - share) * told + share * np.maximum(prior, 1 / len(inside)))


T = TypeVar("T")
At = Mapping[str, str | int | float]

MOST_COUNTS = 2_000_000_000
"""Rows and cells that are counted for intervals; beyond, information scores have none, and say so."""

ROWS_IN_A_BIN = 50
"""Rows that a bin of the robust profile must have."""

PRUNED_RANGE = 20.0
"""``pruning="range"``: a code is inactive if it spans less than a twentieth of what the widest spans."""


@dataclass(eq=False)
class PanelContext:
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

    table: PanelTable
    settings: PanelSettings
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
    def told(self) -> BlockPredictions:
        """What the wide blocks tell of each factor on the held-out rows."""
        return predictions_by_block(self.table, [self.table.blocks[j] for j in self.wide], self.seed)

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
        formula: Callable[[Floats], ScoreParts],
        chance: ScoreParts | None,
        why: str,
        note: str = "",
        resampled: Callable[[Floats], ScoreParts] | None = None,
        counted: tuple[Resampled, ...] = (),
    ) -> ScoreResult:
        """A score of held-out rows: ``formula`` takes sums of ``rows``, shape (..., C); so does ``resampled``, for
        resamples that need another one. ``counted`` as in ``ScoreResult``."""
        total, draws = self.weighed(rows)
        drawn = ResampledScore(None if draws is None else (resampled or formula)(draws))
        n = int((~np.isnan(rows)).any(axis=1).sum())
        return ScoreResult(name, formula(total), n, drawn, None if self.quick else chance, why, note, counted=counted)

    def informed(
        self, name: str, formula: Callable[[Information], ScoreParts], why: str, at: At = MappingProxyType({})
    ) -> ScoreResult:
        """A score that is a formula of the information matrix, with its interval and chance."""
        redrawn, note = self.redrawn
        drawn = ResampledScore(None, note=note)
        if redrawn is not None:
            drawn = ResampledScore(formula(redrawn), "subsampling", self.subsample_size)
        chance = None if self.quick else formula(self.permuted)
        return ScoreResult(name, formula(self.information), len(self.rows), drawn, chance, why, at=at)
