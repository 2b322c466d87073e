r"""SAP: gap between the two latents that predict a factor best, each alone (Kumar, Sattigeri and Balakrishnan 2018).

Reference profile: test accuracy of a linear support vector machine, or the squared correlation of a continuous factor.
Robust profile: a histogram classifier on each latent, which does not need ordered classes, and balanced accuracy a of L
classes rescaled to (a - 1/L)/(1 - 1/L), so that guessing scores 0; for a continuous factor the R2 of the bins' means on
test rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ccvae_eval.core.types import Floats, Ids
from ccvae_eval.metrics.disentanglement.context import PanelContext, ScoreResult, undefined_results
from ccvae_eval.metrics.disentanglement.information_scores import (
    ScoreParts,
    contingency,
    over_factors,
    permutations,
    top_two,
)
from ccvae_eval.metrics.disentanglement.predictors import without_fit_warnings
from ccvae_eval.metrics.disentanglement.table import Factor, PanelTable
from ccvae_eval.statistics.information import Classes
from ccvae_eval.statistics.ratios import safe_ratio

MAX_BINS, ROWS_PER_BIN = 256, 20
"""Bounds on the bins of a histogram classifier: enough for factors of 200 levels, with this many training rows each."""

CHANCE_SHUFFLES = 5
"""Permutations of the factors that the chance level is averaged over."""

SVM_C = 0.01
"""C of the published support vector machine."""


def sap(context: PanelContext) -> list[ScoreResult]:
    r"""``sap``, and in the reference profile ``sap_continuous``, with all factors as numbers.

    .. math:: \frac1K \sum_k (S^{(k)}_1 - S^{(k)}_2)

    S_jk is the score of latent j alone on factor k, and :math:`S^{(k)}_1 \ge S^{(k)}_2` are the two greatest. Range: 0
    to 1. Undefined for fewer than two latents; constant factors are left out.
    """
    if len(context.latent_names) < 2:
        return undefined_results(["sap"], "needs two latent dimensions", len(context.table.test))
    if not context.settings.robust:
        return _published(context)
    scores = univariate_scores(context)
    chances = [scores.above_guessing(sums) for sums in scores.permuted]
    # each resample would find another, better runner-up among many uninformative latents, and the interval would lie
    # below the value; so the two latents are fixed to the best on all rows
    best = np.argsort(scores.above_guessing(np.nansum(scores.rows, axis=0)), axis=0, kind="stable")[[-1, -2]]
    return [
        context.heldout_result(
            "sap", scores.rows, lambda sums: best_two_gap(scores.above_guessing(sums)),
            best_two_gap(np.stack(chances)) if chances else None, "no factor varies",
            resampled=lambda sums: fixed_gap(scores.above_guessing(sums), best),
        )
    ]  # fmt: skip


def best_two_gap(scores: Floats) -> ScoreParts:
    """Mean over factors of the gap between the two best latents, from scores of shape (..., J, K)."""
    if scores.shape[-2] < 2:
        return ScoreParts(np.full(scores.shape[:-2], np.nan))
    first, second = top_two(scores, -2)
    return over_factors(first - second)


def fixed_gap(scores: Floats, best: Ids) -> ScoreParts:
    """Mean over factors of the gap between two given latents each.

    Args:
        scores: shape (..., J, K).
        best: indices of the two latents of each factor, shape (2, K).
    """
    each = [np.take_along_axis(scores, np.broadcast_to(row, (*scores.shape[:-2], 1, len(row))), -2) for row in best]
    return over_factors((each[0] - each[1])[..., 0, :])


def _published(context: PanelContext) -> list[ScoreResult]:
    table = context.table
    continuous = squared_correlations(table, table.train)
    pairs = zip(table.factors, continuous.T, strict=True)
    scores = np.stack([svm_accuracies(table, f) if f.discrete else plain for f, plain in pairs], axis=1)
    return [
        ScoreResult("sap", best_two_gap(scores), len(table.test), reason="no factor has two classes"),
        ScoreResult("sap_continuous", best_two_gap(continuous), len(table.train), reason="no factor varies"),
    ]


def squared_correlations(table: PanelTable, rows: Ids) -> Floats:
    """Squared correlation of every latent dimension with every factor as a number, shape (D, K).

    0 for a constant dimension, NaN for a constant factor.
    """
    found = np.full((table.codes.shape[1], len(table.factors)), np.nan)
    for k, factor in enumerate(table.factors):
        known = rows[~np.isnan(factor.values[rows])]
        if len(known) < 2:
            continue
        values = factor.values[known] - factor.values[known].mean()
        codes = table.codes[known] - table.codes[known].mean(axis=0)
        spread, variance = (codes**2).sum(axis=0), float((values**2).sum())
        usable = spread / (len(known) - 1) > 1e-12
        if variance > 0:
            found[:, k] = safe_ratio((codes.T @ values) ** 2, np.where(usable, spread * variance, 0.0), 0.0)
    return found


def svm_accuracies(table: PanelTable, factor: Factor) -> Floats:
    """Test accuracy of the published linear support vector machine on each latent dimension alone, shape (D,)."""
    from sklearn.svm import LinearSVC

    train, test = table.known_rows(factor)
    found = np.full(table.codes.shape[1], np.nan)
    if len(np.unique(factor.classes[train])) < 2 or not len(test):
        return found
    for j, column in enumerate(table.codes.T):
        machine = LinearSVC(C=SVM_C, class_weight="balanced", random_state=0)
        with without_fit_warnings():
            machine.fit(column[train, None], factor.classes[train])
        found[j] = float((machine.predict(column[test, None]) == factor.classes[test]).mean())
    return found


@dataclass(frozen=True, slots=True, eq=False)
class UnivariateScores:
    r"""Scores of each latent alone as a predictor of each factor, from test rows.

    Args:
        rows: terms of sums over rows, NaN off the test rows, shape :math:`(N, K (J + 1))`: for each factor the row's
            weight if latent j predicts its class, else 0 (or the squared error), and the weight itself (or the squared
            distance from the training mean).
        permuted: the same sums over rows for permuted factors.
        levels: number of classes of each factor in training; 0 = continuous.
    """

    rows: Floats
    permuted: list[Floats]
    levels: tuple[int, ...]

    def accuracies(self, sums: Floats) -> tuple[Floats, Floats]:
        """Balanced accuracies (R2 of continuous factors) and those of guessing, shapes (..., J, K) and (K,)."""
        table = sums.reshape(*sums.shape[:-1], len(self.levels), -1)
        share, levels = safe_ratio(table[..., :-1], table[..., -1:]), np.array(self.levels)
        share = np.where((levels == 0)[:, None], 1 - share, share)
        return np.moveaxis(share, -1, -2), safe_ratio(1.0, levels, 0.0)

    def above_guessing(self, sums: Floats) -> Floats:
        """Scores rescaled so that guessing is 0 and perfect prediction 1, clipped at 0; shape (..., J, K)."""
        accuracy, guess = self.accuracies(sums)
        return np.asarray(np.maximum((accuracy - guess) / (1 - guess), 0.0))


def univariate_scores(context: PanelContext) -> UnivariateScores:
    """Scores of a histogram classifier on every scored block, computed once for the panel."""
    return context.cached("univariate", lambda: _univariate_scores(context))


def _univariate_scores(context: PanelContext) -> UnivariateScores:
    table = context.table
    blocks = [table.blocks[j] for j in context.scored_blocks]
    single = [block[0] for block in blocks if len(block) == 1]
    binned, bins = histogram_bins(table.codes[:, single], table.train)
    levels = tuple(len(np.unique(f.classes[table.known_rows(f)[0]])) if f.discrete else 0 for f in table.factors)
    rows = _histogram_rows(table, blocks, binned, bins, levels)
    multivariate = [j for j, block in enumerate(blocks) if len(block) > 1]
    for j in multivariate:
        place = context.multivariate_blocks.index(int(context.scored_blocks[j]))
        _enter_block(context, rows, levels, j, place)
    shuffles = 0 if context.point_only or multivariate else CHANCE_SHUFFLES
    permuted = [
        np.nansum(_histogram_rows(table.with_permuted_factors(order), blocks, binned, bins, levels), axis=0)
        for order in permutations(context.seed, len(table), shuffles)
    ]
    return UnivariateScores(rows, permuted, levels)


def histogram_bins(codes: Floats, train: Ids) -> tuple[Classes, int]:
    """Bin of every row and dimension, of equal mass on the training rows, shape (N, D), and the number of bins."""
    bins = int(np.clip(len(train) // ROWS_PER_BIN, 2, MAX_BINS))
    binned = np.empty(codes.shape, dtype=np.int64)
    for j, column in enumerate(codes.T):
        ordered = np.sort(column[train])
        edges = np.unique(ordered[np.arange(1, bins) * len(train) // bins])
        binned[:, j] = np.searchsorted(edges, column, side="right")
    return binned, bins


def _histogram_rows(
    table: PanelTable, blocks: list[tuple[int, ...]], binned: Classes, bins: int, levels: tuple[int, ...]
) -> Floats:
    """``UnivariateScores.rows`` for the blocks of one dimension."""
    width = len(blocks) + 1
    found = np.full((len(table), len(table.factors) * width), np.nan)
    single = [j for j, block in enumerate(blocks) if len(block) == 1]
    for k, factor in enumerate(table.factors):
        train, test = table.known_rows(factor)
        if not len(train) or not len(test) or levels[k] == 1:
            continue
        part = found[:, k * width : (k + 1) * width]
        if factor.discrete:
            weight = class_weights(factor, test)
            part[test[:, None], single] = _hits(binned, factor, train, test, bins) * weight[:, None]
            part[test, -1] = weight
        else:
            part[test[:, None], single] = _squared_errors(binned, factor, train, test, bins)
            part[test, -1] = (factor.values[test] - factor.values[train].mean()) ** 2
    return found


def _enter_block(context: PanelContext, rows: Floats, levels: tuple[int, ...], block: int, place: int) -> None:
    """Fills in a block of several dimensions, from the forest's predictions."""
    width = len(context.scored_blocks) + 1
    for k, factor in enumerate(context.table.factors):
        test = context.table.known_rows(factor)[1]
        if len(test) and levels[k] != 1:
            weight = class_weights(factor, test) if factor.discrete else 1.0
            rows[test, k * width + block] = context.block_predictions.outcomes[test, place, k] * weight


