r"""Rank statistics of one label with intervals: ROC area, balanced accuracy, Spearman's correlation.

ROC areas count a tie as half. Their resamples are computed in one of two ways:

- ``auc_estimate`` counts every bootstrap resample exactly, in integers, with equal bits on every machine;
- ``projected_estimates`` linearises the areas in the image weights (Hájek's projection, the basis of DeLong, DeLong
  and Clarke-Pearson 1988), so that one matrix product resamples many areas at once. The linear term is added on the
  log-odds scale, which keeps every resample inside (0, 1).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import rankdata

from ccvae_eval.core.results import Estimate, Method, too_few_images
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.statistics.intervals import (
    MIN_IMAGES,
    SMALL_SAMPLE,
    Resampled,
    bootstrap_estimate,
    clopper_pearson,
    estimate_from_draws,
    mover_interval,
    undefined_estimate,
)
from ccvae_eval.statistics.ratios import safe_ratio
from ccvae_eval.statistics.resampling import Counts, ResampleWeights, reservoir

STRATUM = 20
"""Images of each class that a stratum needs to enter a stratified area."""

NEAR_CHANCE = 3.0
"""Standard errors around 0.5 within which the scores may carry no information."""

EPSILON = 1e-12
"""Distance of a resampled area from 0 and 1 that keeps its log-odds finite."""

IntArray = NDArray[np.int64]


def auc(scores: Floats, labels: Bools) -> float:
    r"""ROC area: probability that an image with the label scores above one without (Mann and Whitney 1947).

    .. math:: A = \frac{1}{n_1 n_0} \sum_{i: y_i = 1} \sum_{j: y_j = 0} [s_i > s_j] + \tfrac12 [s_i = s_j]

    Args:
        scores: shape :math:`(N,)`.
        labels: shape :math:`(N,)`.

    Returns:
        Area in [0, 1]; 0.5 for scores without information, such as constant ones; NaN if a class is empty.

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
    r"""ROC area (``auc``) of each resample.

    Args:
        scores, labels: shape :math:`(N,)`.
        weights: how often each image occurs in each resample, shape :math:`(N, B)`.

    Returns:
        Areas in [0, 1], shape :math:`(B,)`; NaN for a resample without images of one class.
    """
    order = np.argsort(scores, kind="stable")
    return _ranked_auc(scores[order], labels[order], iter([weights[order]]), weights.shape[1])


def _ranked_auc(scores: Floats, labels: Bools, blocks: Iterator[Counts], draws: int) -> Floats:
    """``weighted_auc`` of ascending scores; the rows of the weights come in blocks."""
    below = np.zeros(draws, dtype=np.int64)
    twice = np.zeros_like(below)
    positives = np.zeros_like(below)
    for present, absent in _tied_groups(scores, labels, blocks):
        if present is not None:
            positives += present
            twice += present * (2 * below) if absent is None else present * (2 * below + absent)
        if absent is not None:
            below += absent
    return safe_ratio(twice, 2.0 * positives * below)


Group = tuple[IntArray | None, IntArray | None]


def _tied_groups(scores: Floats, labels: Bools, blocks: Iterator[Counts]) -> Iterator[Group]:
    """For each group of equal scores, lowest first: weight with and without the label, each of shape (B,)."""
    starts_group = np.append(True, scores[1:] != scores[:-1])
    group: Group = None, None
    first = 0
    for rows in blocks:
        starts = np.flatnonzero(starts_group[first : first + len(rows)]).tolist()
        if not starts_group[first]:
            starts = [0, *starts]  # the last group of the block before goes on
        # row by row: cumulative sums over the whole matrix are slower
        for start, end in zip(starts, [*starts[1:], len(rows)], strict=False):
            if end == start + 1:
                row = rows[start].astype(np.int64)
                part: Group = (row, None) if labels[first + start] else (None, row)
            else:
                mark = labels[first + start : first + end]
                part = _weight(rows[start:end][mark]), _weight(rows[start:end][~mark])
            if starts_group[first + start]:
                yield group
                group = part
            else:
                group = _sum(group[0], part[0]), _sum(group[1], part[1])
        first += len(rows)
    yield group


def _sum(one: IntArray | None, other: IntArray | None) -> IntArray | None:
    return other if one is None else one if other is None else one + other


def _weight(rows: Counts) -> IntArray | None:
    return rows.sum(axis=0, dtype=np.int64) if len(rows) else None


