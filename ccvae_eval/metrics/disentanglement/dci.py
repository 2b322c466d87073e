r"""DCI: disentanglement, completeness, informativeness of a matrix of importances (Eastwood and Williams 2018).

R_jk is how much a predictor of factor k rests on code j. Robust: a forest, and how much the held-out loss grows when
the code is another row's, averaged over seeded fits; each factor's importances sum to 1, as the published ones do.
Reference: impurity gains of scikit-learn's gradient boosting. (Gains share out noise: of a perfect code they make a
disentanglement of .67 to .79.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ccvae_eval.core.types import Floats
from ccvae_eval.metrics.disentanglement.context import PanelContext, ResampledScore, ScoreResult, undefined_result
from ccvae_eval.metrics.disentanglement.information_scores import ScoreParts, mean_defined, permutations, weighted_mean
from ccvae_eval.metrics.disentanglement.predictors import Fit, fit, fit_seed, gains, knocked
from ccvae_eval.metrics.disentanglement.table import PanelTable

SURE = 3.0
"""Standard errors that an importance must exceed to count."""

HAIR = 1e-11
"""What the published code adds to an importance before it takes the logarithm."""

VALUES = ("dci_disentanglement", "dci_completeness", "dci_informativeness")


def _entropies(shares: Floats, axis: int) -> Floats:
    """Entropy over an axis of what is normalised there, in units of its greatest."""
    total = shares.sum(axis=axis, keepdims=True)
    p = shares / np.where(total > 0, total, 1.0) + HAIR
    p = p / p.sum(axis=axis, keepdims=True)
    return np.asarray(-(p * np.log(p)).sum(axis=axis) / np.log(shares.shape[axis]))


def disentanglement(importances: Floats) -> ScoreParts:
    r""":math:`\sum_j \rho_j (1 - H_K(R_j))`, :math:`\rho_j` = the share of all importance in code j.

    Args:
        importances: not negative, shape :math:`(..., J, K)`.

    Returns:
        NaN for K = 1 or where nothing is important; a code without importance has weight 0.

    >>> float(disentanglement(np.eye(3)).total.round(6))
    1.0
    """
    if importances.shape[-1] < 2:
        return ScoreParts(np.full(importances.shape[:-2], np.nan))
    weight = importances.sum(axis=-1)
    codes = np.where(weight > 0, 1 - _entropies(importances, -1), np.nan)
    return ScoreParts(weighted_mean(codes, weight), None, codes)


def completeness(importances: Floats) -> ScoreParts:
    r"""The same of each factor over the codes: :math:`\sum_k \rho_k (1 - H_J(R_{\cdot k}))`; NaN for one code."""
    if importances.shape[-2] < 2:
        return ScoreParts(np.full(importances.shape[:-2], np.nan))
    weight = importances.sum(axis=-2)
    factors = np.where(weight > 0, 1 - _entropies(importances, -2), np.nan)
    return ScoreParts(weighted_mean(factors, weight), factors)


def normalised(importances: Floats) -> Floats:
    """Importances of each factor summing to 1; those below 0 are none."""
    positive = np.maximum(importances, 0.0)
    total = positive.sum(axis=-2, keepdims=True)
    return np.asarray(np.where(total > 0, positive / np.where(total > 0, total, 1.0), 0.0))


@dataclass(frozen=True, slots=True, eq=False)
class Fits:
    """All fits of one table.

    Args:
        growth: per row, block and factor how much the loss grows, mean over fits, shape (N, J, K); None = by gain.
        counts: which block matters for which factor, 0 or 1, shape (J, K): its growth exceeds three standard errors.
        each: importances of each fit, shape (S, J, K).
        right: per row and factor, mean over fits, whether it is told (its squared error), and what to divide by (1, or
            the squared distance from the mean), shape (N, K, 2).
        train: accuracy on the training rows, shape (K,).
        models: the first fit of each factor.
    """

    growth: Floats | None
    counts: Floats
    each: Floats
    right: Floats
    train: Floats
    models: tuple[Fit | None, ...]


def fitted(bench: PanelContext) -> Fits:
    """The predictors, fitted once for the panel."""
    return bench.once("fits", lambda: fit_all(bench, bench.table, 1 if bench.quick else bench.settings.fits))


def predictor_of(bench: PanelContext) -> tuple[str, str]:
    """The predictor and the kind of importance: the published ones in the reference profile."""
    settings = bench.settings
    return (settings.predictor, settings.importance) if settings.robust else ("gradient_boosting", "gain")


def fit_all(bench: PanelContext, table: PanelTable, times: int) -> Fits:
    """Fits every factor ``times`` times."""
    name, importance = predictor_of(bench)
    times = times if bench.settings.robust else 1
    blocks = [table.blocks[j] for j in bench.kept]
    columns = [column for block in blocks for column in block]
    # columns of the scored blocks alone, so that a twin does not share its importance
    codes = np.ascontiguousarray(table.codes[:, columns])
    places = _places(blocks)
    count, wide = len(table.factors), len(blocks)
    growth = np.full((len(table), wide, count), np.nan) if importance == "permutation" else None
    each, right = np.zeros((times, wide, count)), np.full((len(table), count, 2), np.nan)
    train, models = np.full(count, np.nan), list[Fit | None]()
    for k, factor in enumerate(table.factors):
        inside, outside = (rows[factor.known[rows]] for rows in (table.train, table.test))
        made = [fit(name, codes, factor, inside, fit_seed(bench.seed, factor.name, s)) for s in range(times)]
        models.append(made[0])
        grown = np.zeros((len(outside), wide))
        share = np.zeros(len(outside))
        for s, model in enumerate(made):
            if model is None:
                continue
            if growth is not None and len(outside):
                found = knocked(model, codes, outside, places, bench.seed + s, factor.name)
                grown += found / times
                each[s, :, k] = found.mean(axis=0)
            elif growth is None:
                own = gains(model)
                each[s, :, k] = [own[list(block)].sum() for block in places]
            if len(outside):
                share += model.right(codes[outside], outside) / times
        if made[0] is None:
            continue
        if growth is not None:
            growth[outside, :, k] = grown
        right[outside, k, 0] = share
        right[outside, k, 1] = 1.0 if factor.discrete else (factor.values[outside] - made[0].mean) ** 2
        train[k] = _score(made[0], codes)
    counts = np.ones((wide, count)) if growth is None else _beyond_noise(growth)
    return Fits(growth, counts, normalised(each), right, train, tuple(models))


def _beyond_noise(growth: Floats) -> Floats:
    """1 where the mean over rows exceeds SURE of its standard errors, shape (J, K)."""
    rows = (~np.isnan(growth)).sum(axis=0)
    mean = np.nansum(growth, axis=0) / np.maximum(rows, 1)
    square = np.nansum(growth**2, axis=0) / np.maximum(rows, 1)
    error = np.sqrt(np.maximum(square - mean**2, 0.0) / np.maximum(rows, 1))
    return np.asarray(mean > SURE * error, dtype=np.float64)


def _places(blocks: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The blocks' columns among those that were kept."""
    ends = np.cumsum([0, *(len(block) for block in blocks)])
    return [tuple(range(a, b)) for a, b in pairwise(map(int, ends))]


