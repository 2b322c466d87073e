r"""IRS, the interventional robustness score: stability of a latent while its factor is fixed (Suter et al. 2019).

.. math:: IRS_j = \max_k \Big( 1 - \frac{\operatorname{mean}_v Q_q(|z_j - c_{jv}| : v_k = v)}{D_j} \Big)

Q_q is the q-quantile within a group of rows with one value of the factor, c the centre of the group, and D the
deviation of z_j over all rows.

Reference profile, as published: mean as centre, maximum as D, mean over latents weighted by D. The score of noise then
grows as groups become smaller. Robust profile: median as centre, q-quantile as D, groups of at least ten rows, plain
mean over active latents, and the mean score of permuted factors removed: (IRS - null)/(1 - null).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ccvae_eval.core.types import Floats
from ccvae_eval.metrics.disentanglement.context import PanelContext, ScoreResult, undefined_results
from ccvae_eval.metrics.disentanglement.information_scores import (
    ScoreParts,
    equal_width_bins,
    over_latents,
    permutations,
)
from ccvae_eval.statistics.information import Classes
from ccvae_eval.statistics.ratios import safe_ratio

MIN_GROUP_ROWS = 10
"""Fewest rows of a group in the robust profile."""

FACTOR_BINS = 20
"""Bins of equal width for each factor, as published; they merge levels of factors that have more."""

BIAS_RATE = 0.5
"""The bias of within-group quantiles falls with the number of rows to this power."""

SUBSAMPLES = 100
"""Fewer than for information scores, since quantiles within groups are slower than counts."""


def quantile(values: Floats, q: float) -> Floats:
    """The q-quantile along the last axis with linear interpolation."""
    place = q * (values.shape[-1] - 1)
    low = int(place)
    high = min(low + 1, values.shape[-1] - 1)
    ranked = np.partition(values, (low, high), axis=-1)
    return np.asarray(ranked[..., low] + (place - low) * (ranked[..., high] - ranked[..., low]))


def within_deviations(codes: Floats, classes: Classes, q: float, *, least: int, median: bool) -> Floats:
    """Mean over the values of a factor of the q-quantile of |z - centre|, shape (D,).

    Args:
        codes: shape (N, D).
        classes: value of the factor in each row, shape (N,); -1 = missing.
        q: the quantile.
        least: fewest rows of a group that enters; NaN if no group has as many.
        median: True for the median as centre, False for the mean.
    """
    order = np.argsort(classes, kind="stable")
    order = order[classes[order] >= 0]
    _, first = np.unique(classes[order], return_index=True)
    # contiguous groups, since np.partition dominates the cost
    columns = np.ascontiguousarray(codes.T)[:, order]
    ends = np.append(first, len(order))
    found = [
        quantile(np.abs(_centred(columns[:, start:end], median)), q)
        for start, end in pairwise(ends.tolist())
        if end - start >= least
    ]
    return np.mean(found, axis=0) if found else np.full(codes.shape[1], np.nan)


def _centred(columns: Floats, median: bool) -> Floats:
    middle = np.median(columns, axis=-1) if median else columns.mean(axis=-1)
    return np.asarray(columns - middle[..., None])


def published_irs(codes: Floats, groups: list[Classes], q: float) -> ScoreParts:
    """IRS as published.

    Args:
        codes: shape (N, D).
        groups: value of each factor in each row, each of shape (N,); -1 = missing.
        q: the quantile.

    Returns:
        Total, at most 1, and the part of each latent dimension; NaN for constant dimensions.
    """
    varying = np.ptp(codes, axis=0) > 0
    if not varying.any():
        return ScoreParts(np.asarray(np.nan))
    used = codes[:, varying]
    overall = np.abs(used - used.mean(axis=0)).max(axis=0)
    within = np.stack([within_deviations(used, g, q, least=1, median=False) for g in groups])
    scores = np.full(codes.shape[1], np.nan)
    scores[varying] = (1 - within / overall).max(axis=0)
    return ScoreParts(np.asarray(np.average(scores[varying], weights=overall)), None, scores)


def robust_irs(codes: Floats, groups: list[Classes], q: float) -> Floats:
    """Robust IRS of each latent dimension before the null is removed, shape (D,); NaN for a constant dimension."""
    overall = quantile(np.abs(_centred(np.ascontiguousarray(codes.T), True)), q)
    within = np.stack([within_deviations(codes, g, q, least=MIN_GROUP_ROWS, median=True) for g in groups])
    found = 1 - safe_ratio(within, overall)
    present = ~np.isnan(found).all(axis=0)
    return np.where(present, np.where(np.isnan(found), -np.inf, found).max(axis=0), np.nan)


def irs(context: PanelContext) -> list[ScoreResult]:
    """``irs``, and in the robust profile ``irs_raw``, the score before the null is removed.

    At most 1; ``irs`` is clipped at 0. Undefined without an active latent of one dimension, or without a factor that
    has two groups of ten rows.
    """
    if not context.settings.robust:
        return _published(context)
    rows, names = context.rows, ("irs", "irs_raw")
    blocks = [context.table.blocks[j] for j in context.scored_blocks]
    latents = [int(j) for j in np.flatnonzero(context.information.active) if len(blocks[j]) == 1]
    if not latents:
        return undefined_results(names, "no active latent of one dimension", len(rows))
    codes = context.table.codes[rows][:, [blocks[j][0] for j in latents]]
    groups = [factor.classes[rows] for factor in context.table.factors]
    groups = [g for g in groups if len(np.unique(g[g >= 0])) > 1]
    reason = f"no factor has two values with {MIN_GROUP_ROWS} rows each"
    if not groups:
        return undefined_results(names, reason, len(rows))
    q, size = context.settings.quantile, context.subsample_size
    raw = robust_irs(codes, groups, q)
    orders = permutations(context.seed, len(rows), context.settings.shuffles)
    null = np.stack([robust_irs(codes, [g[o] for g in groups], q) for o in orders])
    mean_null = null.mean(axis=0)
    note, draws = context.no_subsamples, None
    levels = max(len(np.unique(g[g >= 0])) for g in groups)
    if not note and size < MIN_GROUP_ROWS * levels:
        note = f"no confidence interval: subsamples of {size} rows are too few for {levels} groups"
    if not note:
        drawn = context.subsamples(SUBSAMPLES)
        draws = np.stack([robust_irs(codes[part], [g[part] for g in groups], q) for part in drawn])

    def parts(scores: Floats, level: Floats, name: str) -> ScoreParts:
        each = np.full((*scores.shape[:-1], len(blocks)), np.nan)
        each[..., latents] = np.maximum((scores - level) / (1 - level), 0.0) if name == "irs" else scores
        return over_latents(each)

    return [
        ScoreResult(
            name, parts(raw, mean_null, name), len(rows),
            None if draws is None else parts(draws, np.nan_to_num(mean_null), name), parts(null, mean_null, name),
            reason, note, subsample_size=size, bias_rate=BIAS_RATE,
        )
        for name in names
    ]  # fmt: skip


def _published(context: PanelContext) -> list[ScoreResult]:
    rows, q = context.rows, context.settings.quantile
    groups = []
    for factor in context.table.factors:
        values, classes = factor.values[rows], np.full(len(rows), -1, dtype=np.int64)
        known = ~np.isnan(values)
        if known.any():
            classes[known] = equal_width_bins(values[known], values[known], FACTOR_BINS)
        groups.append(classes)
    codes = context.table.codes[rows][:, [c for block in context.table.blocks for c in block]]
    total = published_irs(codes, groups, q).total
    chance = None
    if not context.point_only:
        orders = permutations(context.seed, len(rows), context.settings.shuffles)
        permuted = [float(published_irs(codes, [g[o] for g in groups], q).total) for o in orders]
        chance = ScoreParts(np.asarray(np.mean(permuted)))
    reason = "every latent dimension is constant"
    return [ScoreResult("irs", ScoreParts(total), len(rows), chance=chance, reason=reason)]