def auc_estimate(scores: Floats, labels: Floats | Bools, weights: ResampleWeights) -> Resampled:
    r"""ROC area of scores for a binary label with its bootstrap confidence interval. Chance is 0.5.

    Perfectly separated classes give the same area in every resample, so a bootstrap interval would have no width. The
    interval then ends at the exact bound :math:`(\alpha/2)^{1/m}`, with m the images of the smaller class: the least
    area under which m images of a class all lie on the right side of the other class with probability
    :math:`\alpha/2`.

    Args:
        scores: shape :math:`(N,)`, NaN = absent. For scores fitted on other images the interval is conditional on the
            fit.
        labels: 0, 1 or NaN = missing, shape :math:`(N,)`.
        weights: the run's resamples.

    Returns:
        Area in [0, 1]; undefined without images of both classes. Beyond 20,000 images a seeded sample of that size is
        ranked, and the interval's method says so.
    """
    table = np.asarray(labels, dtype=np.float64)
    present = np.flatnonzero(~(np.isnan(scores) | np.isnan(table)))
    index = reservoir(weights.seed, present)
    ranked, positive = scores[index], table[index] == 1
    n, smaller = len(index), int(min(positive.sum(), (~positive).sum()))
    if not smaller:
        absent = "present" if not positive.any() else "absent"
        return undefined_estimate(weights.draws, f"the label is never {absent}" if n else "no images", n)
    value = float(weighted_auc(ranked, positive, np.ones((n, 1), dtype=np.uint8))[0])
    order = np.argsort(ranked, kind="stable")
    draws = _ranked_auc(ranked[order], positive[order], weights.rows_in_blocks(index[order]), weights.draws)
    without = None
    if n < SMALL_SAMPLE:
        without = np.full(weights.n, value)
        left = weighted_auc(ranked, positive, 1 - np.eye(n, dtype=np.uint8))
        without[index] = np.where(np.isnan(left), value, left)
    found = with_exact_bound(estimate_from_draws(value, draws, n, weights.level, without), smaller, weights.level)
    if n == len(present):
        return found
    method = f"{found.estimate.method} on {n} of {len(present)} images"
    return replace(found, estimate=replace(found.estimate, method=method))


def with_exact_bound(found: Resampled, smaller: int, level: float) -> Resampled:
    """An area of exactly 0 or 1 gets the exact bound of ``smaller`` images; any other area is returned as it is."""
    estimate = found.estimate
    if estimate.value not in (0.0, 1.0) or math.isnan(estimate.low) or estimate.n < MIN_IMAGES:
        return found
    bound = ((1 - level) / 2) ** (1 / smaller)
    low, high = (bound, 1.0) if estimate.value == 1.0 else (0.0, 1 - bound)
    return replace(found, estimate=Estimate(estimate.value, low, high, estimate.n, Method.EXACT_BOUND))


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    r"""A ROC area and its derivative with respect to each image's weight.

    Args:
        value: the area; NaN = undefined.
        influence: the derivatives, shape :math:`(N,)`; 0 for images that do not enter.
        n: images that enter.
        smaller: how many of them belong to the smaller class.
        note: reason why the area is undefined.
    """

    value: float
    influence: Floats
    n: int
    smaller: int = 0
    note: str = ""


def placements(scores: Floats, positive: Bools) -> Floats:
    r"""Share of the other class that each image is ranked correctly against, ties counting half.

    The mean over either class is the ROC area.

    Args:
        scores, positive: shape :math:`(N,)`; both classes occur.

    Returns:
        Shares in [0, 1], shape :math:`(N,)`.

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
    r"""ROC area of scores for a binary label with the images' influences, optionally within strata of another label.

    .. math:: A = \sum_s \frac{n_s}{n} A_s, \qquad
              \psi_i = \frac{n_s}{n} \frac{V_i - A_s}{n_{s, y_i}} + \frac{A_s - A}{n}

    V are the ``placements`` within the stratum.

    Args:
        scores: shape :math:`(N,)`, NaN = absent.
        labels: ``positive_class`` is the positive class, any other value the negative one, NaN = missing.
        strata: values of another label, NaN = missing; strata with fewer than ``least`` images of either class do not
            enter.
        least: images that each class needs.
        positive_class: value of the positive class.

    Returns:
        Area in [0, 1]; NaN with a note if no stratum has enough images.
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
        return Projection(np.nan, influence, 0, 0, _too_few(present, positive, strata is not None, least))
    areas = [float(placed[positive[rows]].mean()) for rows, placed, _ in parts]
    value = float(sum(area * len(rows) for area, (rows, _, _) in zip(areas, parts, strict=True)) / n)
    for area, (rows, placed, count) in zip(areas, parts, strict=True):
        size = np.where(positive[rows], count, len(rows) - count)
        influence[rows] = len(rows) / n * (placed - area) / size + (area - value) / n
    smaller = sum(min(count, len(rows) - count) for rows, _, count in parts)
    return Projection(value, influence, n, smaller)


def _too_few(present: Bools, positive: Bools, stratified: bool, least: int) -> str:
    if stratified:
        return f"no stratum with {least} images of each class"
    count = int((present & positive).sum())
    return too_few_images(min(count, int(present.sum()) - count), least)


