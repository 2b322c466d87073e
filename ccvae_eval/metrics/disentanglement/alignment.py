r"""SNC and NK: scores of latents aligned to factors one to one (Mahon, Shah and Lukasiewicz 2023).

The Hungarian algorithm aligns latents to factors so that the sum of I(z_j; v_k)/H(v_k) is greatest. SNC (single-neuron
classification) is the accuracy of the aligned latent alone. NK (neuron knockout) is the accuracy lost without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from ccvae_eval.core.types import Floats, Ids
from ccvae_eval.metrics.disentanglement.context import PanelContext, ScoreResult, undefined_results
from ccvae_eval.metrics.disentanglement.dci import SIGNIFICANT_ERRORS, dci_fits, predictor_of
from ccvae_eval.metrics.disentanglement.information_scores import ScoreParts, over_factors
from ccvae_eval.metrics.disentanglement.predictors import fit, fit_seed
from ccvae_eval.metrics.disentanglement.sap import UnivariateScores, class_weights, univariate_scores
from ccvae_eval.statistics.auc import balanced_accuracy_estimate
from ccvae_eval.statistics.intervals import Resampled
from ccvae_eval.statistics.ratios import safe_ratio


def aligned_latents(context: PanelContext) -> dict[int, int]:
    """The aligned latent of each factor, as indices; factors in excess of the latents have none."""
    latents, factors = linear_sum_assignment(np.nan_to_num(context.information.shares), maximize=True)
    return {int(k): int(j) for j, k in zip(latents, factors, strict=True)}


def snc(context: PanelContext) -> list[ScoreResult]:
    """``snc_raw``: balanced accuracy a of the aligned latent alone; ``snc``: (a - 1/L)/(1 - 1/L) for L classes.

    Range: 0 to 1. Continuous factors have R2 instead. Factors without an aligned latent are left out.
    """
    scores, pairs = univariate_scores(context), aligned_latents(context)
    latents = np.array([pairs.get(k, -1) for k in range(len(context.table.factors))])

    def of_aligned(table: Floats) -> ScoreParts:
        picked = table[..., np.maximum(latents, 0), np.arange(len(latents))]
        return over_factors(np.where(latents >= 0, picked, np.nan))

    def result(name: str, score: Callable[[Floats], Floats], estimates: tuple[Resampled, ...]) -> ScoreResult:
        chance = of_aligned(np.stack([score(sums) for sums in scores.permuted])) if scores.permuted else None
        reason = "no factor has an aligned latent dimension and test rows"
        return context.heldout_result(
            name, scores.rows, lambda sums: of_aligned(score(sums)), chance, reason, factor_estimates=estimates
        )

    accuracies = () if context.point_only else _accuracies(context, scores, latents)
    rescaled = tuple(_above_guessing(each, 1 / levels) for each, levels in zip(accuracies, scores.levels, strict=False))
    return [
        result("snc", scores.above_guessing, rescaled),
        result("snc_raw", lambda sums: scores.accuracies(sums)[0], accuracies),
    ]


def _accuracies(context: PanelContext, scores: UnivariateScores, latents: Ids) -> tuple[Resampled, ...]:
    """Balanced accuracy of each factor's latent, from counts; () unless every factor is discrete and aligned."""
    table, width = context.table, scores.rows.shape[1] // max(len(scores.levels), 1)
    if min(scores.levels, default=0) < 2 or (latents < 0).any():
        return ()
    found = []
    for k, (factor, latent) in enumerate(zip(table.factors, latents, strict=True)):
        right, known = scores.rows[:, k * width + latent] > 0, ~np.isnan(scores.rows[:, (k + 1) * width - 1])
        labels = np.where(known, factor.classes, np.nan)
        found.append(balanced_accuracy_estimate(np.where(right, labels, -1.0), labels, context.weights))
    return tuple(found)


def _above_guessing(accuracy: Resampled, guess: float) -> Resampled:
    """(a - g)/(1 - g), clipped at 0."""

    def rescaled(a: Floats | float) -> Floats:
        return np.maximum((np.asarray(a) - guess) / (1 - guess), 0.0)

    value, low, high = (float(rescaled(end)) for end in (accuracy.value, accuracy.estimate.low, accuracy.estimate.high))
    estimate = replace(accuracy.estimate, value=value, low=low, high=high)
    without = None if accuracy.leave_one_out is None else rescaled(accuracy.leave_one_out)
    return replace(accuracy, estimate=estimate, draws=rescaled(accuracy.draws), leave_one_out=without)


def nk(context: PanelContext) -> list[ScoreResult]:
    r"""``nk_raw``: balanced accuracy of all latents minus that without the aligned one; ``nk``: as a share.

    .. math:: \frac1K \sum_k \frac{a_k - a_k^{without}}{a_k - 1/L_k}

    Range: -1 to 1. Continuous factors and, for ``nk``, factors that all latents together do not predict better than
    guessing are left out. Undefined for one latent.
    """
    table, pairs = context.table, aligned_latents(context)
    if len(context.scored_blocks) < 2:
        return undefined_results(("nk", "nk_raw"), "needs two latent dimensions", len(table.test))
    blocks = [table.blocks[j] for j in context.scored_blocks]
    codes = table.codes[:, [c for block in blocks for c in block]]
    predictor, _ = predictor_of(context)
    full_models = dci_fits(context).models
    # for each factor: weight of rows predicted right by all latents, by all but one, and weight of all rows
    rows = np.full((len(table), 3 * len(table.factors)), np.nan)
    guess, predictable = np.full(len(table.factors), np.nan), np.zeros(len(table.factors), dtype=bool)
    for k, factor in enumerate(table.factors):
        train, test = table.known_rows(factor)
        if not factor.discrete or k not in pairs or not len(test):
            continue
        rest = table.codes[:, [c for j, block in enumerate(blocks) for c in block if j != pairs[k]]]
        seed = fit_seed(context.seed, factor.name, 0)
        models = ((codes, full_models[k]), (rest, fit(predictor, rest, factor, train, seed)))
        weight = class_weights(factor, test)
        for place, (points, model) in enumerate(models):
            if model is not None:
                rows[test, 3 * k + place] = model.outcomes(points[test], test) * weight
                rows[test, 3 * k + 2] = weight
        guess[k] = 1 / max(len(np.unique(factor.classes[train])), 1)
        if full_models[k] is not None:
            accuracy = np.nansum(rows[:, 3 * k]) / np.nansum(rows[:, 3 * k + 2])
            error = np.sqrt(guess[k] * (1 - guess[k]) / len(test))
            predictable[k] = accuracy - guess[k] > SIGNIFICANT_ERRORS * error

    def loss(sums: Floats) -> tuple[Floats, Floats]:
        full, without = (safe_ratio(sums[..., place::3], sums[..., 2::3]) for place in (0, 1))
        return full, full - without

    def relative(sums: Floats) -> ScoreParts:
        full, lost = loss(sums)
        return over_factors(np.where(predictable, np.clip(safe_ratio(lost, full - guess), -1.0, 1.0), np.nan))

    zero = over_factors(np.zeros(len(table.factors)))
    reason = "no discrete factor is predictable from the codes"
    return [
        context.heldout_result("nk", rows, relative, zero, reason),
        context.heldout_result("nk_raw", rows, lambda sums: over_factors(loss(sums)[1]), zero, reason),
    ]
