"""ROC area, average precision and balanced accuracy of one label, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.stats import rankdata

from ccvae_eval.measure import Estimate
from ccvae_eval.statistics.intervals import (
    FEWEST,
    SMALL,
    Resampled,
    bootstrap_estimate,
    missing,
    resampled,
)
from ccvae_eval.statistics.ranking import Whole, stratified_auc, weighted_auc, weighted_average_precision
from ccvae_eval.statistics.resampling import Counts, ResampleWeights, reservoir
from ccvae_eval.statistics.shares import SQUARES_ADDED, clopper_pearson, squares_added
from ccvae_eval.types import Bools, Floats, Ids

STRATUM = 20
"""A stratum enters a stratified area if each class has so many images in it."""


def auc_estimate(
    scores: Floats, labels: Floats | Bools, weights: ResampleWeights, *, strata: Floats | None = None
) -> Resampled:
    r"""ROC area of scores for a binary label, ties counted half. Chance is 0.5.

    Where the classes are perfectly separated every resample says the same, and the bootstrap would claim certainty:
    the interval then ends at the exact bound :math:`(\alpha/2)^{1/m}`, m = images of the smaller class, the least area
    under which m images of a class all lie on the right side of the other class with probability :math:`\alpha/2`.

    Args:
        scores: shape :math:`(N,)`, NaN = absent. Scores fitted on other images: the interval is conditional on the fit.
        labels: 0, 1 or NaN = missing, shape :math:`(N,)`.
        weights: the run's resamples.
        strata: another label's values: the area is then the mean within its classes, weighted by their images; classes
            with fewer than 20 images on either side do not enter.
    """
    table = np.asarray(labels, dtype=np.float64)
    index = _present(scores, table)
    if strata is not None:
        index = _large_enough(index, table, strata)
        if not len(index):
            return missing(weights.draws, f"no stratum with {STRATUM} images of each class")
    chosen = reservoir(weights.seed, index)
    positive = table[chosen] == 1
    ranked = scores[chosen]
    if strata is None:
        found = _rank_estimate(lambda w: weighted_auc(ranked, positive, w), chosen, positive, weights)
    else:
        groups: Whole = np.unique(strata[chosen], return_inverse=True)[1]
        found = _rank_estimate(lambda w: stratified_auc(ranked, positive, groups, w), chosen, positive, weights)
    bounded = exactly_bounded(found, int(min(positive.sum(), (~positive).sum())), weights.level)
    return _said(bounded, len(chosen), len(index))


def average_precision_estimate(scores: Floats, labels: Floats | Bools, weights: ResampleWeights) -> Resampled:
    r"""Average precision of scores for a binary label, ties grouped. Chance is the prevalence; arguments as above."""
    table = np.asarray(labels, dtype=np.float64)
    index = _present(scores, table)
    chosen = reservoir(weights.seed, index)
    positive = table[chosen] == 1
    ranked = scores[chosen]
    found = _rank_estimate(lambda w: weighted_average_precision(ranked, positive, w), chosen, positive, weights)
    return _said(found, len(chosen), len(index))


def balanced_accuracy_estimate(predicted: Floats, labels: Floats, weights: ResampleWeights) -> Resampled:
    r"""Mean over the classes that occur of the share of their images that are predicted right. Chance is 1/K.

    The interval is each class's exact one, squares added: a bootstrap thinks a rare class sure that shows no error.

    Args:
        predicted: predicted classes, shape :math:`(N,)`.
        labels: true classes, shape :math:`(N,)`; NaN = missing.
        weights: the run's resamples.
    """
    present = ~(np.isnan(labels) | np.isnan(predicted))
    classes = np.unique(labels[present])
    if len(classes) < 2:
        return missing(weights.draws, "fewer than two classes occur", int(present.sum()))
    inside = (labels[:, None] == classes) & present[:, None]
    right = inside & (predicted == labels)[:, None]
    rows = np.concatenate([right, inside], axis=1).astype(np.float64)
    rows[~present] = np.nan
    found = bootstrap_estimate(
        lambda totals: (totals[:, : len(classes)] / totals[:, len(classes) :]).mean(axis=1), rows, weights
    )
    estimate = found.estimate
    if estimate.n < FEWEST:
        return found
    counts = zip(right.sum(axis=0), inside.sum(axis=0), strict=True)
    low, high = squares_added([clopper_pearson(int(k), int(n), weights.level) for k, n in counts], estimate.value)
    return replace(found, estimate=Estimate(estimate.value, low, high, estimate.n, SQUARES_ADDED), note="")


def _present(scores: Floats, labels: Floats) -> Ids:
    return np.flatnonzero(~(np.isnan(scores) | np.isnan(labels)))


def _large_enough(index: Ids, labels: Floats, strata: Floats) -> Ids:
    """Of these images the ones in strata that have enough of both classes."""
    kept = [np.empty(0, dtype=np.int64)]
    for stratum in np.unique(strata[index][~np.isnan(strata[index])]):
        here = index[strata[index] == stratum]
        positives = int((labels[here] == 1).sum())
        if min(positives, len(here) - positives) >= STRATUM:
            kept.append(here)
    return np.sort(np.concatenate(kept))


def _rank_estimate(
    statistic: Callable[[Counts], Floats], index: Ids, positive: Bools, weights: ResampleWeights
) -> Resampled:
    n = len(index)
    if positive.all() or not positive.any():
        absent = "present" if not positive.any() else "absent"
        return missing(weights.draws, f"the label is never {absent}" if n else "no image", n)
    value = float(statistic(np.ones((n, 1), dtype=np.uint8))[0])
    draws = statistic(weights.rows(index))
    without = None
    if n < SMALL:
        without = np.full(weights.n, value)
        left = statistic(1 - np.eye(n, dtype=np.uint8))
        without[index] = np.where(np.isnan(left), value, left)
    return resampled(value, draws, n, weights.level, without)


def exactly_bounded(found: Resampled, smaller: int, level: float) -> Resampled:
    """The same, unless it is 0 or 1: then the interval ends at the exact bound of the smaller class's images."""
    estimate = found.estimate
    if estimate.value not in (0.0, 1.0) or math.isnan(estimate.low) or estimate.n < FEWEST:
        return found
    bound = ((1 - level) / 2) ** (1 / smaller)
    low, high = (bound, 1.0) if estimate.value == 1.0 else (0.0, 1 - bound)
    return replace(found, estimate=Estimate(estimate.value, low, high, estimate.n, "exact bound"))


