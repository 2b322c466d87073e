"""ROC area, average precision and balanced accuracy of one label, with intervals.

ROC area and average precision, ties counted as ties, for one ranking, for many resamples, for many images.

The weighted versions take integer weights, rows = images, columns = resamples, and count in integers: they are exact
and equal in every bit on any machine.

Many ROC areas at once: each by its first-order term in the images' weights, so that one product resamples all.

A resample's area is, to first order, the area plus a sum of the images' influences (Hájek's projection, the basis of
DeLong, DeLong and Clarke-Pearson 1988). It is taken on the log-odds scale, so that no resample leaves (0, 1).
``auc_estimate`` counts each resample exactly; at 2,000 images it takes 30 ms for each area, and this 0.3 ms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import rankdata

from ccvae_eval.core.results import Estimate
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.statistics.intervals import (
    FEWEST,
    SMALL,
    Resampled,
    bootstrap_estimate,
    missing,
    resampled,
)
from ccvae_eval.statistics.proportions import SQUARES_ADDED, clopper_pearson, squares_added
from ccvae_eval.statistics.resampling import Counts, ResampleWeights, reservoir

AT_ONCE = 1 << 21
"""Pixels ranked at once: what is in flight stays near 100 MB."""

IntArray = NDArray[np.int64]


def auc(scores: Floats, labels: Bools) -> float:
    r"""Chance that an image with the label scores above one without; a tie is half (Mann and Whitney).

    Args:
        scores: shape :math:`(N,)`.
        labels: shape :math:`(N,)`.

    Returns:
        in [0, 1], 0.5 where the scores say nothing (also where all are equal); NaN if a class is empty.

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    ranks = rankdata(scores)[labels].sum()
    return float((ranks - positives * (positives + 1) / 2) / (positives * negatives))


def weighted_auc(scores: Floats, labels: Bools, weights: Counts) -> Floats:
    r"""``auc`` of each resample.

    Args:
        scores, labels: shape :math:`(N,)`.
        weights: how often each image occurs in each resample, shape :math:`(N, B)`.

    Returns:
        shape :math:`(B,)`; NaN where a resample has lost a class.
    """
    below = np.zeros(weights.shape[1], dtype=np.int64)
    twice = np.zeros_like(below)
    positives = np.zeros_like(below)
    for present, absent in _tied(scores, labels, weights):
        if present is not None:
            positives += present
            twice += present * (2 * below) if absent is None else present * (2 * below + absent)
        if absent is not None:
            below += absent
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(twice / (2.0 * positives * below), dtype=np.float64)


def stratified_auc(scores: Floats, labels: Bools, strata: IntArray, weights: Counts) -> Floats:
    r"""Mean of the ``auc`` within each stratum, weighted by the stratum's images in the resample.

    Args:
        scores, labels: shape :math:`(N,)`.
        strata: which stratum each image is in, shape :math:`(N,)`.
        weights: shape :math:`(N, B)`.

    Returns:
        shape :math:`(B,)`; NaN where a stratum of a resample has lost a class.
    """
    found, sizes = [], []
    for stratum in np.unique(strata):
        here = strata == stratum
        found.append(weighted_auc(scores[here], labels[here], weights[here]))
        sizes.append(weights[here].sum(axis=0, dtype=np.float64))
    return np.asarray((np.array(found) * sizes).sum(axis=0) / np.sum(sizes, axis=0))


def average_precision(scores: Floats, labels: Bools) -> float:
    r"""Mean precision over the images with the label, ties grouped (the area under the step-wise PR curve).

    .. math:: AP = \sum_g (R_g - R_{g-1}) P_g

    over the groups g of equal scores from the highest down. NaN if a class is empty; chance is the prevalence.

    >>> round(average_precision(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True])), 4)
    0.8333
    """
    return float(weighted_average_precision(scores, labels, np.ones((len(scores), 1), dtype=np.uint8))[0])


def weighted_average_precision(scores: Floats, labels: Bools, weights: Counts) -> Floats:
    r"""``average_precision`` of each resample; shapes as in ``weighted_auc``."""
    hits = np.zeros(weights.shape[1], dtype=np.int64)
    shown = np.zeros_like(hits)
    area = np.zeros(weights.shape[1])
    for present, absent in _tied(-scores, labels, weights):
        if absent is not None:
            shown += absent
        if present is not None:
            shown += present
            hits += present
            area += present * hits / np.maximum(shown, 1)
    with np.errstate(invalid="ignore"):
        return np.where(hits < shown, area / hits, np.nan)


