r"""Scores of single dimensions and of regressions: MCC, TAD, and R2 of linear and of boosted regression.

MCC and R2 are the scores of work on identifiability (Hyvarinen and Morioka 2016; Khemakhem et al. 2020), TAD that of
attributes of faces (Yeats et al. 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import rankdata

from ccvae_eval.core.random_streams import stream_key
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.metrics.disentanglement.context import PanelContext, ScoreResult, undefined_results
from ccvae_eval.metrics.disentanglement.information_scores import ScoreParts, over_factors, permutations, top_two
from ccvae_eval.metrics.disentanglement.predictors import ensemble, without_fit_warnings
from ccvae_eval.metrics.disentanglement.table import Factor
from ccvae_eval.statistics.information import joint_entropies
from ccvae_eval.statistics.probes import standardised
from ccvae_eval.statistics.ratios import safe_ratio

SUBSAMPLES = 100
BIAS_RATE = 0.5
"""The best of several associations of unrelated dimensions falls with the root of the number of rows."""
BOOSTED_ROWS = 3_000
SMALL_TREES = {"max_iter": 30, "max_leaf_nodes": 8, "learning_rate": 0.2, "early_stopping": False}
"""Most training rows and the options of a boosted regression in the robust profile."""
LEAST_AREA, MOST_EXPLAINED = 0.75, 0.2
"""A factor is captured from this ROC area on, if no other factor explains more than this share of its entropy."""
THRESHOLDS, LEAST_RANGE = 101, 0.2
"""The published ROC area: number of thresholds, and the range that a dimension must exceed."""


def _dimensions(context: PanelContext) -> list[int]:
    """Latent dimensions of the scored blocks."""
    return [column for j in context.scored_blocks for column in context.table.blocks[j]]


# --- MCC ------------------------------------------------------------------------------------------------------------


def mcc(context: PanelContext) -> list[ScoreResult]:
    r"""Mean correlation coefficient of factors with the dimensions that are aligned to them one to one.

    .. math:: \max_\pi \frac1K \sum_k |r(z_{\pi(k)}, v_k)|

    The Hungarian algorithm finds the alignment; factors in excess of the dimensions score 0. ``mcc`` has Pearson's
    correlation, ``mcc_rank`` Spearman's. Robust: a discrete factor has no order, so its correlation is the correlation
    ratio, the root of the share of the variance between its classes (for two classes it equals the absolute
    correlation); shares are corrected for the number of rows. Reference: the class indices as numbers, plain.
    """
    robust, n = context.settings.robust, len(context.rows)
    codes = context.table.codes[context.rows][:, _dimensions(context)]
    every, note = np.arange(n), context.no_subsamples
    parts = [] if note else context.subsamples(SUBSAMPLES)
    orders = [] if context.point_only else list(permutations(context.seed, n, context.settings.shuffles))
    results = []
    for name, ranked in (("mcc", False), ("mcc_rank", True)):
        whole = Dimensions.of(codes, ranked=ranked)
        drawn = [(Dimensions.of(codes[part], ranked=ranked), part) for part in parts]
        point, draws, chance = (
            over_factors(np.stack([_aligned(z, context, of, robust=robust) for z, of in pairs])) if pairs else None
            for pairs in ([(whole, every)], drawn, [(whole, order) for order in orders])
        )
        assert point is not None
        first = ScoreParts(point.total[0], None if point.factors is None else point.factors[0])
        results.append(
            ScoreResult(
                name, first, n, draws, chance, "no factor varies", note, subsample_size=context.subsample_size,
                bias_rate=BIAS_RATE,
            )
        )  # fmt: skip
    return results


@dataclass(frozen=True, slots=True, eq=False)
class Dimensions:
    """Latent dimensions, or their ranks, without their mean, shape (n, D), and their sums of squares, shape (D,).

    The sum is 0 for a constant dimension.
    """

    points: Floats
    squares: Floats
    ranked: bool

    @classmethod
    def of(cls, codes: Floats, *, ranked: bool) -> Dimensions:
        """Dimensions from codes of shape (n, D)."""
        found = rankdata(codes, axis=0) if ranked else codes
        centred = found - found.mean(axis=0)
        squares = (centred**2).sum(axis=0)
        rounding = 1e-20 * len(codes) * np.abs(found).max(axis=0, initial=0.0) ** 2
        return cls(centred, np.where(squares > rounding, squares, 0.0), ranked)


def _aligned(z: Dimensions, context: PanelContext, of: Ids, *, robust: bool) -> Floats:
    """Correlation of each factor, taken from the positions ``of``, with the dimension aligned to it, shape (K,)."""
    targets = context.rows[of]
    found = np.stack([_correlations(z, factor, targets, robust=robust) for factor in context.table.factors], axis=1)
    aligned = np.where(np.isnan(found).all(axis=0), np.nan, 0.0)
    own, factors = linear_sum_assignment(np.nan_to_num(found), maximize=True)
    aligned[factors] = found[own, factors]
    return aligned


def _correlations(z: Dimensions, factor: Factor, rows: Ids, *, robust: bool) -> Floats:
    """Absolute correlation of each dimension with a factor, shape (D,); NaN for a factor that does not vary."""
    values = factor.values[rows]
    known = ~np.isnan(values)
    if len(np.unique(values[known])) < 2:
        return np.full(z.points.shape[1], np.nan)
    if not known.all():
        z, values = Dimensions.of(z.points[known], ranked=z.ranked), values[known]
    n = len(values)
    if robust and factor.discrete:
        _, classes, counts = np.unique(factor.classes[rows][known], return_inverse=True, return_counts=True)
        between = ((np.eye(len(counts))[classes].T @ z.points) ** 2 / counts[:, None]).sum(axis=0)
        freedom = n - len(counts)
    else:
        deviation = rankdata(values) if z.ranked else values
        deviation = deviation - deviation.mean()
        between, freedom = (deviation @ z.points) ** 2 / (deviation**2).sum(), n - 2
    share = safe_ratio(between, z.squares, 0.0)
    if robust:
        share = 1 - (1 - share) * (n - 1) / freedom if freedom > 0 else np.zeros_like(share)
    return np.asarray(np.sqrt(np.clip(share, 0.0, 1.0)))


# --- R2 -------------------------------------------------------------------------------------------------------------


def r2(context: PanelContext) -> list[ScoreResult]:
    r"""Share of a factor's variance that a regression on all latents explains on test rows, mean over factors.

    .. math:: R^2 = 1 - \sum_i |v_i - \hat v_i|^2 / \sum_i |v_i - \bar v|^2

    with :math:`\bar v` the mean of the training rows. A discrete factor is the vector of its class indicators.
    ``r2_linear``: least squares; ``r2_nonlinear``: histogram gradient boosting (robust: 30 trees of 8 leaves on at most
    3,000 training rows; reference: scikit-learn's defaults). At most 1; 0 equals the training mean, negative is worse.
    """
    points = standardised(context.table.codes)
    results = []
    for name, predict in (("r2_linear", _least_squares), ("r2_nonlinear", _boosted)):
        rows = np.full((len(context.table), 2 * len(context.table.factors)), np.nan)
        for k, factor in enumerate(context.table.factors):
            train, test = context.table.known_rows(factor)
            if not len(test) or len(np.unique(factor.values[train])) < 2:
                continue
            targets = np.eye(factor.levels)[factor.classes] if factor.discrete else factor.values[:, None]
            errors = targets[test] - predict(context, points, factor, train, test, targets)
            spread = targets[test] - targets[train].mean(axis=0)
            rows[test, 2 * k], rows[test, 2 * k + 1] = (errors**2).sum(axis=1), (spread**2).sum(axis=1)

        def share(sums: Floats) -> ScoreParts:
            return over_factors(1 - safe_ratio(sums[..., 0::2], sums[..., 1::2]))

        zero = over_factors(np.zeros(len(context.table.factors)))
        results.append(context.heldout_result(name, rows, share, zero, "no factor varies on the test rows"))
    return results


def _least_squares(
    context: PanelContext, points: Floats, factor: Factor, train: Ids, test: Ids, targets: Floats
) -> Floats:
    """Predictions of the test rows by least squares, of the smallest norm where it is not unique, shape (n, T)."""
    del context, factor
    centre, mean = points[train].mean(axis=0), targets[train].mean(axis=0)
    slopes = np.linalg.lstsq(points[train] - centre, targets[train] - mean)[0]
    return np.asarray(mean + (points[test] - centre) @ slopes)


def _boosted(context: PanelContext, points: Floats, factor: Factor, train: Ids, test: Ids, targets: Floats) -> Floats:
    """Predictions of the test rows by histogram gradient boosting, shape (n, T)."""
    options: dict[str, Any] = {}
    if context.settings.robust:
        count, options = min(len(train), BOOSTED_ROWS), SMALL_TREES
        train = train[np.arange(count) * len(train) // count]
    classes, seed = factor.classes[train], stream_key(context.seed, "r2", factor.name) % 2**31
    if len(np.unique(factor.values[train])) < 2:  # the others were lost with the rows
        return np.broadcast_to(targets[train].mean(axis=0), (len(test), targets.shape[1]))
    model = ensemble("HistGradientBoosting", factor.discrete, seed, **options)
    with without_fit_warnings():
        model.fit(points[train], classes if factor.discrete else factor.values[train])
    if not factor.discrete:
        return np.asarray(model.predict(points[test]))[:, None]
    found = np.zeros((len(test), factor.levels))
    found[:, model.classes_] = model.predict_proba(points[test])
    return found


# --- TAD ------------------------------------------------------------------------------------------------------------


def tad(context: PanelContext) -> list[ScoreResult]:
    r"""Total AUROC difference of captured factors, and their number (Yeats et al. 2022).

    A factor is captured if the ROC area of its best dimension, :math:`\max(A, 1 - A)`, is at least 0.75 and no other
    factor explains more than 0.2 of its entropy. ``captured`` is the number of such factors. ``tad`` is the gap between
    the areas of the best and the second-best dimension. Robust: mean over captured factors, exact areas. Reference: sum
    over them, areas of 101 thresholds from the least to the greatest value, without dimensions of a range up to 0.2. A
    factor of several classes has the mean area of each class against the others; continuous factors are left out.
    """
    robust, table, rows, columns = context.settings.robust, context.table, context.rows, _dimensions(context)
    n, names = len(rows), ("tad", "captured")
    if not any(factor.discrete for factor in table.factors):
        return undefined_results(names, "no factor has classes", n)
    codes = table.codes[rows][:, columns]
    if not robust:
        codes = codes[:, np.ptp(codes, axis=0) > LEAST_RANGE]
    if codes.shape[1] < 2:
        return undefined_results(names, "needs two latent dimensions", n)
    areas = _areas(codes, table.factors, rows, exact=robust)
    captured = (areas.max(axis=0) >= LEAST_AREA) & ~_explained(table.factors, rows)

    def gaps(found: Floats) -> ScoreParts:
        first, second = top_two(found, -2)
        each = np.where(captured, first - second, np.nan)
        return over_factors(each) if robust else ScoreParts(np.nansum(each, axis=-1), each)

    note, size = context.no_subsamples, context.subsample_size
    drawn = [] if note else context.subsamples(SUBSAMPLES)
    draws = np.stack([_areas(codes[p], table.factors, rows[p], exact=robust) for p in drawn]) if drawn else None
    count = ScoreParts(np.asarray(float(captured.sum())))
    return [
        ScoreResult(
            "tad", gaps(areas), n, None if draws is None else gaps(draws), None, "no factor is captured", note,
            subsample_size=size, bias_rate=BIAS_RATE,
        ),
        ScoreResult("captured", count, n, chance=ScoreParts(np.asarray(0.0))),
    ]  # fmt: skip


def _areas(codes: Floats, factors: tuple[Factor, ...], rows: Ids, *, exact: bool) -> Floats:
    """ROC area, at least 0.5, of each factor from each dimension, shape (D, K); NaN for continuous or constant ones."""
    found = np.full((codes.shape[1], len(factors)), np.nan)
    ranks = rankdata(codes, axis=0) if exact else codes
    for k, factor in enumerate(factors):
        classes = factor.classes[rows]
        known = classes >= 0
        levels = np.unique(classes[known])
        if not factor.discrete or len(levels) < 2:
            continue
        own, z = classes[known], ranks if known.all() else rankdata(codes[known], axis=0) if exact else codes[known]
        # both classes of two have the same area
        each = [
            _exact_areas(z, own == level) if exact else _published_areas(z, own == level)
            for level in (levels[1:] if len(levels) == 2 else levels)
        ]
        found[:, k] = np.mean([np.maximum(area, 1 - area) for area in each], axis=0)
    return found


def _exact_areas(ranks: Floats, positive: Bools) -> Floats:
    """Mann-Whitney's area of each dimension from its ranks, shape (D,); ties count half."""
    n = int(positive.sum())
    return np.asarray((ranks[positive].sum(axis=0) - n * (n + 1) / 2) / (n * (len(ranks) - n)))


def _published_areas(codes: Floats, positive: Bools) -> Floats:
    """Area under the ROC curve of 101 thresholds from the least to the greatest value, by trapezoids, shape (D,)."""
    found = np.empty(codes.shape[1])
    for j, column in enumerate(codes.T):
        thresholds = np.linspace(column.min(), column.max(), THRESHOLDS)
        true, false = (
            1 - np.searchsorted(np.sort(column[side]), thresholds, side="left") / side.sum()
            for side in (positive, ~positive)
        )
        found[j] = np.trapezoid(true[::-1], false[::-1])
    return found


def _explained(factors: tuple[Factor, ...], rows: Ids) -> Bools:
    """True for factors of whose entropy another one explains more than 0.2, shape (K,)."""
    found = np.zeros(len(factors), dtype=bool)
    for k, factor in enumerate(factors):
        for other in factors:
            classes = np.stack([factor.classes[rows], other.classes[rows]])
            one, two = classes[:, (classes >= 0).all(axis=0)]
            if other is factor or not len(one):
                continue
            table = np.bincount(two * factor.levels + one, minlength=factor.levels * other.levels)
            joint = table.reshape(other.levels, factor.levels).astype(np.float64)
            rest, own, both = map(float, joint_entropies(joint, corrected=False))
            found[k] |= own > 0 and (own + rest - both) / own > MOST_EXPLAINED
    return found
