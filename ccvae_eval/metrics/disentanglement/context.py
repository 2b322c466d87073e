"""Quantities that the scores of a panel share, such as the information matrix, and the results of scores.

A score is a function of a :class:`PanelContext` that returns :class:`ScoreResult` objects, which become rows of the
result table. The context computes each shared quantity once, when a score first needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np

from ccvae_eval.core.random_streams import stream_key
from ccvae_eval.core.results import Estimate, Method
from ccvae_eval.core.types import Bools, Floats, Gaussian, Ids
from ccvae_eval.data.interface import DataSet
from ccvae_eval.evaluation.result_table import NO_CONDITION, At, ResultTable
from ccvae_eval.metrics.disentanglement.information_scores import (
    BinnedTable,
    Information,
    ScoreParts,
    active_by_information,
    bin_table,
    duplicates,
    permutations,
    subsamples,
)
from ccvae_eval.metrics.disentanglement.predictors import PREDICTORS, without_fit_warnings
from ccvae_eval.metrics.disentanglement.settings import PanelSettings
from ccvae_eval.metrics.disentanglement.table import Factor, PanelTable
from ccvae_eval.statistics.intervals import Resampled, estimate_from_draws, mean_over
from ccvae_eval.statistics.ratios import safe_ratio
from ccvae_eval.statistics.resampling import ResampleWeights
from ccvae_eval.statistics.subsampling import MIN_SUBSAMPLE, RATE, subsampled

CODE = "code"
"""Key in ``Value.at`` of a value that belongs to one latent."""

MAX_COUNTS = 2_000_000_000
"""Rows and table entries counted over all subsamples; beyond it information scores have no confidence interval."""

ROWS_PER_BIN = 50
"""Fewest rows per bin, on average, in the robust profile."""

MAX_RANGE_RATIO = 20.0
"""``pruning="range"``: a latent is inactive if the widest range is at least this many times its own."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class ScoreResult:
    """One score of the panel.

    Args:
        name: name of the value.
        point: the score and its parts on all rows.
        n: number of rows that enter.
        draws: the score and its parts on resampled rows, with a leading axis of resamples; None without any.
        chance: the score of permuted factors, with the same parts; None without a chance level.
        reason: reason why the total is undefined, if it is.
        note: note that is shown with each value.
        at: further keys of the value.
        interval: lower and upper ends of the confidence intervals of the score and its parts, if they are not computed
            from resamples (votes, rendered groups).
        factor_estimates: an estimate for each factor from counts, used instead of resamples; the total is their mean.
        subsample_size: rows of each resample if they are drawn without replacement; 0 for a bootstrap of the test rows
            with the fits fixed.
        bias_rate: the score's bias falls with the number of rows to this power, and the interval is extended by the
            bias that the subsamples show; None for no bias.
    """

    name: str
    point: ScoreParts
    n: int
    draws: ScoreParts | None = None
    chance: ScoreParts | None = None
    reason: str = ""
    note: str = ""
    at: At = field(default_factory=dict)
    interval: tuple[ScoreParts, ScoreParts] | None = None
    factor_estimates: tuple[Resampled, ...] = ()
    subsample_size: int = 0
    bias_rate: float | None = None

    def add_to(
        self, table: ResultTable, factors: tuple[str, ...], latents: tuple[str, ...], reference: float | None
    ) -> None:
        """Adds the rows of the total, with its reference, then of each factor, then of each latent."""
        parts = [numbers for numbers in (self.point.factors, self.point.latents) if numbers is not None]
        left_out = int(np.isnan(parts[-1]).sum()) if parts else 0
        mean = mean_over(self.factor_estimates, table.weights.level) if self.factor_estimates else None
        self._add(table, "total", (), mean, excluded=left_out, reference=reference)
        for k, name in enumerate(factors if self.point.factors is not None else ()):
            known = self.factor_estimates[k] if self.factor_estimates else None
            self._add(table, "factors", (..., k), known, characteristic=name)
        for j, name in enumerate(latents if self.point.latents is not None else ()):
            self._add(table, "latents", (..., j), latent={CODE: name})

    def _add(
        self, table: ResultTable, part: str, place: tuple[Any, ...], known: Resampled | None = None, *,
        characteristic: str | None = None, latent: At = NO_CONDITION, excluded: int = 0, reference: float | None = None,
    ) -> None:  # fmt: skip
        """Adds the total, or one factor or latent; ``known`` is its estimate from counts."""
        number: Any
        ends: list[Any]
        number, draws, chances, *ends = (
            None if parts is None or getattr(parts, part) is None else getattr(parts, part)[place]
            for parts in (self.point, self.draws, self.chance, *(self.interval or ()))
        )
        found = _with_value_inside(self._estimate(float(number), draws, table.weights.level, known, ends))
        chance = None if chances is None or np.isnan(chances).all() else float(np.nanmean(chances))
        table.add(
            self.name, characteristic, found, {**self.at, **latent}, mean_at=None, chance=chance, reference=reference,
            why=self.reason or "undefined on these rows", note=self.note if found.defined else "", excluded=excluded,
        )  # fmt: skip

    def _estimate(
        self, number: float, draws: Floats | None, level: float, known: Resampled | None, ends: Sequence[Floats]
    ) -> Resampled:
        """The estimate of the total or a part; ``ends`` are those of its interval if it is given."""
        if ends and not np.isnan(number):
            low, high = map(float, ends)
            return Resampled(Estimate(number, low, high, self.n, Method.VOTES), np.empty(0))
        if draws is None or np.isnan(number):
            return Resampled(Estimate(number, n=self.n), np.empty(0))
        if self.subsample_size:
            return subsampled(number, draws, self.subsample_size, self.n, level, bias_rate=self.bias_rate)
        found = known or estimate_from_draws(number, draws, self.n, level)
        method = f"{found.estimate.method}, conditional on the fit" if found.estimate.method else ""
        return replace(found, estimate=replace(found.estimate, method=method))