def class_weights(factor: Factor, rows: Ids) -> Floats:
    """Weights of rows that sum to 1 and give every class the same weight."""
    counts = np.bincount(factor.classes[rows], minlength=factor.levels)
    return np.asarray(1 / (counts[factor.classes[rows]] * (counts > 0).sum()), dtype=np.float64)


def _hits(binned: Classes, factor: Factor, train: Ids, test: Ids, bins: int) -> Floats:
    """1 where a dimension's histogram predicts the class of a test row, else 0, shape (n, D)."""
    counts = contingency(binned[train], factor.classes[train], bins, factor.levels)
    # the class with the greatest p(bin | class), so that rare classes count alike
    frequency = safe_ratio(counts, counts.sum(axis=1, keepdims=True), 0.0)
    best = frequency.argmax(axis=2)
    # a bin without training rows predicts the most frequent class
    empty = counts.sum(axis=2) == 0
    best = np.where(empty, np.bincount(factor.classes[train]).argmax(), best)
    predicted = best[np.arange(binned.shape[1]), binned[test]]
    return np.asarray(predicted == factor.classes[test][:, None], dtype=np.float64)


def _squared_errors(binned: Classes, factor: Factor, train: Ids, test: Ids, bins: int) -> Floats:
    """Squared distance of each test row's value from the training mean of its bin, shape (n, D)."""
    values = factor.values[train]
    found = np.empty((len(test), binned.shape[1]))
    for j in range(binned.shape[1]):
        count = np.bincount(binned[train, j], minlength=bins)
        total = np.bincount(binned[train, j], values, minlength=bins)
        means = safe_ratio(total, count, values.mean())
        found[:, j] = (factor.values[test] - means[binned[test, j]]) ** 2
    return found
