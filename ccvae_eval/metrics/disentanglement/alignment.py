r"""SNC and NK: is a factor in its own code, and is it gone without it (Mahon, Shah and Lukasiewicz 2023).

Codes are aligned to factors one to one (Hungarian matching on information over entropy). SNC: what the aligned code
alone tells. NK: what is lost when all codes but the aligned one are left. Raw balanced accuracy a, and corrected for
chance, (a - 1/L)/(1 - 1/L).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import linear_sum_assignment

from ccvae_eval.core.types import Floats, Ids
from ccvae_eval.metrics.disentanglement.context import PanelContext, ScoreResult, undefined_result
from ccvae_eval.metrics.disentanglement.dci import SURE, fitted, predictor_of
from ccvae_eval.metrics.disentanglement.information_scores import ScoreParts, mean_defined
from ccvae_eval.metrics.disentanglement.predictors import fit, fit_seed
from ccvae_eval.metrics.disentanglement.sap import UnivariateScores, class_weights, univariate_scores
from ccvae_eval.statistics.auc import balanced_accuracy_estimate
from ccvae_eval.statistics.intervals import Resampled


def aligned(bench: PanelContext) -> dict[int, int]:
    """For each factor its code, as a place among the scored blocks; factors beyond the codes have none."""
    info = bench.information
    entropy = np.where(info.factor_entropy > 1e-12, info.factor_entropy, np.nan)
    shares = np.nan_to_num(info.mutual / entropy)
    codes, factors = linear_sum_assignment(shares, maximize=True)
    return {int(k): int(j) for j, k in zip(codes, factors, strict=True)}


def snc(bench: PanelContext) -> list[ScoreResult]:
    """``snc`` (guessing is 0) and ``snc_raw`` (balanced accuracy)."""
    told, pairs = univariate_scores(bench), aligned(bench)
    places = np.array([pairs.get(k, -1) for k in range(len(bench.table.factors))])

    def chosen(scores: Floats) -> ScoreParts:
        picked = np.take_along_axis(scores, np.maximum(places, 0)[None], -2)[..., 0, :] if scores.ndim == 2 else (
            scores[..., np.maximum(places, 0), np.arange(len(places))]
        )  # fmt: skip
        factors = np.where(places >= 0, picked, np.nan)
        return ScoreParts(mean_defined(factors), factors)

    why = "no factor has a code and held-out rows"
    found = []
    accuracies = () if bench.quick else _accuracies(bench, told, places)
    corrected = tuple(_above_guessing(each, 1 / levels) for each, levels in zip(accuracies, told.levels, strict=False))
    for name, score, counted in (
        ("snc", told.of_totals, corrected), ("snc_raw", lambda totals: told.raw(totals)[0], accuracies)
    ):  # fmt: skip
        chance = None
        if not bench.quick and told.permuted:
            chance = chosen(np.stack([score(totals) for totals in told.permuted]))
        found.append(
            bench.fitted(name, told.rows, lambda totals, s=score: chosen(s(totals)), chance, why, counted=counted)  # type: ignore[misc]
        )
    return found


def _accuracies(bench: PanelContext, told: UnivariateScores, places: Ids) -> tuple[Resampled, ...]:
    """The balanced accuracy of each factor's code, by counts; () unless every factor has classes and a code."""
    table, width = bench.table, told.rows.shape[1] // max(len(told.levels), 1)
    if min(told.levels, default=0) < 2 or (places < 0).any():
        return ()
    found = []
    for k, (factor, place) in enumerate(zip(table.factors, places, strict=True)):
        right, known = told.rows[:, k * width + place] > 0, ~np.isnan(told.rows[:, (k + 1) * width - 1])
        labels = np.where(known, factor.classes, np.nan)
        found.append(balanced_accuracy_estimate(np.where(right, labels, -1.0), labels, bench.weights))
    return tuple(found)


def _above_guessing(accuracy: Resampled, guess: float) -> Resampled:
    """(a - g) / (1 - g), not below 0."""

    def corrected(a: Floats | float) -> Floats:
        return np.maximum((np.asarray(a) - guess) / (1 - guess), 0.0)

    value, low, high = (
        float(corrected(end)) for end in (accuracy.value, accuracy.estimate.low, accuracy.estimate.high)
    )
    estimate = replace(accuracy.estimate, value=value, low=low, high=high)
    without = None if accuracy.leave_one_out is None else corrected(accuracy.leave_one_out)
    return replace(accuracy, estimate=estimate, draws=corrected(accuracy.draws), leave_one_out=without)


def nk(bench: PanelContext) -> list[ScoreResult]:
    """``nk``: balanced accuracy of all codes minus that of all but the aligned one, over what there was to lose."""
    table, pairs = bench.table, aligned(bench)
    n = len(table.test)
    if len(bench.kept) < 2:
        return [undefined_result(name, "one code: without it there is none", n) for name in ("nk", "nk_raw")]
    blocks = [table.blocks[j] for j in bench.kept]
    every = table.codes[:, [c for block in blocks for c in block]]
    predictor, _ = predictor_of(bench)
    whole = fitted(bench).models
    rows = np.full((len(table), 3 * len(table.factors)), np.nan)
    guess, something = np.full(len(table.factors), np.nan), np.zeros(len(table.factors), dtype=bool)
    for k, factor in enumerate(table.factors):
        inside, outside = (part[factor.known[part]] for part in (table.train, table.test))
        if not factor.discrete or k not in pairs or not len(outside):
            continue
        rest = [c for j, block in enumerate(blocks) for c in block if j != pairs[k]]
        without = table.codes[:, rest]
        seed = fit_seed(bench.seed, factor.name, 0)
        models = ((every, whole[k]), (without, fit(predictor, without, factor, inside, seed)))
        weight = class_weights(factor, outside)
        for place, (codes, model) in enumerate(models):
            if model is not None:
                rows[outside, 3 * k + place] = model.right(codes[outside], outside) * weight
                rows[outside, 3 * k + 2] = weight
        guess[k] = 1 / max(len(np.unique(factor.classes[inside])), 1)
        if models[0][1] is None:
            continue
        told = np.nansum(rows[:, 3 * k]) / np.nansum(rows[:, 3 * k + 2])
        # where nothing is told there is nothing to lose
        something[k] = told - guess[k] > SURE * np.sqrt(guess[k] * (1 - guess[k]) / len(outside))

    def lost(totals: Floats, corrected: bool) -> ScoreParts:
        whole = np.where(totals[..., 2::3] > 0, totals[..., 2::3], np.nan)
        full, without = totals[..., 0::3] / whole, totals[..., 1::3] / whole
        factors = full - without
        if corrected:
            there = full - guess
            factors = np.where(
                (there > 0) & something, np.clip(factors / np.where(there > 0, there, 1.0), -1.0, 1.0), np.nan
            )
        return ScoreParts(mean_defined(factors), factors)

    zero = ScoreParts(np.asarray(0.0), np.zeros(len(table.factors)))
    why = "no factor with classes is told from the codes"
    return [
        bench.fitted("nk", rows, lambda totals: lost(totals, True), zero, why),
        bench.fitted("nk_raw", rows, lambda totals: lost(totals, False), zero, why),
    ]
