r"""DCI: disentanglement, completeness and informativeness (Eastwood and Williams 2018).

R_jk is the importance of latent j for a predictor of factor k. Robust profile: the increase of a forest's loss on test
rows when latent j is permuted, averaged over seeded fits and normalised to sum to 1 over j. Reference profile: impurity
gains of scikit-learn's gradient boosting, which also assign importance to noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ccvae_eval.core.types import Floats
from ccvae_eval.metrics.disentanglement.context import PanelContext, ScoreResult, undefined_results
from ccvae_eval.metrics.disentanglement.information_scores import (
    ScoreParts,
    over_factors,
    permutations,
    weighted_mean,
)
from ccvae_eval.metrics.disentanglement.predictors import (
    FittedPredictor,
    fit,
    fit_seed,
    gain_importances,
    loss_increases,
)
from ccvae_eval.metrics.disentanglement.table import PanelTable
from ccvae_eval.statistics.ratios import safe_ratio

SIGNIFICANT_ERRORS = 3.0
"""Standard errors that an importance must exceed to count."""

EPSILON = 1e-11
"""Added to importances before the logarithm, as in the published code."""

VALUES = ("dci_disentanglement", "dci_completeness", "dci_informativeness")


def disentanglement(importances: Floats) -> ScoreParts:
    r"""Disentanglement: concentration of each latent's importance on one factor (Eastwood and Williams 2018).

    .. math:: \sum_j \rho_j (1 - H_K(P_j)), \qquad P_{jk} = \frac{R_{jk}}{\sum_l R_{jl}}, \qquad
              \rho_j = \frac{\sum_k R_{jk}}{\sum_{il} R_{il}}

    :math:`H_K` is the entropy with logarithms to base K.

    Args:
        importances: R, not negative, shape :math:`(..., J, K)`; leading axes are samples.

    Returns:
        Total in [0, 1] and the part of each latent; NaN for one factor or if all importances are 0.

    >>> float(disentanglement(np.eye(3)).total.round(6))
    1.0
    """
    if importances.shape[-1] < 2:
        return ScoreParts(np.full(importances.shape[:-2], np.nan))
    weight = importances.sum(axis=-1)
    latents = np.where(weight > 0, 1 - _relative_entropies(importances, -1), np.nan)
    return ScoreParts(weighted_mean(latents, weight), None, latents)


def completeness(importances: Floats) -> ScoreParts:
    r"""Completeness: concentration of each factor's importance on one latent (Eastwood and Williams 2018).

    .. math:: \sum_k \rho_k (1 - H_J(\tilde P_k)), \qquad \tilde P_{jk} = \frac{R_{jk}}{\sum_i R_{ik}}, \qquad
              \rho_k = \frac{\sum_j R_{jk}}{\sum_{il} R_{il}}

    Args:
        importances: R, not negative, shape :math:`(..., J, K)`; leading axes are samples.

    Returns:
        Total in [0, 1] and the part of each factor; NaN for one latent or if all importances are 0.
    """
    if importances.shape[-2] < 2:
        return ScoreParts(np.full(importances.shape[:-2], np.nan))
    weight = importances.sum(axis=-2)
    factors = np.where(weight > 0, 1 - _relative_entropies(importances, -2), np.nan)
    return ScoreParts(weighted_mean(factors, weight), factors)


def _relative_entropies(importances: Floats, axis: int) -> Floats:
    """Entropy over an axis of the importances normalised there, as a share of its maximum."""
    total = importances.sum(axis=axis, keepdims=True)
    p = safe_ratio(importances, total, 0.0) + EPSILON
    p = p / p.sum(axis=axis, keepdims=True)
    return np.asarray(-(p * np.log(p)).sum(axis=axis) / np.log(importances.shape[axis]))


def normalised(importances: Floats) -> Floats:
    """Importances clipped at 0 and normalised to sum to 1 for each factor."""
    positive = np.maximum(importances, 0.0)
    return safe_ratio(positive, positive.sum(axis=-2, keepdims=True), 0.0)


@dataclass(frozen=True, slots=True, eq=False)
class DCIFits:
    """All fits of one table.

    Args:
        increases: increase of the loss of each row when a latent is permuted, mean over fits, shape (N, J, K); None
            for gain importances.
        significant: 1 where the mean increase exceeds three standard errors, else 0, shape (J, K); 1 for gains.
        importances: normalised importances of each fit, shape (S, J, K).
        outcomes: for each row and factor, share of fits that predict the class right and 1, or mean squared error and
            squared distance from the training mean, shape (N, K, 2).
        train: accuracy (R2 of a continuous factor) on the training rows, shape (K,).
        models: the first fit of each factor; None where none was possible.
    """

    increases: Floats | None
    significant: Floats
    importances: Floats
    outcomes: Floats
    train: Floats
    models: tuple[FittedPredictor | None, ...]


def dci_fits(context: PanelContext) -> DCIFits:
    """The fits of the panel, made once."""
    return context.cached(
        "fits", lambda: fit_all(context, context.table, 1 if context.point_only else context.settings.fits)
    )


def predictor_of(context: PanelContext) -> tuple[str, str]:
    """Names of the predictor and of the importance; the published ones in the reference profile."""
    settings = context.settings
    return (settings.predictor, settings.importance) if settings.robust else ("gradient_boosting", "gain")


def fit_all(context: PanelContext, table: PanelTable, times: int) -> DCIFits:
    """Fits a predictor of every factor ``times`` times (once in the reference profile)."""
    name, importance = predictor_of(context)
    times = times if context.settings.robust else 1
    blocks = [table.blocks[j] for j in context.scored_blocks]
    # only the scored blocks, so that duplicates do not share the importance
    codes = np.ascontiguousarray(table.codes[:, [column for block in blocks for column in block]])
    blocks = _consecutive(blocks)
    count, width = len(table.factors), len(blocks)
    increases = np.full((len(table), width, count), np.nan) if importance == "permutation" else None
    importances, outcomes = np.zeros((times, width, count)), np.full((len(table), count, 2), np.nan)
    train_scores, models = np.full(count, np.nan), list[FittedPredictor | None]()
    for k, factor in enumerate(table.factors):
        train, test = table.known_rows(factor)
        fitted = (fit(name, codes, factor, train, fit_seed(context.seed, factor.name, s)) for s in range(times))
        fits = [model for model in fitted if model is not None]  # all or none
        models.append(fits[0] if fits else None)
        if not fits:
            continue
        mean_increase, mean_outcome = np.zeros((len(test), width)), np.zeros(len(test))
        for s, model in enumerate(fits):
            if increases is not None and len(test):
                found = loss_increases(model, codes, test, blocks, context.seed + s, factor.name)
                mean_increase += found / times
                importances[s, :, k] = found.mean(axis=0)
            elif increases is None:
                gains = gain_importances(model)
                importances[s, :, k] = [gains[list(block)].sum() for block in blocks]
            if len(test):
                mean_outcome += model.outcomes(codes[test], test) / times
        if increases is not None:
            increases[test, :, k] = mean_increase
        outcomes[test, k, 0] = mean_outcome
        outcomes[test, k, 1] = 1.0 if factor.discrete else (factor.values[test] - fits[0].mean) ** 2
        mean = fits[0].outcomes(codes[train], train).mean()
        train_scores[k] = mean if factor.discrete else 1 - mean / fits[0].variance
    significant = np.ones((width, count)) if increases is None else _significant(increases)
    return DCIFits(increases, significant, normalised(importances), outcomes, train_scores, tuple(models))


def _significant(increases: Floats) -> Floats:
    """1 where the mean over rows exceeds ``SIGNIFICANT_ERRORS`` standard errors, else 0, shape (J, K)."""
    rows = (~np.isnan(increases)).sum(axis=0)
    mean = safe_ratio(np.nansum(increases, axis=0), rows, 0.0)
    square = safe_ratio(np.nansum(increases**2, axis=0), rows, 0.0)
    error = np.sqrt(safe_ratio(np.maximum(square - mean**2, 0.0), rows, 0.0))
    return np.asarray(mean > SIGNIFICANT_ERRORS * error, dtype=np.float64)


def _consecutive(blocks: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Blocks of the same sizes over consecutive columns."""
    ends = np.cumsum([0, *(len(block) for block in blocks)])
    return [tuple(range(a, b)) for a, b in pairwise(map(int, ends))]


