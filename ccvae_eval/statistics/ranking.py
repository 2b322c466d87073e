r"""ROC area and average precision, ties counted as ties, for one ranking, for many resamples, for many images.

The weighted versions take integer weights, rows = images, columns = resamples, and count in integers: they are exact
and equal in every bit on any machine.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from ccvae_eval.statistics.resampling import Counts
from ccvae_eval.types import Bools, Floats

AT_ONCE = 1 << 21
"""Pixels ranked at once: what is in flight stays near 100 MB."""

Whole = NDArray[np.int64]


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


def stratified_auc(scores: Floats, labels: Bools, strata: Whole, weights: Counts) -> Floats:
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


def _tied(scores: Floats, labels: Bools, weights: Counts) -> Iterator[tuple[Whole | None, Whole | None]]:
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


def _weight(rows: Counts) -> Whole | None:
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


def _tied_areas(ranked: NDArray[np.floating], labels: Bools, order: Whole) -> Floats:
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