def _with_value_inside(found: Resampled) -> Resampled:
    """Extends the interval to the value: subsamples of a clipped or biased score can all lie on one side of it."""
    estimate = found.estimate
    if np.isnan(estimate.low):
        return found
    low, high = min(estimate.low, found.value), max(estimate.high, found.value)
    return replace(found, estimate=replace(estimate, low=low, high=high))


def undefined_results(names: Iterable[str], reason: str, n: int = 0) -> list[ScoreResult]:
    """Scores that are undefined for a reason."""
    return [ScoreResult(name, ScoreParts(np.asarray(np.nan)), n, reason=reason) for name in names]


@dataclass(frozen=True, slots=True, eq=False)
class BlockPredictions:
    r"""Predictions of factors from blocks of several dimensions; NaN off the test rows and for missing values.

    Args:
        log_ratios: log p(v|z) - log p(v) in nats, whose mean is a lower bound of the mutual information, shape
            :math:`(N, B, K)`.
        outcomes: 1 or 0 for a class predicted right or wrong, or the squared error of a continuous factor, same shape.
    """

    log_ratios: Floats
    outcomes: Floats


def predictions_by_block(table: PanelTable, blocks: Sequence[tuple[int, ...]], seed: int) -> BlockPredictions:
    """Fits a forest for each block and factor on the training rows and predicts the test rows.

    Joint bins of several dimensions would have too few rows each, so the information of a block is this lower bound.
    """
    shape = (len(table), len(blocks), len(table.factors))
    found = BlockPredictions(np.full(shape, np.nan), np.full(shape, np.nan))
    for k, factor in enumerate(table.factors):
        train, test = table.known_rows(factor)
        if not len(train) or not len(test) or len(np.unique(factor.classes[train])) < 2:
            continue
        classes = factor.classes[test]
        prior = np.bincount(factor.classes[train], minlength=factor.levels) / len(train)
        for b, block in enumerate(blocks):
            probabilities = _probabilities(table.codes[:, list(block)], factor, train, test, prior, seed)
            own = probabilities[np.arange(len(test)), classes]
            found.log_ratios[test, b, k] = np.log(own) - np.log(np.maximum(prior[classes], 1 / len(train)))
            if factor.discrete:
                found.outcomes[test, b, k] = probabilities.argmax(axis=1) == classes
            else:
                totals = np.bincount(factor.classes[train], factor.values[train], minlength=factor.levels)
                means = totals / np.maximum(prior * len(train), 1)
                found.outcomes[test, b, k] = (factor.values[test] - probabilities @ means) ** 2
    return found


def _probabilities(codes: Floats, factor: Factor, train: Ids, test: Ids, prior: Floats, seed: int) -> Floats:
    """Predicted class probabilities of the test rows, mixed with the prior so that no log loss is infinite."""
    forest = PREDICTORS["forest"](True, stream_key(seed, "block", factor.name) % 2**31, len(train))
    with without_fit_warnings():
        forest.fit(codes[train], factor.classes[train])
    predicted = np.zeros((len(test), factor.levels))
    predicted[:, forest.classes_] = forest.predict_proba(codes[test])
    share = 1 / len(train) ** 0.5
    return np.asarray((1 - share) * predicted + share * np.maximum(prior, 1 / len(train)))