def _tied(scores: Floats, labels: Bools, weights: Counts) -> Iterator[tuple[IntArray | None, IntArray | None]]:
    """From the lowest score up: each group of equal scores as its weight with and without the label, (B,) each.

    A row at a time: measured, ten times faster than cumulative sums over the whole matrix.
    """
    order = np.argsort(scores, kind="stable")
    ranked, marked, rows = scores[order], labels[order], weights[order]
    starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1])) if len(ranked) else order
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(ranked)], strict=False):
        if end == start + 1:
            row = rows[start].astype(np.int64)
            yield (row, None) if marked[start] else (None, row)
            continue
        group, mark = rows[start:end], marked[start:end]
        yield _weight(group[mark]), _weight(group[~mark])


def _weight(rows: Counts) -> IntArray | None:
    return rows.sum(axis=0, dtype=np.int64) if len(rows) else None


def row_average_precision(scores: NDArray[np.floating], labels: Bools) -> Floats:
    r"""``average_precision`` of each row by itself: of a map of change against a region, image by image.

    Args:
        scores: shape :math:`(N, P)`.
        labels: shape :math:`(N, P)`.

    Returns:
        shape :math:`(N,)`; NaN where a row's labels are all false or all true, or where it has a NaN score.

    >>> row_average_precision(np.array([[3.0, 2.0, 1.0, 0.0]]), np.array([[True, False, True, False]])).round(4)
    array([0.8333])
    """
    width = scores.shape[1]
    stride = max(AT_ONCE // max(width, 1), 1)
    parts = [_row_precision(scores[i : i + stride], labels[i : i + stride]) for i in range(0, len(scores), stride)]
    return np.concatenate(parts) if parts else np.empty(0)


def _row_precision(scores: NDArray[np.floating], labels: Bools) -> Floats:
    rows, width = scores.shape
    order = np.argsort(-scores, axis=1)
    row, place = np.nonzero(np.take_along_axis(labels, order, axis=1))
    positives = np.bincount(row, minlength=rows)
    hits = np.arange(1, len(row) + 1) - np.repeat(np.cumsum(positives) - positives, positives)
    area = np.bincount(row, hits / (place + 1), minlength=rows)
    # a group of equal scores counts at its end: rows where a pixel of the region ties with the next one are done again
    following = scores[row, order[row, np.minimum(place + 1, width - 1)]]
    tied = np.unique(row[(scores[row, order[row, place]] == following) & (place + 1 < width)])
    area[tied] = _tied_areas(np.take_along_axis(scores[tied], order[tied], axis=1), labels[tied], order[tied])
    undefined = (positives == 0) | (positives == width) | np.isnan(scores).any(axis=1)
    return np.where(undefined, np.nan, area / np.maximum(positives, 1))


def _tied_areas(ranked: NDArray[np.floating], labels: Bools, order: IntArray) -> Floats:
    """The sum over groups of equal scores of their pixels of the region times the precision at their end, by row."""
    hits = np.cumsum(np.take_along_axis(labels, order, axis=1), axis=1)
    ends = np.ones(ranked.shape, dtype=bool)
    ends[:, :-1] = ranked[:, 1:] != ranked[:, :-1]
    row, place = np.nonzero(ends)
    found = hits[row, place]
    # rows lie one after the other, so the group before a row's first one is another row's
    before = np.where(np.diff(row, prepend=-1) > 0, 0, np.roll(found, 1))
    return np.asarray(
        np.bincount(row, (found - before) * (found / (place + 1)), minlength=len(ranked)), dtype=np.float64
    )


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
        groups: IntArray = np.unique(strata[chosen], return_inverse=True)[1]
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


METHOD = "projected bootstrap"
NEAR = 3.0
"""Standard errors from .5 within which an area may well be one that tells nothing."""
INSIDE = 1e-12
"""What keeps the log-odds of a resample's area finite."""


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    r"""An area and how it changes with each image's weight.

    Args:
        value: the area; NaN = undefined.
        influence: its derivative by the weight of each image, shape :math:`(N,)`; 0 for images that do not enter.
        n: images that enter.
        smaller: images of the smaller class among them.
        note: why the area is undefined.
    """

    value: float
    influence: Floats
    n: int
    smaller: int = 0
    note: str = ""


def placements(scores: Floats, positive: Bools) -> Floats:
    r"""For each image the share of the other class on its right side, ties half, shape :math:`(N,)`.

    Their mean over either class is the ROC area.

    >>> placements(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    array([1. , 0.5, 0.5, 1. ])
    """
    found = np.empty(len(scores))
    for side in (True, False):
        own, other = scores[positive == side], np.sort(scores[positive != side])
        below = (np.searchsorted(other, own, "left") + np.searchsorted(other, own, "right")) / (2 * len(other))
        found[positive == side] = below if side else 1 - below
    return found


def auc_projection(
    scores: Floats, labels: Floats, strata: Floats | None = None, least: int = STRATUM, positive_class: float = 1.0
) -> Projection:
    r"""The area of scores for a binary label, within the strata of another label if these are given.

    .. math:: A = \sum_s \frac{n_s}{n} A_s, \qquad
              \psi_i = \frac{n_s}{n} \frac{V_i - A_s}{n_{s, y_i}} + \frac{A_s - A}{n}

    V are the ``placements`` within the stratum.

    Args:
        scores: shape :math:`(N,)`, NaN = absent.
        labels: ``positive_class`` is the positive class, any other value the negative one, NaN = missing.
        strata: another label's values, NaN = missing; strata with fewer than ``least`` images of either class do not
            enter.
        least: images that each class needs.
        positive_class: the positive class.
    """
    present = ~(np.isnan(scores) | np.isnan(labels))
    groups = np.zeros(len(scores)) if strata is None else strata
    present &= ~np.isnan(groups)
    positive = labels == positive_class
    parts = []
    for group in np.unique(groups[present]):
        rows = np.flatnonzero(present & (groups == group))
        count = int(positive[rows].sum())
        if min(count, len(rows) - count) >= least:
            parts.append((rows, placements(scores[rows], positive[rows]), count))
    influence = np.zeros(len(scores))
    n = sum(len(rows) for rows, _, _ in parts)
    if not parts:
        return Projection(np.nan, influence, 0, 0, _lacking(present, positive, strata is not None, least))
    areas = [float(placed[positive[rows]].mean()) for rows, placed, _ in parts]
    value = float(sum(area * len(rows) for area, (rows, _, _) in zip(areas, parts, strict=True)) / n)
    for area, (rows, placed, count) in zip(areas, parts, strict=True):
        size = np.where(positive[rows], count, len(rows) - count)
        influence[rows] = len(rows) / n * (placed - area) / size + (area - value) / n
    smaller = sum(min(count, len(rows) - count) for rows, _, count in parts)
    return Projection(value, influence, n, smaller)


def _lacking(present: Bools, positive: Bools, stratified: bool, least: int) -> str:
    if stratified:
        return f"no stratum with {least} images of each class"
    count = int((present & positive).sum())
    return f"a class has {min(count, int(present.sum()) - count)} images, {least} are needed"


def projected_estimates(projections: Sequence[Projection], weights: ResampleWeights) -> list[Resampled]:
    r"""Each area with its interval, all from one product of influences and weights.

    Where the classes are perfectly separated no image has an influence, and the interval ends at the exact bound
    :math:`(\alpha/2)^{1/m}`, m = images of the smaller class, as in ``auc_estimate``.
    """
    if not projections:
        return []
    totals = weights.totals(np.stack([p.influence for p in projections], axis=1))
    return [_estimate(p, totals[:, i], weights) for i, p in enumerate(projections)]


def cross_fitted(found: Resampled, level: float) -> Resampled:
    r"""The same area with the interval of scores whose readers were fitted to the other folds of the same images.

    The resamples of held-out scores hold the readers fixed. Where the columns tell much that is nearly all there is.
    Where they tell nothing, each two images of different folds enter twice, as each is scored by a reader that has
    learnt from the other, and the variance is twice as large. So on the log-odds scale the resamples go
    :math:`\sqrt{1 + \min(1, (3 s / |A - 1/2|)^2)}` times as far from the area, s being its standard error.

    (Measured, 800 and 1,536 images, 1 to 21 columns that tell nothing: the true deviation is 1.35 to 1.58 times s. With
    the readers fixed .79 to .87 of the intervals hold .5; with this .92 to .98.)

    Args:
        found: an area of cross-fitted scores, with resamples in which the readers are fixed.
        level: of the interval.
    """
    area = found.value
    if not found.estimate.method or not 0 < area < 1:
        return found
    moved = logit(np.clip(found.draws, INSIDE, 1 - INSIDE)) - logit(area)
    near, distance = NEAR * float(np.nanstd(found.draws)), abs(area - 0.5)
    farther = math.sqrt(2.0 if distance <= near else 1 + (near / distance) ** 2)
    spread = resampled(area, expit(logit(area) + farther * moved), found.estimate.n, level)
    return replace(spread, estimate=replace(spread.estimate, method=found.estimate.method), note=found.note)


def _estimate(projection: Projection, moved: Floats, weights: ResampleWeights) -> Resampled:
    area = projection.value
    if np.isnan(area):
        return missing(weights.draws, projection.note, projection.n)
    if 0 < area < 1:
        draws = np.asarray(expit(logit(area) + moved / (area * (1 - area))), dtype=np.float64)
        found = resampled(area, draws, projection.n, weights.level)
        estimate = found.estimate
        method = METHOD if estimate.method else ""
        return Resampled(Estimate(area, estimate.low, estimate.high, estimate.n, method), draws, found.note)
    found = resampled(area, np.full(weights.draws, area), projection.n, weights.level)
    return exactly_bounded(found, projection.smaller, weights.level)