def dci(context: PanelContext) -> list[ScoreResult]:
    """The three scores; in the reference profile also informativeness on the training rows.

    Disentanglement and completeness have no chance level: with permuted factors no importance is significant, and both
    are undefined. The chance level of informativeness shows whether they are meaningful.
    """
    table, fits = context.table, dci_fits(context)
    n, robust = len(table.test), context.settings.robust
    if all(model is None for model in fits.models):
        return undefined_results(VALUES, "no factor varies on the training rows", n)
    importances = fits.importances.mean(axis=0)
    draws: Floats | None = None
    if fits.increases is not None:
        importances = normalised(np.nansum(fits.increases, axis=0) * fits.significant)
        if not context.point_only:
            sums = context.weights.totals(fits.increases.reshape(len(table), -1))
            draws = normalised(sums.reshape(-1, *importances.shape) * fits.significant)
    results = []
    reasons = (
        "needs two factors and a latent dimension of significant importance",
        "needs two latent dimensions, at least one of significant importance",
    )
    for name, formula, reason in zip(VALUES, (disentanglement, completeness), reasons, strict=False):
        resampled = None if draws is None else formula(draws)
        note = spread_note(formula(fits.importances * fits.significant).total)
        results.append(ScoreResult(name, formula(importances), n, resampled, None, reason, note))
    outcomes = fits.outcomes.reshape(len(table), -1)
    discrete = np.array([factor.discrete for factor in table.factors])

    def informativeness(sums: Floats) -> ScoreParts:
        share = safe_ratio(sums[..., 0::2], sums[..., 1::2])
        return over_factors(np.where(discrete, share, 1 - share))

    chance = None
    if robust and not context.point_only:
        order = next(permutations(context.seed, len(table), 1))
        permuted = fit_all(context, table.with_permuted_factors(order), 1)
        chance = informativeness(np.nansum(permuted.outcomes.reshape(len(table), -1), axis=0))
    results.append(context.heldout_result(VALUES[2], outcomes, informativeness, chance, "no test rows"))
    if not robust:
        point, rows = over_factors(fits.train), len(table.train)
        results.append(ScoreResult("dci_informativeness_train", point, rows, reason="no test rows"))
    return results


def spread_note(totals: Floats) -> str:
    """The range over seeded fits, in words; "" for one fit or undefined ones."""
    if totals.size < 2 or np.isnan(totals).any():
        return ""
    return f"{totals.size} fits, {float(totals.min()):.3f} to {float(totals.max()):.3f}"