@dataclass(eq=False)
class PanelContext:
    """The input of a panel and the quantities that its scores share.

    Args:
        table: codes and factors.
        settings: settings of the panel.
        seed: seed of all random streams.
        weights: bootstrap weights of the rows.
        posterior: q(z|x) of the rows, if the codes come from a model.
        data: the data set that was encoded, or None.
        encode: encodes further images of that data set, shape (n, D); None if no model is at hand.
        point_only: True to compute scores without confidence intervals and chance levels.
        notes: notes of the measurement, extended by scores.
    """

    table: PanelTable
    settings: PanelSettings
    seed: int
    weights: ResampleWeights
    posterior: Gaussian | None = None
    data: DataSet | None = None
    encode: Callable[..., Floats] | None = None
    point_only: bool = False
    notes: list[str] = field(default_factory=list)
    _cache: dict[str, object] = field(default_factory=dict)

    def cached(self, key: str, compute: Callable[[], T]) -> T:
        """The result of ``compute``, which is called once per key."""
        if key not in self._cache:
            self._cache[key] = compute()
        return cast("T", self._cache[key])

    @cached_property
    def rows(self) -> Ids:
        """Rows on which information is counted: all in the robust profile, the training rows as published."""
        return self.table.rows if self.settings.robust else self.table.train

    @property
    def bins(self) -> int:
        """Bins of each latent dimension: the setting, in the robust profile limited by the number of rows."""
        bins = self.settings.bins
        return min(bins, max(len(self.rows) // ROWS_PER_BIN, 2)) if self.settings.robust else bins

    @cached_property
    def binned(self) -> BinnedTable:
        return bin_table(self.table, self.rows, self.bins, robust=self.settings.robust)

    @cached_property
    def multivariate_blocks(self) -> tuple[int, ...]:
        """Indices of the blocks of several dimensions."""
        return tuple(j for j, block in enumerate(self.table.blocks) if len(block) > 1)

    @cached_property
    def block_predictions(self) -> BlockPredictions:
        """Predictions of each factor from each block of several dimensions on the test rows."""
        return predictions_by_block(self.table, [self.table.blocks[j] for j in self.multivariate_blocks], self.seed)

    def mutual_information(
        self, rows: Ids | slice = slice(None), order: Ids | None = None, *, permuted: bool = False
    ) -> Floats:
        """Mutual information of every block with every factor in nats, shape (all blocks, K), before correction.

        Args:
            rows: the rows to count, as positions in ``self.rows``.
            order: a permutation of these rows that is applied to the factors.
            permuted: True if the factors are permuted; blocks of several dimensions then have 0, since a held-out log
                ratio is negative on average without information.
        """
        dimensions = self.binned.mutual_information(rows, order)
        found = dimensions[[block[0] for block in self.table.blocks]]
        if self.multivariate_blocks:
            log_ratios = self.block_predictions.log_ratios[self.table.rows[rows]]
            count = (~np.isnan(log_ratios)).sum(axis=0)
            mean = safe_ratio(np.nansum(log_ratios, axis=0), count, 0.0)
            found[list(self.multivariate_blocks)] = 0.0 if permuted else mean
        return found

    @cached_property
    def null_information(self) -> Floats:
        """Information of all blocks about permuted factors, shape (S, all blocks, K)."""
        orders = permutations(self.seed, len(self.rows), self.settings.shuffles)
        return np.stack([self.mutual_information(order=order, permuted=True) for order in orders])

    @cached_property
    def duplicate_blocks(self) -> dict[int, int]:
        """Blocks of one dimension that are a monotone transform of an earlier one, mapped to that one (robust only)."""
        if not self.settings.robust:
            return {}
        single = {block[0]: j for j, block in enumerate(self.table.blocks) if len(block) == 1}
        columns = list(single)
        found = duplicates(self.table.codes[:, columns]) if columns else {}
        return {single[columns[a]]: single[columns[b]] for a, b in found.items()}

    @cached_property
    def scored_blocks(self) -> Ids:
        """Indices of the J blocks that are scored: all but duplicates."""
        return np.array([j for j in range(len(self.table.blocks)) if j not in self.duplicate_blocks], dtype=np.int64)

    @cached_property
    def latent_names(self) -> tuple[str, ...]:
        """Names of the scored blocks."""
        return tuple(self.table.names[j] for j in self.scored_blocks)

    @cached_property
    def information(self) -> Information:
        """The information matrix of the scored blocks; robust: minus its mean under permutation, clipped at 0."""
        factors, dimensions, conditional = self.binned.entropies()
        plain = self.mutual_information()[self.scored_blocks]
        blocks = [self.table.blocks[j] for j in self.scored_blocks]
        latents = np.array([dimensions[b[0]] if len(b) == 1 else np.nan for b in blocks])
        limited = self.settings.robust and not self.multivariate_blocks
        capacity = float(np.log(self.bins)) if limited else np.inf
        every = np.ones(len(blocks), dtype=bool)
        base = Information(plain, factors, latents, conditional, self.binned.bins, every, capacity)
        if not self.settings.robust:
            return base.with_mutual(plain, self._active(plain))
        excess = plain - self.null_information[:, self.scored_blocks].mean(axis=0)
        return base.with_mutual(np.maximum(excess, 0.0), self._active(excess))

    def _active(self, excess: Floats) -> Bools:
        if self.settings.robust and self.settings.pruning == "information":
            null = self.null_information[:, self.scored_blocks]
            freedom = (self.binned.bins - 1) * (np.array(self.binned.levels, dtype=np.float64) - 1)
            known = (self.binned.classes >= 0).sum(axis=1).astype(np.float64)
            return active_by_information(excess, null - null.mean(axis=0), freedom, known)
        codes = self.table.codes[self.rows]
        blocks = [self.table.blocks[j] for j in self.scored_blocks]
        ranges = np.array([float(np.ptp(codes[:, block], axis=0).max()) for block in blocks])
        return np.asarray((ranges > ranges.max() / MAX_RANGE_RATIO) & (ranges > 0))

    @cached_property
    def permuted_information(self) -> Information:
        """The information matrix of permuted factors, shape (S, J, K), for chance levels."""
        null = self.null_information[:, self.scored_blocks]
        mutual = np.maximum(null - null.mean(axis=0), 0.0) if self.settings.robust else null
        return self.information.with_mutual(mutual)

    @property
    def subsample_size(self) -> int:
        return int(len(self.rows) ** RATE)

    def subsamples(self, draws: int) -> list[Ids]:
        """Subsamples for a confidence interval, as positions in ``self.rows``."""
        return list(subsamples(self.seed, len(self.rows), self.subsample_size, draws))

    @cached_property
    def subsampled_information(self) -> tuple[Information | None, str]:
        """The information matrix of subsamples, shape (B, J, K), with the null of their size subtracted.

        None with the reason if there are no subsamples.
        """
        size, settings, width = self.subsample_size, self.settings, self.table.codes.shape[1]
        if reason := self.no_subsamples:
            return None, reason
        counts = size * len(self.table.factors) + self.binned.bins * sum(self.binned.levels)
        if counts * width * settings.draws > MAX_COUNTS:
            return None, f"no confidence interval: too many latent dimensions ({width}) for {settings.draws} subsamples"
        drawn = self.subsamples(settings.draws)
        found = np.stack([self.mutual_information(rows) for rows in drawn])[:, self.scored_blocks]
        if settings.robust:
            pairs = zip(drawn, permutations(self.seed, size, settings.shuffles), strict=False)
            null = np.stack([self.mutual_information(rows, order, permuted=True) for rows, order in pairs])
            found = np.maximum(found - null[:, self.scored_blocks].mean(axis=0), 0.0)
        active = np.broadcast_to(self.information.active, found.shape[:-1])
        return self.information.with_mutual(found, active), ""

    @property
    def no_subsamples(self) -> str:
        """Reason why there are no subsamples, such as too few rows; "" if there are."""
        size = self.subsample_size
        if self.point_only or MIN_SUBSAMPLE <= size < len(self.rows):
            return "no confidence interval: only totals are computed" if self.point_only else ""
        return f"no confidence interval: subsamples must have at least {MIN_SUBSAMPLE} rows, got {size}"

    def heldout_result(
        self,
        name: str,
        rows: Floats,
        formula: Callable[[Floats], ScoreParts],
        chance: ScoreParts | None,
        reason: str,
        *,
        resampled: Callable[[Floats], ScoreParts] | None = None,
        factor_estimates: tuple[Resampled, ...] = (),
    ) -> ScoreResult:
        """A score that is a function of sums over test rows.

        Args:
            name, chance, reason, factor_estimates: as in :class:`ScoreResult`.
            rows: the terms of the sums, NaN = absent, shape (N, C).
            formula: maps sums of shape (..., C) to the score.
            resampled: another formula for the resamples; default: the same.
        """
        draws = None if self.point_only else (resampled or formula)(self.weights.totals(rows))
        point, n = formula(np.nansum(rows, axis=0)), int((~np.isnan(rows)).any(axis=1).sum())
        return ScoreResult(name, point, n, draws, chance, reason, factor_estimates=factor_estimates)

    def information_result(
        self, name: str, formula: Callable[[Information], ScoreParts], reason: str, at: At = NO_CONDITION
    ) -> ScoreResult:
        """A score that is a function of the information matrix, with its confidence interval and chance level."""
        information, note = self.subsampled_information
        draws = None if information is None else formula(information)
        chance = None if self.point_only else formula(self.permuted_information)
        point, size = formula(self.information), self.subsample_size
        return ScoreResult(name, point, len(self.rows), draws, chance, reason, note, at, subsample_size=size)