def _score(model: Fit, codes: Floats) -> float:
    told = model.right(codes[model.inside], model.inside)
    if model.factor.discrete:
        return float(told.mean())
    return float(1 - told.mean() / model.variance)


def dci(bench: PanelContext) -> list[ScoreResult]:
    """The three scores, each with its interval and its spread.

    Under permuted factors no importance counts, and disentanglement and completeness are undefined: they have no
    chance level; that of informativeness says whether they mean anything.
    """
    table, n = bench.table, len(bench.table.test)
    found = fitted(bench)
    if all(model is None for model in found.models):
        return [undefined_result(name, "no factor varies on the training rows", n) for name in VALUES]
    importances = (
        found.each.mean(axis=0) if found.growth is None else normalised(np.nansum(found.growth, axis=0) * found.counts)
    )
    chance = None if bench.quick or not bench.settings.robust else _chance(bench)
    draws = _draws(bench, found)
    rows = []
    reasons = ("one factor, or no code matters", "one code, or no code matters")
    for name, formula, why in zip(VALUES, (disentanglement, completeness), reasons, strict=False):
        drawn = ResampledScore(None if draws is None else formula(draws))
        note = "" if bench.quick else spread_note(formula(found.each * found.counts).total)
        rows.append(ScoreResult(name, formula(importances), n, drawn, None, why, note))
    right = found.right.reshape(len(table), -1)
    kinds = np.array([factor.discrete for factor in table.factors])
    told = bench.fitted(VALUES[2], right, lambda totals: _informativeness(totals, kinds), chance, "no held-out row")
    rows.append(told)
    if not bench.settings.robust:
        rows.append(replace(told, name="dci_informativeness_train", point=ScoreParts(mean_defined(found.train), found.train),
                            drawn=ResampledScore(None), n=len(table.train)))  # fmt: skip
    return rows


def spread_note(totals: Floats) -> str:
    """How much the seeded fits differ, in words."""
    if totals.size < 2 or np.isnan(totals).any():
        return ""
    return f"{totals.size} fits, {float(totals.min()):.3f} to {float(totals.max()):.3f}"


def _informativeness(totals: Floats, discrete: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> ScoreParts:
    """Held-out accuracy, or R2 of a continuous factor."""
    share, whole = totals[..., 0::2], totals[..., 1::2]
    ratio = share / np.where(whole > 0, whole, np.nan)
    factors = np.where(discrete, ratio, 1 - ratio)
    return ScoreParts(mean_defined(factors), factors)


def _draws(bench: PanelContext, found: Fits) -> Floats | None:
    """Importances of each resample of the held-out rows, shape (B, J, K); none for gains, which have no rows."""
    if bench.quick or found.growth is None:
        return None
    shape = found.growth.shape
    totals = bench.weights.totals(found.growth.reshape(shape[0], -1))
    return normalised(totals.reshape(-1, *shape[1:]) * found.counts)


def _chance(bench: PanelContext) -> ScoreParts:
    """Informativeness of permuted factors, one fit. (Their importances are noise, of which none would count.)"""
    order = next(iter(permutations(bench.seed, len(bench.table), 1)))
    found = fit_all(bench, bench.table.shuffled(order), 1)
    kinds = np.array([factor.discrete for factor in bench.table.factors])
    return _informativeness(np.nansum(found.right.reshape(len(bench.table), -1), axis=0), kinds)