def _said(found: Resampled, ranked: int, n: int) -> Resampled:
    """Says so if only a reservoir of the images was ranked."""
    if ranked == n or not found.defined:
        return found
    method = f"{found.estimate.method} on {ranked} of {n} images"
    return replace(found, estimate=replace(found.estimate, method=method))


def spearman_estimate(scores: Floats, targets: Floats, weights: ResampleWeights) -> Resampled:
    r"""Spearman's rank correlation, ties sharing their mean rank; the interval keeps the ranks of the full sample.

    Args:
        scores, targets: shape :math:`(N,)`, NaN = absent.
        weights: the run's resamples.
    """
    present = ~(np.isnan(scores) | np.isnan(targets))
    table = np.full((len(scores), 6), np.nan)
    if present.sum() > 1:
        # centred, so that second moments do not lose digits
        u, v = (rankdata(values[present]) - (present.sum() + 1) / 2 for values in (scores, targets))
        table[present] = np.column_stack([u, v, u * u, u * v, v * v, np.ones(len(u))])
    return bootstrap_estimate(_correlation, table, weights)


def _correlation(totals: Floats) -> Floats:
    u, v, uu, uv, vv, n = totals.T
    variances = (uu - u * u / n) * (vv - v * v / n)
    return np.asarray((uv - u * v / n) / np.sqrt(np.where(variances > 0, variances, np.nan)))
