r"""What a linear reader gets out of all codes together: explicitness, InfoE, and accuracy at few labels.

Blind to rotation by design: they say that the information is there, not where.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Floats, Ids
from ccvae_eval.metrics.disentanglement.context import PanelContext, ResampledScore, ScoreResult, undefined_result
from ccvae_eval.metrics.disentanglement.information_scores import ScoreParts, mean_defined, weighted_mean
from ccvae_eval.metrics.disentanglement.predictors import without_fit_warnings
from ccvae_eval.metrics.disentanglement.table import Factor
from ccvae_eval.statistics.auc import auc_projection, projected_estimates
from ccvae_eval.statistics.probes import standardised

BUDGETS = (10, 100, 1_000, 10_000)
"""Labels that the downstream reader learns from."""

PROBES = 10
"""Of so many the mean is taken: each learns from other rows."""

STEPS, TOLERANCE = 200, 1e-3
LEAST = 2
"""Rows that a class needs on each side of an area."""


@dataclass(frozen=True, slots=True, eq=False)
class ProbeFit:
    """A fitted reader's class probabilities of the training and of the held-out rows, shapes (n, L); NaN = never seen.

    Args:
        inside, outside: the rows.
        train, test: probabilities of the classes, by their number.
        prior: frequencies of the classes in training.
    """

    inside: Ids
    outside: Ids
    train: Floats
    test: Floats
    prior: Floats


def read(points: Floats, factor: Factor, inside: Ids, outside: Ids, *, published: bool = False) -> ProbeFit | None:
    """A multinomial logistic regression with scikit-learn's penalty; None where training has one class.

    ``published``: with its default steps and tolerance, whether or not they suffice.
    """
    from sklearn.linear_model import LogisticRegression

    seen = np.unique(factor.classes[inside])
    if len(seen) < 2:
        return None
    steps, tolerance = (100, 1e-4) if published else (STEPS, TOLERANCE)
    with without_fit_warnings():
        reader = LogisticRegression(max_iter=steps, tol=tolerance).fit(points[inside], factor.classes[inside])
    found = []
    for rows in (inside, outside):
        told = np.zeros((len(rows), factor.levels))
        if len(rows):
            told[:, reader.classes_] = reader.predict_proba(points[rows])
        found.append(told)
    prior = np.bincount(factor.classes[inside], minlength=factor.levels) / len(inside)
    return ProbeFit(inside, outside, found[0], found[1], prior)


def readings(bench: PanelContext) -> list[ProbeFit | None]:
    """The reader of each factor, fitted once for the panel: of raw codes as published, else of standardised ones."""
    return bench.once("readings", lambda: _readings(bench))


def _readings(bench: PanelContext) -> list[ProbeFit | None]:
    table, robust = bench.table, bench.settings.robust
    points = standardised(table.codes) if robust else table.codes
    found = []
    for factor in table.factors:
        inside, outside = (rows[factor.known[rows]] for rows in (table.train, table.test))
        found.append(read(points, factor, inside, outside, published=not robust) if len(inside) else None)
    return found


def explicitness(bench: PanelContext) -> list[ScoreResult]:
    """Mean area under the curve of each class against the rest; robust: 2 A - 1 (Ridgeway and Mozer 2018)."""
    robust = bench.settings.robust
    areas, drawn_areas = _areas(bench, held_out=True)
    point, draws = (2 * areas - 1, 2 * drawn_areas - 1) if robust else (areas, drawn_areas)
    guess = 0.0 if robust else 0.5
    chance = None if bench.quick else ScoreParts(np.asarray(guess), np.full(point.shape, guess))
    drawn = ResampledScore(None if bench.quick else ScoreParts(mean_defined(draws), draws))
    why = "no factor has two classes with held-out rows"
    rows = [
        ScoreResult("explicitness", ScoreParts(mean_defined(point), point), len(bench.table.test), drawn, chance, why)
    ]
    if not robust:
        train, _ = _areas(bench, held_out=False)
        total = ScoreParts(mean_defined(train), train)
        rows.append(ScoreResult("explicitness_train", total, len(bench.table.train), chance=chance, why=why))
    return rows


def _areas(bench: PanelContext, *, held_out: bool) -> tuple[Floats, Floats]:
    """The mean area of each factor, shape (K,), and its draws (B, K)."""
    count = len(bench.table.factors)
    point, draws = np.full(count, np.nan), np.full((1 if bench.quick else bench.weights.draws, count), np.nan)
    for k, (reading, factor) in enumerate(zip(readings(bench), bench.table.factors, strict=True)):
        if reading is None:
            continue
        rows, told = (reading.outside, reading.test) if held_out else (reading.inside, reading.train)
        labels = np.full(len(bench.table), np.nan)
        labels[rows] = factor.classes[rows]
        projections = []
        for level in np.flatnonzero(reading.prior > 0):
            scores = np.full(len(labels), np.nan)
            scores[rows] = told[:, level]
            projection = auc_projection(scores, labels, least=LEAST, positive_class=float(level))
            if not np.isnan(projection.value):
                projections.append(projection)
        if not projections:
            continue
        point[k] = float(np.mean([p.value for p in projections]))
        if not bench.quick and held_out:
            draws[:, k] = np.mean([e.draws for e in projected_estimates(projections, bench.weights)], axis=0)
    return point, draws


def infoe(bench: PanelContext) -> list[ScoreResult]:
    r"""Share of a factor's uncertainty that a linear reader takes away, (H_0 - H)/H_0 on held-out rows.

    H is the mean log loss of the reader, H_0 that of the training frequencies (predictive V-information; Hsu et al.
    2023). Of a continuous factor the share of its variance.
    """
    table = bench.table
    points = standardised(table.codes)
    rows = np.full((len(table), 2 * len(table.factors)), np.nan)
    told = readings(bench)
    for k, (factor, reading) in enumerate(zip(table.factors, told, strict=True)):
        place = slice(2 * k, 2 * k + 2)
        if not factor.discrete:
            here = [r[factor.known[r]] for r in (table.train, table.test)]
            if len(here[0]) > 1 and len(here[1]):
                rows[here[1], place] = _squared_losses(points, factor, here[0], here[1])
        elif reading is not None:
            classes = factor.classes[reading.outside]
            seen = reading.prior[classes] > 0
            loss = [-np.log(np.maximum(p, 1e-12)) for p in (_told(reading.test, classes), reading.prior[classes])]
            rows[reading.outside[seen], place] = np.stack(loss, axis=1)[seen]

    def share(totals: Floats) -> ScoreParts:
        probe, base = totals[..., 0::2], totals[..., 1::2]
        factors = np.where(base > 0, 1 - probe / np.where(base > 0, base, 1.0), np.nan)
        return ScoreParts(mean_defined(factors), factors)

    zero = ScoreParts(np.asarray(0.0), np.zeros(len(table.factors)))
    return [bench.fitted("infoe", rows, share, zero, "no factor varies on the held-out rows")]


def _told(probabilities: Floats, classes: Ids) -> Floats:
    return np.asarray(probabilities[np.arange(len(classes)), classes])


def _squared_losses(points: Floats, factor: Factor, inside: Ids, outside: Ids) -> Floats:
    """Squared errors of a ridge regression and of the training mean, shape (rows, 2)."""
    x, y = points[inside], factor.values[inside]
    centre, mean = x.mean(axis=0), float(y.mean())
    design = x - centre
    slope = np.linalg.lstsq(
        np.concatenate([design, np.eye(design.shape[1])]), np.concatenate([y - mean, np.zeros(design.shape[1])])
    )[0]
    told = mean + (points[outside] - centre) @ slope
    return np.stack([(factor.values[outside] - told) ** 2, (factor.values[outside] - mean) ** 2], axis=1)


def downstream(bench: PanelContext) -> list[ScoreResult]:
    """Held-out accuracy of the linear reader after so many labels; chance: the most frequent class.

    The mean over readers that learn from different rows each, ten if there are so many; resamples draw rows and
    readers. (One reader of ten labels scores .04 more or less than the next: an interval conditional on it would not
    know.)
    """
    found = []
    for budget in BUDGETS:
        readers = min(len(bench.table.train) // budget, PROBES)
        if readers:
            found.append(_after(bench, budget, readers))
        else:
            why = f"only {len(bench.table.train)} rows to learn from"
            found.append(undefined_result("downstream", why, at={"labels": budget}))
    return found


def _after(bench: PanelContext, budget: int, readers: int) -> ScoreResult:
    """What so many readers tell, each having learnt from ``budget`` rows."""
    table, generator = bench.table, numpy_stream(bench.seed, "labels", budget)
    points, factors = standardised(table.codes), len(table.factors)
    learnt = generator.permutation(table.train)[: budget * readers].reshape(readers, budget)
    rows = np.full((len(table), factors, readers, 2), np.nan)
    chance = np.full((factors, readers), np.nan)
    for k, factor in enumerate(table.factors):
        outside = table.test[factor.known[table.test]]
        for r, rows_of in enumerate(learnt):
            inside = rows_of[factor.known[rows_of]]
            reading = read(points, factor, inside, outside) if factor.discrete and len(inside) else None
            if reading is not None and len(outside):
                rows[outside, k, r, 0] = reading.test.argmax(axis=1) == factor.classes[outside]
                rows[outside, k, r, 1] = 1.0
                chance[k, r] = float((factor.classes[outside] == reading.prior.argmax()).mean())

    def shares(totals: Floats) -> Floats:
        right, whole = np.moveaxis(totals.reshape(*totals.shape[:-1], factors, readers, 2), -1, 0)
        return np.asarray(right / np.where(whole > 0, whole, np.nan))

    def accuracy(totals: Floats) -> ScoreParts:
        told = mean_defined(shares(totals))
        return ScoreParts(mean_defined(told), told)

    def resampled(totals: Floats) -> ScoreParts:
        told = shares(totals)
        times = generator.multinomial(readers, np.full(readers, 1 / readers), size=len(told))
        each = weighted_mean(told, np.where(np.isnan(told), np.nan, times[:, None]))
        return ScoreParts(mean_defined(each), each)

    usual = mean_defined(chance)
    finding = bench.fitted(
        "downstream", rows.reshape(len(table), -1), accuracy, ScoreParts(mean_defined(usual), usual),
        "no factor with classes to learn", resampled=resampled,
    )  # fmt: skip
    return replace(finding, at={"labels": budget})