def projected_estimates(projections: Sequence[Projection], weights: ResampleWeights) -> list[Resampled]:
    r"""The areas with their bootstrap confidence intervals, all from one product of influences and weights.

    With perfectly separated classes the influences are 0, and the interval ends at the exact bound of
    ``auc_estimate``.
    """
    if not projections:
        return []
    totals = weights.totals(np.stack([p.influence for p in projections], axis=1))
    return [_projected_estimate(p, totals[:, i], weights) for i, p in enumerate(projections)]


def _projected_estimate(projection: Projection, shift: Floats, weights: ResampleWeights) -> Resampled:
    area = projection.value
    if np.isnan(area):
        return undefined_estimate(weights.draws, projection.note, projection.n)
    if 0 < area < 1:
        draws = np.asarray(expit(logit(area) + shift / (area * (1 - area))), dtype=np.float64)
        found = estimate_from_draws(area, draws, projection.n, weights.level)
        method = Method.PROJECTED if found.estimate.method else Method.NONE
        return replace(found, estimate=replace(found.estimate, method=method))
    found = estimate_from_draws(area, np.full(weights.draws, area), projection.n, weights.level)
    return with_exact_bound(found, projection.smaller, weights.level)


def cross_fitted(found: Resampled, level: float) -> Resampled:
    r"""The same area with the wider interval of scores from cross-fitted classifiers.

    Resamples of held-out scores keep the classifiers fixed, which is nearly exact for informative codes. For codes
    without information, every two images of different folds enter twice, because each is scored by a classifier that
    was fitted to the other, and the variance doubles. On the log-odds scale the resamples are therefore moved
    :math:`\sqrt{1 + \min(1, (3 s / |A - 1/2|)^2)}` times as far from the area, with s its standard error (evidence:
    docs/adr/004-calibration.md, ``style_auc``).

    Args:
        found: area of cross-fitted scores, from resamples that keep the classifiers fixed.
        level: confidence level of the interval.

    Returns:
        The estimate with new draws and interval; unchanged if it has no interval, or an area of 0 or 1.
    """
    area = found.value
    if not found.estimate.method or not 0 < area < 1:
        return found
    moved = logit(np.clip(found.draws, EPSILON, 1 - EPSILON)) - logit(area)
    farther = cross_fitting_factor(area, float(np.nanstd(found.draws)))
    spread = estimate_from_draws(area, expit(logit(area) + farther * moved), found.estimate.n, level)
    return replace(spread, estimate=replace(spread.estimate, method=found.estimate.method), note=found.note)


def cross_fitting_factor(area: float, error: float) -> float:
    r"""Factor from the standard error of fixed scores to that of cross-fitted ones, 1 to :math:`\sqrt2`.

    Args:
        area: the ROC area.
        error: its standard error if the classifiers are kept fixed.
    """
    near, distance = NEAR_CHANCE * error, abs(area - 0.5)
    return math.sqrt(2.0 if distance <= near else 1 + (near / distance) ** 2)


def balanced_accuracy_estimate(predicted: Floats, labels: Floats, weights: ResampleWeights) -> Resampled:
    r"""Balanced accuracy: mean over the classes that occur of the share of their images predicted correctly.

    The interval combines the exact intervals of the classes (``mover_interval``): a bootstrap interval is too short
    where a rare class shows no error. Chance is 1/K.

    Args:
        predicted: predicted classes, shape :math:`(N,)`, NaN = absent.
        labels: true classes, shape :math:`(N,)`, NaN = missing.
        weights: the run's resamples.

    Returns:
        Accuracy in [0, 1]; undefined with fewer than two classes.
    """
    present = ~(np.isnan(labels) | np.isnan(predicted))
    classes = np.unique(labels[present])
    if len(classes) < 2:
        return undefined_estimate(weights.draws, "fewer than two classes occur", int(present.sum()))
    inside = (labels[:, None] == classes) & present[:, None]
    right = inside & (predicted == labels)[:, None]
    rows = np.concatenate([right, inside], axis=1).astype(np.float64)
    rows[~present] = np.nan
    found = bootstrap_estimate(
        lambda totals: (totals[:, : len(classes)] / totals[:, len(classes) :]).mean(axis=1), rows, weights
    )
    estimate = found.estimate
    if estimate.n < MIN_IMAGES:
        return found
    counts = zip(right.sum(axis=0), inside.sum(axis=0), strict=True)
    low, high = mover_interval([clopper_pearson(int(k), int(n), weights.level) for k, n in counts], estimate.value)
    return replace(found, estimate=replace(estimate, low=low, high=high, method=Method.MOVER), note="")


def spearman_estimate(scores: Floats, targets: Floats, weights: ResampleWeights) -> Resampled:
    r"""Spearman's rank correlation with its bootstrap confidence interval; tied values share their mean rank.

    The resamples keep the ranks of the full sample.

    Args:
        scores, targets: shape :math:`(N,)`, NaN = absent.
        weights: the run's resamples.

    Returns:
        Correlation in [-1, 1]; undefined where either variable is constant.
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
