r"""Scores of linear probes on the whole code: InfoE, explicitness, and accuracy after few labels.

They are invariant to rotations by design: they measure whether the information is present, not in which latents.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats, Ids
from ccvae_eval.metrics.disentanglement.context import PanelContext, ScoreResult
from ccvae_eval.metrics.disentanglement.information_scores import (
    ScoreParts,
    mean_defined,
    over_factors,
    weighted_mean,
)
from ccvae_eval.metrics.disentanglement.predictors import without_fit_warnings
from ccvae_eval.metrics.disentanglement.table import Factor
from ccvae_eval.statistics.auc import auc_projection, projected_estimates
from ccvae_eval.statistics.probes import standardised
from ccvae_eval.statistics.ratios import safe_ratio

BUDGETS = (10, 100, 1_000, 10_000)
"""Training rows of the downstream probes."""

MAX_PROBES = 10
"""Downstream probes that are averaged, each fitted on other rows."""

MAX_STEPS, TOLERANCE = 200, 1e-3
PUBLISHED_STEPS, PUBLISHED_TOLERANCE = 100, 1e-4

MIN_CLASS_ROWS = 2
"""Fewest rows in a class and outside it for a ROC area."""


@dataclass(frozen=True, slots=True, eq=False)
class ProbeFit:
    """Predictions of a fitted probe.

    Args:
        train_rows, test_rows: indices of the rows.
        train, test: class probabilities of these rows, shapes (n, L); 0 for a class unseen in training.
        prior: class frequencies in training, shape (L,).
    """

    train_rows: Ids
    test_rows: Ids
    train: Floats
    test: Floats
    prior: Floats


def fit_probe(points: Floats, factor: Factor, train: Ids, test: Ids, *, published: bool = False) -> ProbeFit | None:
    """Fits a multinomial logistic regression with scikit-learn's default penalty; None for one class in training.

    ``published`` selects scikit-learn's default number of steps and tolerance, even if it does not converge.
    """
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(factor.classes[train])) < 2:
        return None
    steps, tolerance = (PUBLISHED_STEPS, PUBLISHED_TOLERANCE) if published else (MAX_STEPS, TOLERANCE)
    with without_fit_warnings():
        probe = LogisticRegression(max_iter=steps, tol=tolerance).fit(points[train], factor.classes[train])
    predicted = [np.zeros((len(rows), factor.levels)) for rows in (train, test)]
    for rows, probabilities in zip((train, test), predicted, strict=True):
        if len(rows):
            probabilities[:, probe.classes_] = probe.predict_proba(points[rows])
    prior = np.bincount(factor.classes[train], minlength=factor.levels) / len(train)
    return ProbeFit(train, test, predicted[0], predicted[1], prior)


def probe_fits(context: PanelContext) -> list[ProbeFit | None]:
    """The probe of each factor, fitted once for the panel: on standardised codes, or on raw codes as published."""
    table, robust = context.table, context.settings.robust

    def fits() -> list[ProbeFit | None]:
        points = standardised(table.codes) if robust else table.codes
        return [fit_probe(points, f, *table.known_rows(f), published=not robust) for f in table.factors]

    return context.cached("probes", fits)


def explicitness(context: PanelContext) -> list[ScoreResult]:
    r"""Explicitness: mean one-against-rest ROC area A of a linear probe (Ridgeway and Mozer 2018).

    Robust: 2A - 1 on test rows, in [-1, 1] with chance 0. Reference: A, in [0, 1] with chance 0.5, on test and on
    training rows. The mean over the classes of a factor, then over factors; continuous factors use their bins.
    Undefined if no factor has two classes.
    """
    robust = context.settings.robust
    areas, resampled_areas = _areas(context, held_out=True)
    point, draws = (2 * areas - 1, 2 * resampled_areas - 1) if robust else (areas, resampled_areas)
    chance = over_factors(np.full(point.shape, 0.0 if robust else 0.5))
    reason, table = "no factor has two classes with test rows", context.table
    results = [ScoreResult("explicitness", over_factors(point), len(table.test), over_factors(draws), chance, reason)]
    if not robust:
        train = over_factors(_areas(context, held_out=False)[0])
        results.append(ScoreResult("explicitness_train", train, len(table.train), chance=chance, reason=reason))
    return results


def _areas(context: PanelContext, *, held_out: bool) -> tuple[Floats, Floats]:
    """Mean ROC area of each factor, shape (K,), and its resamples, shape (B, K)."""
    count = len(context.table.factors)
    draws = np.full((context.weights.draws, count), np.nan)
    point = np.full(count, np.nan)
    for k, (probe, factor) in enumerate(zip(probe_fits(context), context.table.factors, strict=True)):
        if probe is None:
            continue
        rows, predicted = (probe.test_rows, probe.test) if held_out else (probe.train_rows, probe.train)
        labels = np.full(len(context.table), np.nan)
        labels[rows] = factor.classes[rows]
        scores = np.full((factor.levels, len(labels)), np.nan)
        scores[:, rows] = predicted.T
        projections = [
            auc_projection(scores[level], labels, least=MIN_CLASS_ROWS, positive_class=float(level))
            for level in np.flatnonzero(probe.prior > 0)
        ]
        projections = [projection for projection in projections if not np.isnan(projection.value)]
        if projections:
            point[k] = float(np.mean([p.value for p in projections]))
        if projections and held_out and not context.point_only:
            draws[:, k] = np.mean([e.draws for e in projected_estimates(projections, context.weights)], axis=0)
    return point, draws


def infoe(context: PanelContext) -> list[ScoreResult]:
    r"""InfoE (InfoExplicitness): share of a factor's entropy that a linear probe explains (Hsu et al. 2023).

    .. math:: \frac1K \sum_k \frac{H_0 - H_{probe}}{H_0}

    H_probe is the mean log loss of the probe on test rows, H_0 that of the training frequencies (predictive
    V-information). For a continuous factor: share of the variance that a ridge regression explains. At most 1, 0 for
    guessing, negative for a probe worse than guessing. Undefined if no factor varies on the test rows.
    """
    table = context.table
    points = standardised(table.codes)
    rows = np.full((len(table), 2 * len(table.factors)), np.nan)
    for k, (factor, probe) in enumerate(zip(table.factors, probe_fits(context), strict=True)):
        place = slice(2 * k, 2 * k + 2)
        if not factor.discrete:
            train, test = table.known_rows(factor)
            if len(train) > 1 and len(test):
                rows[test, place] = _squared_errors(points, factor, train, test)
        elif probe is not None:
            classes = factor.classes[probe.test_rows]
            seen = probe.prior[classes] > 0
            own = probe.test[np.arange(len(classes)), classes]
            losses = [-np.log(np.maximum(p, 1e-12)) for p in (own, probe.prior[classes])]
            rows[probe.test_rows[seen], place] = np.stack(losses, axis=1)[seen]

    def share(sums: Floats) -> ScoreParts:
        return over_factors(1 - safe_ratio(sums[..., 0::2], sums[..., 1::2]))

    zero = over_factors(np.zeros(len(table.factors)))
    return [context.heldout_result("infoe", rows, share, zero, "no factor varies on the test rows")]


def _squared_errors(points: Floats, factor: Factor, train: Ids, test: Ids) -> Floats:
    """Squared errors of a ridge regression and of the training mean on test rows, shape (n, 2)."""
    x, y = points[train], factor.values[train]
    centre, mean = x.mean(axis=0), float(y.mean())
    design = x - centre
    slope = np.linalg.lstsq(
        np.concatenate([design, np.eye(design.shape[1])]), np.concatenate([y - mean, np.zeros(design.shape[1])])
    )[0]
    predicted = mean + (points[test] - centre) @ slope
    return np.stack([(factor.values[test] - predicted) ** 2, (factor.values[test] - mean) ** 2], axis=1)


def downstream(context: PanelContext) -> list[ScoreResult]:
    """Test accuracy of a linear probe after 10, 100, 1,000 and 10,000 training rows, in [0, 1].

    The mean over up to ten probes fitted on disjoint rows, then over discrete factors. Chance is the accuracy of the
    most frequent class. Resamples draw test rows and probes, since probes of few labels differ from each other.
    """
    return [_downstream(context, budget) for budget in BUDGETS]


def _downstream(context: PanelContext, budget: int) -> ScoreResult:
    """Mean accuracy of probes of ``budget`` training rows each."""
    table, generator = context.table, numpy_stream(context.seed, "labels", budget)
    probes = min(len(table.train) // budget, MAX_PROBES)
    if not probes:
        reason = f"needs {budget} training rows, got {len(table.train)}"
        return ScoreResult("downstream", ScoreParts(np.asarray(np.nan)), 0, reason=reason, at={"labels": budget})
    points, factors = standardised(table.codes), len(table.factors)
    train_rows = generator.permutation(table.train)[: budget * probes].reshape(probes, budget)
    rows = np.full((len(table), factors, probes, 2), np.nan)
    chance = np.full((factors, probes), np.nan)
    for k, factor in enumerate(table.factors):
        test = table.known_rows(factor)[1]
        for p, own in enumerate(train_rows):
            train = own[factor.known[own]]
            probe = fit_probe(points, factor, train, test) if factor.discrete else None
            if probe is not None and len(test):
                rows[test, k, p, 0] = probe.test.argmax(axis=1) == factor.classes[test]
                rows[test, k, p, 1] = 1.0
                chance[k, p] = float((factor.classes[test] == probe.prior.argmax()).mean())

    def accuracies(sums: Floats) -> Floats:
        right, whole = np.moveaxis(sums.reshape(*sums.shape[:-1], factors, probes, 2), -1, 0)
        return safe_ratio(right, whole)

    def resampled(sums: Floats) -> ScoreParts:
        found = accuracies(sums)
        times = generator.multinomial(probes, np.full(probes, 1 / probes), size=len(found))
        return over_factors(weighted_mean(found, np.where(np.isnan(found), np.nan, times[:, None])))

    result = context.heldout_result(
        "downstream", rows.reshape(len(table), -1), lambda sums: over_factors(mean_defined(accuracies(sums))),
        over_factors(mean_defined(chance)), "no discrete factor has two classes in training", resampled=resampled,
    )  # fmt: skip
    return replace(result, at={"labels": budget})
