r"""IRS: how little a code moves while the factor it is about stands still (Suter et al. 2019).

Reference: of each value of a factor the q-quantile of |z - group mean|, averaged over values, over the greatest
deviation of all; the best factor counts; codes weighted by that deviation. It grows when groups are small: noise
scores .49 at 300 rows. Robust: medians and the same quantile below, groups of at least ten rows, active codes alike,
and what permuted factors give is taken off: (IRS - null) / (1 - null).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ccvae_eval.core.types import Floats, Ids
from ccvae_eval.metrics.disentanglement.context import PanelContext, ResampledScore, ScoreResult, undefined_result
from ccvae_eval.metrics.disentanglement.information_scores import (
    ScoreParts,
    equal_width_bins,
    mean_defined,
    permutations,
    subsamples,
)
from ccvae_eval.metrics.disentanglement.table import Factor
from ccvae_eval.statistics.information import Classes
from ccvae_eval.statistics.subsampling import FEWEST

LEAST = 10
"""Rows of a group."""

FACTOR_BINS = 20
"""Published: factors in bins of equal width (which merges levels of factors that have more)."""

BIAS_RATE = 0.5
"""The power of the rows by which the quantiles of small groups settle."""

DRAWS = 100
"""Subsamples; quantiles within groups cost more than counts."""


def quantile(values: Floats, q: float) -> Floats:
    """The q-quantile along the last axis, linear between neighbours."""
    place = q * (values.shape[-1] - 1)
    low = int(place)
    high = min(low + 1, values.shape[-1] - 1)
    ranked = np.partition(values, (low, high), axis=-1)
    return np.asarray(ranked[..., low] + (place - low) * (ranked[..., high] - ranked[..., low]))


def within_deviations(codes: Floats, classes: Classes, q: float, *, least: int, median: bool) -> Floats:
    """Mean over the values of a factor of the q-quantile of |z - centre|, shape (D,); NaN without a large group."""
    order = np.argsort(classes, kind="stable")
    order = order[classes[order] >= 0]
    _, first = np.unique(classes[order], return_index=True)
    # one code's values of one group lie side by side: partitioning is what this costs
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
    """The score as published; ``groups`` holds the value of each factor, shape (N,), -1 = missing."""
    moving = np.ptp(codes, axis=0) > 0
    if not moving.any():
        return ScoreParts(np.asarray(np.nan))
    used = codes[:, moving]
    overall = np.abs(used - used.mean(axis=0)).max(axis=0)
    within = np.stack([within_deviations(used, g, q, least=1, median=False) for g in groups])
    scores = np.full(codes.shape[1], np.nan)
    scores[moving] = (1 - within / overall).max(axis=0)
    return ScoreParts(np.asarray(np.average(scores[moving], weights=overall)), None, scores)


def robust_irs(codes: Floats, groups: list[Classes], q: float) -> Floats:
    """Of each code the best factor's 1 - within/overall, shape (D,); NaN for a constant code."""
    overall = quantile(np.abs(_centred(np.ascontiguousarray(codes.T), True)), q)
    within = np.stack([within_deviations(codes, g, q, least=LEAST, median=True) for g in groups])
    found = 1 - within / np.where(overall > 0, overall, np.nan)
    present = ~np.isnan(found).all(axis=0)
    return np.where(present, np.where(np.isnan(found), -np.inf, found).max(axis=0), np.nan)


def _bins_or_classes(factor: Factor, rows: Ids) -> Classes:
    values = factor.values[rows]
    known = ~np.isnan(values)
    found = np.full(len(rows), -1, dtype=np.int64)
    if known.any():
        found[known] = equal_width_bins(values[known], values[known], FACTOR_BINS)
    return found


