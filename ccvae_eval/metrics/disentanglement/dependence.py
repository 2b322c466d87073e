r"""Dependence of the latent dimensions on each other, without factors; neither high nor low is better.

Gaussian total correlation, Gaussian Wasserstein correlation, and mean pairwise mutual information, as in the published
unsupervised scores. Robust profile: computed on normal scores of the active latents, so that neither scale nor outliers
matter. Reference profile: on the codes themselves.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from ccvae_eval.core.types import Floats
from ccvae_eval.metrics.disentanglement.context import PanelContext, ResampledScore, ScoreResult, undefined_result
from ccvae_eval.metrics.disentanglement.information_scores import BinnedTable, ScoreParts, permutations, subsamples

NAMES = (
    "gaussian_total_correlation",
    "gaussian_wasserstein_correlation",
    "gaussian_wasserstein_correlation_norm",
    "mutual_info_score",
)
MAX_DIMENSIONS = 200
"""The number of pairs grows with its square."""
SUBSAMPLES = 100


def normal_scores(codes: Floats) -> Floats:
    """Ranks of each column as quantiles of the standard normal distribution; ties share the mean rank."""
    return np.asarray(ndtri((rankdata(codes, axis=0) - 0.5) / len(codes)))


def gaussian_scores(covariance: Floats) -> Floats:
    r"""Total correlation in nats, Wasserstein distance, and that distance over the trace, shape (3,).

    Of a Gaussian with covariance :math:`\Sigma` against the Gaussian with its diagonal d only:

    .. math:: TC = \tfrac12 \Big( \sum_j \log \Sigma_{jj} - \log \det \Sigma \Big), \qquad
              W = 2 \operatorname{tr} \Sigma - 2 \operatorname{tr} (d^{1/2} \Sigma d^{1/2})^{1/2}

    All are 0 for independent dimensions and unbounded above; TC is infinite for a singular covariance. NaN if a
    variance is 0.

    >>> gaussian_scores(np.eye(3)).round(9).tolist()
    [0.0, 0.0, 0.0]
    """
    variances = np.diag(covariance)
    if (variances <= 0).any():
        return np.full(3, np.nan)
    sign, logdet = np.linalg.slogdet(covariance)
    total = 0.5 * (np.log(variances).sum() - logdet) if sign > 0 else np.inf
    root = np.sqrt(variances)
    values = np.linalg.eigvalsh(root[:, None] * covariance * root)
    distance = 2 * variances.sum() - 2 * np.sqrt(np.maximum(values, 0.0)).sum()
    return np.array([total, distance, distance / variances.sum()])


def pair_information(table: BinnedTable) -> float:
    """Mean mutual information between two different latent dimensions, in nats."""
    width = table.binned_codes.shape[1]
    levels = tuple(int(column.max()) + 1 for column in table.binned_codes.T)
    pairs = BinnedTable(table.binned_codes, table.binned_codes.T, levels, table.bins, table.corrected)
    information = pairs.mutual_information()
    np.fill_diagonal(information, 0.0)
    return float(information.sum() / (width * width - width))


def dependence(context: PanelContext) -> list[ScoreResult]:
    """The four scores; undefined for fewer than 2 or more than 200 dimensions, or fewer than three rows.

    Chance: each dimension permuted by itself; in the robust profile it is subtracted from ``mutual_info_score``.
    """
    robust, rows = context.settings.robust, context.rows
    chosen = context.scored_blocks[context.information.active] if robust else context.scored_blocks
    columns = [c for j in chosen for c in context.table.blocks[j]]
    n = len(rows)
    if not 2 <= len(columns) <= MAX_DIMENSIONS or n < 3:
        reason = f"needs 2 to {MAX_DIMENSIONS} active latent dimensions, got {len(columns)}"
        return [undefined_result(name, reason, n) for name in NAMES]
    codes = context.table.codes[rows][:, columns]
    points = normal_scores(codes) if robust else codes
    binned = context.binned.binned_codes[:, columns]
    table = BinnedTable(binned, np.empty((0, n), dtype=np.int64), (), context.binned.bins, robust)
    found = _all_scores(points, table)
    null = _independent(context, points, table) if not context.point_only else None
    if robust and null is not None:
        found[3] = max(found[3] - float(null[3]), 0.0)
    draws, note = _draws(context, points, table)
    reason = "a latent dimension is constant or a linear function of the others"
    results = []
    for i, name in enumerate(NAMES):
        parts = None if draws is None else ScoreParts(draws[:, i])
        score = ResampledScore(parts, "subsampling", context.subsample_size, note)
        chance = None if null is None else ScoreParts(np.asarray(0.0 if robust and i == 3 else null[i]))
        point = ScoreParts(np.asarray(found[i] if np.isfinite(found[i]) else np.nan))
        results.append(ScoreResult(name, point, n, score, chance, reason))
    return results


def _all_scores(points: Floats, table: BinnedTable) -> Floats:
    return np.array([*gaussian_scores(np.atleast_2d(np.cov(points.T))), pair_information(table)])


def _independent(context: PanelContext, points: Floats, table: BinnedTable) -> Floats:
    """Mean scores with each dimension permuted by itself; one shuffle alone would add its noise to the score."""
    shuffles = context.settings.shuffles
    columns = [permutations(context.seed + j, len(points), shuffles) for j in range(points.shape[1])]
    found = []
    for orders in zip(*columns, strict=True):
        shuffled = np.stack([column[order] for column, order in zip(points.T, orders, strict=True)], axis=1)
        binned = np.stack([column[order] for column, order in zip(table.binned_codes.T, orders, strict=True)], axis=1)
        found.append(_all_scores(shuffled, BinnedTable(binned, table.classes, (), table.bins, table.corrected)))
    return np.asarray(np.mean(found, axis=0))


def _draws(context: PanelContext, points: Floats, table: BinnedTable) -> tuple[Floats | None, str]:
    """Scores on subsamples, shape (B, 4); None with the reason if there are none."""
    if context.point_only:
        return None, ""
    if reason := context.no_subsamples:
        return None, reason
    found = [
        _all_scores(points[rows], BinnedTable(table.binned_codes[rows], table.classes, (), table.bins, table.corrected))
        for rows in subsamples(context.seed, len(points), context.subsample_size, SUBSAMPLES)
    ]
    return np.stack(found), ""
