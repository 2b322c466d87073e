r"""SAP: the gap between the two codes that tell a factor best, each alone (Kumar, Sattigeri and Balakrishnan 2018).

Reference: test accuracy of a linear support vector machine, or the squared correlation of a continuous factor.
Robust: a histogram of each code instead, which needs no order of the classes, and balanced accuracy a of L classes as
(a - 1/L)/(1 - 1/L), so that guessing is 0; of a continuous factor the held-out share of variance that the bins' means
explain.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ccvae_eval.core.types import Floats, Ids
from ccvae_eval.metrics.disentanglement.context import PanelContext, ScoreResult, undefined_result
from ccvae_eval.metrics.disentanglement.information_scores import (
    ScoreParts,
    contingency,
    mean_defined,
    permutations,
    top_two,
)
from ccvae_eval.metrics.disentanglement.predictors import without_fit_warnings
from ccvae_eval.metrics.disentanglement.table import Factor, PanelTable
from ccvae_eval.statistics.information import Classes

MOST_BINS, ROWS_IN_A_BIN = 256, 20
"""Of a histogram classifier: it may have to tell 200 levels, and each bin votes by so many rows."""

CLASSIFIER_SHUFFLES = 5
"""Permuted factors that the chance level of a fitted score is averaged over."""

STRENGTH = 0.01
"""C of the published support vector machine."""

FEW_CODES = "one code: there is no second best"


def gap(scores: Floats) -> ScoreParts:
    """The mean over factors of the gap of the two best codes, from scores of shape (..., J, K)."""
    if scores.shape[-2] < 2:
        return ScoreParts(np.full(scores.shape[:-2], np.nan))
    first, second = top_two(scores, -2)
    return ScoreParts(mean_defined(first - second), first - second)


def gap_between(scores: Floats, best: Ids) -> ScoreParts:
    """The mean over factors of the gap of two given codes each, ``best`` of shape (2, K), from scores (..., J, K)."""
    each = [np.take_along_axis(scores, np.broadcast_to(row, (*scores.shape[:-2], 1, len(row))), -2) for row in best]
    difference = (each[0] - each[1])[..., 0, :]
    return ScoreParts(mean_defined(difference), difference)


def sap(bench: PanelContext) -> list[ScoreResult]:
    """The scores ``sap`` and, as published, ``sap_continuous``: all factors taken as numbers."""
    if len(bench.names) < 2:
        return [undefined_result("sap", FEW_CODES, len(bench.table.test))]
    if not bench.settings.robust:
        return _published(bench)
    told = univariate_scores(bench)
    chances = [told.of_totals(totals) for totals in told.permuted]
    chance = gap(np.stack(chances)) if chances else None
    # each resample finds another second best among codes that know nothing, and a better one: with 50 such codes all of
    # the interval would lie below the value. So resamples keep to the two codes of all rows
    best = np.argsort(told.of_totals(np.nansum(told.rows, axis=0)), axis=0, kind="stable")[[-1, -2]]
    found = bench.fitted(
        "sap",
        told.rows,
        lambda totals: gap(told.of_totals(totals)),
        chance,
        "no factor varies",
        resampled=lambda totals: gap_between(told.of_totals(totals), best),
    )
    return [found]


def _published(bench: PanelContext) -> list[ScoreResult]:
    table = bench.table
    continuous = squared_correlations(table, table.train)
    scores = continuous.copy()
    for k, factor in enumerate(table.factors):
        if factor.discrete:
            scores[:, k] = support_vector_accuracies(table, factor)
    n = len(table.test)
    numbers = ScoreResult("sap_continuous", gap(continuous), len(table.train), why="no factor varies")
    return [ScoreResult("sap", gap(scores), n, why="no factor has two classes"), numbers]


def squared_correlations(table: PanelTable, rows: Ids) -> Floats:
    """R2 of every column with every factor taken as a number, shape (D, K); 0 for a constant column."""
    found = np.full((table.codes.shape[1], len(table.factors)), np.nan)
    for k, factor in enumerate(table.factors):
        here = rows[~np.isnan(factor.values[rows])]
        if len(here) < 2:
            continue
        values = factor.values[here] - factor.values[here].mean()
        codes = table.codes[here] - table.codes[here].mean(axis=0)
        spread, variance = (codes**2).sum(axis=0), float((values**2).sum())
        usable = (spread / (len(here) - 1) > 1e-12) & (variance > 0)
        found[:, k] = np.where(usable, (codes.T @ values) ** 2 / np.where(usable, spread * variance, 1.0), 0.0)
        if variance == 0:
            found[:, k] = np.nan
    return found


def support_vector_accuracies(table: PanelTable, factor: Factor) -> Floats:
    """Test accuracy of the published linear machine on each column alone, shape (D,)."""
    from sklearn.svm import LinearSVC

    inside, outside = (rows[factor.known[rows]] for rows in (table.train, table.test))
    found = np.full(table.codes.shape[1], np.nan)
    if len(np.unique(factor.classes[inside])) < 2 or not len(outside):
        return found
    for j, column in enumerate(table.codes.T):
        machine = LinearSVC(C=STRENGTH, class_weight="balanced", random_state=0)
        with without_fit_warnings():
            machine.fit(column[inside, None], factor.classes[inside])
        found[j] = float((machine.predict(column[outside, None]) == factor.classes[outside]).mean())
    return found


@dataclass(frozen=True, slots=True, eq=False)
class UnivariateScores:
    r"""What each block alone tells of each factor on held-out rows.

    Args:
        rows: for each factor, of each block whether the row's class is told (or what is left of its variance), and
            what to divide by; shape :math:`(N, K (J + 1))`, NaN off the test rows.
        permuted: sums over the rows of the same for permuted factors.
        levels: classes of each factor, 0 = continuous.
    """

    rows: Floats
    permuted: list[Floats]
    levels: tuple[int, ...]

    def raw(self, totals: Floats) -> tuple[Floats, Floats]:
        """Balanced accuracy (or held-out R2), and what guessing reaches; shapes (..., J, K) and (K,)."""
        count = len(self.levels)
        table = totals.reshape(*totals.shape[:-1], count, -1)
        whole = table[..., -1]
        share = table[..., :-1] / np.where(whole > 0, whole, np.nan)[..., None]
        levels = np.array(self.levels)
        share = np.where((levels == 0)[:, None], 1 - share, share)
        return np.moveaxis(share, -1, -2), np.where(levels > 0, 1 / np.maximum(levels, 1), 0.0)

    def of_totals(self, totals: Floats) -> Floats:
        """Scores where guessing is 0 and certainty 1, not below 0; shape (..., J, K)."""
        share, guess = self.raw(totals)
        return np.asarray(np.maximum((share - guess) / (1 - guess), 0.0))


def univariate_scores(bench: PanelContext) -> UnivariateScores:
    """Histogram classifiers of every scored block, computed once for the panel."""
    return bench.once("alone", lambda: _univariate_scores(bench))


def _univariate_scores(bench: PanelContext) -> UnivariateScores:
    table = bench.table
    blocks = [table.blocks[j] for j in bench.kept]
    wide = {j: bench.wide.index(int(place)) for j, place in enumerate(bench.kept) if int(place) in bench.wide}
    single = [block[0] for block in blocks if len(block) == 1]
    cells, bins = histogram_cells(table.codes[:, single], table.train)
    levels = tuple(_levels(factor, table.train) for factor in table.factors)
    rows = _told(table, blocks, cells, bins, levels)
    for j, place in wide.items():
        _enter_wide(bench, rows, levels, j, place)
    shuffles = 0 if bench.quick or wide else CLASSIFIER_SHUFFLES
    permuted = [
        np.nansum(_told(table.shuffled(order), blocks, cells, bins, levels), axis=0)
        for order in permutations(bench.seed, len(table), shuffles)
    ]
    return UnivariateScores(rows, permuted, levels)


def _levels(factor: Factor, train: Ids) -> int:
    """Classes that occur in training; 0 for numbers."""
    return len(np.unique(factor.classes[train][factor.known[train]])) if factor.discrete else 0


def histogram_cells(codes: Floats, train: Ids) -> tuple[Classes, int]:
    """Bins of equal mass on the training rows, of every row; shape (N, D)."""
    bins = int(np.clip(len(train) // ROWS_IN_A_BIN, 2, MOST_BINS))
    cells = np.empty(codes.shape, dtype=np.int64)
    for j, column in enumerate(codes.T):
        ordered = np.sort(column[train])
        edges = np.unique(ordered[np.arange(1, bins) * len(train) // bins])
        cells[:, j] = np.searchsorted(edges, column, side="right")
    return cells, bins


def _told(
    table: PanelTable, blocks: list[tuple[int, ...]], cells: Classes, bins: int, levels: tuple[int, ...]
) -> Floats:
    width = len(blocks) + 1
    found = np.full((len(table), len(table.factors) * width), np.nan)
    narrow = [j for j, block in enumerate(blocks) if len(block) == 1]
    for k, factor in enumerate(table.factors):
        inside, outside = (rows[factor.known[rows]] for rows in (table.train, table.test))
        if not len(inside) or not len(outside) or levels[k] == 1:
            continue
        part = found[:, k * width : (k + 1) * width]
        if factor.discrete:
            weight = class_weights(factor, outside)
            part[outside[:, None], narrow] = _right(cells, factor, inside, outside, bins) * weight[:, None]
            part[outside, -1] = weight
        else:
            part[outside[:, None], narrow] = _left(cells, factor, inside, outside, bins)
            part[outside, -1] = (factor.values[outside] - factor.values[inside].mean()) ** 2
    return found


def _enter_wide(bench: PanelContext, rows: Floats, levels: tuple[int, ...], block: int, place: int) -> None:
    """Puts in what a forest tells from a block of several columns."""
    width = len(bench.kept) + 1
    for k, factor in enumerate(bench.table.factors):
        outside = bench.table.test[factor.known[bench.table.test]]
        if len(outside) and levels[k] != 1:
            right = bench.told.right[outside, place, k]
            weight = class_weights(factor, outside) if factor.discrete else 1.0
            rows[outside, k * width + block] = right * weight


def class_weights(factor: Factor, rows: Ids) -> Floats:
    """Weights by which every class counts alike, shape of the rows; they sum to 1."""
    counts = np.bincount(factor.classes[rows], minlength=factor.levels)
    return np.asarray(1 / (counts[factor.classes[rows]] * (counts > 0).sum()), dtype=np.float64)


def _right(cells: Classes, factor: Factor, inside: Ids, outside: Ids, bins: int) -> Floats:
    """Whether each column's histogram tells the class of each row, shape (rows, D)."""
    counts = contingency(cells[inside], factor.classes[inside], bins, factor.levels)
    frequency = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    best = frequency.argmax(axis=2)
    # a bin that no training row fell into says the most frequent class
    empty = counts.sum(axis=2) == 0
    best = np.where(empty, np.bincount(factor.classes[inside]).argmax(), best)
    told = best[np.arange(cells.shape[1]), cells[outside]]
    return np.asarray(told == factor.classes[outside][:, None], dtype=np.float64)


def _left(cells: Classes, factor: Factor, inside: Ids, outside: Ids, bins: int) -> Floats:
    """Squared distance of each row's value from its bin's mean in training, shape (rows, D)."""
    values = factor.values[inside]
    found = np.empty((len(outside), cells.shape[1]))
    for j in range(cells.shape[1]):
        count = np.bincount(cells[inside, j], minlength=bins)
        total = np.bincount(cells[inside, j], values, minlength=bins)
        means = np.where(count > 0, total / np.maximum(count, 1), values.mean())
        found[:, j] = (factor.values[outside] - means[cells[outside, j]]) ** 2
    return found