def irs(bench: PanelContext) -> list[ScoreResult]:
    """``irs``, and in the robust profile ``irs_raw``: before the null is taken off."""
    settings, rows = bench.settings, bench.rows
    if not settings.robust:
        groups = [_bins_or_classes(factor, rows) for factor in bench.table.factors]
        columns = [c for block in bench.table.blocks for c in block]
        point = published_irs(bench.table.codes[rows][:, columns], groups, settings.quantile)
        total = ScoreParts(point.total)
        return [
            ScoreResult("irs", total, len(rows), chance=_chance(bench, groups, columns), why="every code is constant")
        ]
    wide = [j for j in bench.kept if len(bench.table.blocks[j]) > 1]
    active = [int(j) for j in np.flatnonzero(bench.information.active)]
    single = [j for j in active if bench.kept[j] not in wide]
    if not single:
        return [undefined_result(n, "no active code of one column", len(rows)) for n in ("irs", "irs_raw")]
    codes = bench.table.codes[rows][:, [bench.table.blocks[bench.kept[j]][0] for j in single]]
    groups = [factor.classes[rows] for factor in bench.table.factors]
    groups = [g for g in groups if len(np.unique(g[g >= 0])) > 1]
    why = f"no factor has two values with {LEAST} rows each"
    if not groups:
        return [undefined_result(n, why, len(rows)) for n in ("irs", "irs_raw")]
    q = settings.quantile
    raw = robust_irs(codes, groups, q)
    orders = permutations(bench.seed, len(rows), settings.shuffles)
    null = np.stack([robust_irs(codes, [g[o] for g in groups], q) for o in orders])
    usual = null.mean(axis=0)
    drawn = _drawn(bench, codes, groups)
    return _findings(bench, single, raw, null, usual, drawn, why)


def _findings(
    bench: PanelContext, single: list[int], raw: Floats, null: Floats, usual: Floats, drawn: tuple[Floats | None, int, str],
    why: str,
) -> list[ScoreResult]:  # fmt: skip
    draws, size, note = drawn
    found = []
    for name in ("irs", "irs_raw"):

        def parts(scores: Floats, level: Floats, corrected: bool = name == "irs") -> ScoreParts:
            shown = np.maximum((scores - level) / (1 - level), 0.0) if corrected else scores
            codes = np.full((*shown.shape[:-1], len(bench.names)), np.nan)
            codes[..., single] = shown
            return ScoreParts(mean_defined(codes), None, codes)

        there = None if draws is None else parts(draws, np.nan_to_num(usual))
        spread = ResampledScore(there, "subsampling", size, "" if draws is not None else note, BIAS_RATE)
        chance = None if bench.quick else parts(null, usual)
        found.append(ScoreResult(name, parts(raw, usual), len(bench.rows), spread, chance, why))
    return found


def _drawn(bench: PanelContext, codes: Floats, groups: list[Classes]) -> tuple[Floats | None, int, str]:
    """Scores of subsamples, shape (B, D), or why there are none."""
    n, size = len(codes), bench.subsample_size
    if bench.quick:
        return None, size, ""
    levels = max(len(np.unique(g[g >= 0])) for g in groups)
    if size < FEWEST or size >= n:
        return None, size, f"no interval: subsamples of {size} rows, {FEWEST} needed"
    if size < LEAST * levels:
        return None, size, f"no interval: subsamples of {size} rows are too few for {levels} groups"
    drawn = subsamples(bench.seed, n, size, DRAWS)
    q = bench.settings.quantile
    return np.stack([robust_irs(codes[rows], [g[rows] for g in groups], q) for rows in drawn]), size, ""


def _chance(bench: PanelContext, groups: list[Classes], columns: list[int]) -> ScoreParts | None:
    if bench.quick:
        return None
    codes = bench.table.codes[bench.rows][:, columns]
    orders = permutations(bench.seed, len(bench.rows), bench.settings.shuffles)
    found = [float(published_irs(codes, [g[o] for g in groups], bench.settings.quantile).total) for o in orders]
    return ScoreParts(np.asarray(np.mean(found)))
