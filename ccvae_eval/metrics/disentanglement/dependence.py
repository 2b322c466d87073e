r"""Dependence of the latent dimensions on each other, without factors; neither high nor low is better.

Gaussian total correlation, Gaussian Wasserstein correlation, and mean pairwise mutual information, as in the published
unsupervised scores. Robust profile: computed on normal scores of the active latents, so that neither scale nor outliers
matter. Reference profile: on the codes themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from ccvae_eval.core.types import Floats, Ids
from ccvae_eval.metrics.disentanglement.context import PanelContext, ScoreResult, undefined_results
from ccvae_eval.metrics.disentanglement.information_scores import BinnedTable, ScoreParts, permutations
from ccvae_eval.statistics.information import Classes

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


def pair_information(binned: Classes, bins: int, *, corrected: bool) -> float:
    """Mean mutual information between two different dimensions of binned codes (N, D), in nats."""
    width, levels = binned.shape[1], tuple(int(column.max()) + 1 for column in binned.T)
    information = BinnedTable(binned, binned.T, levels, bins, corrected).mutual_information()
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
        return undefined_results(NAMES, reason, n)
    codes = context.table.codes[rows][:, columns]
    points = normal_scores(codes) if robust else codes
    binned = context.binned.binned_codes[:, columns]

    def scores(own: Floats, bins: Classes) -> Floats:
        information = pair_information(bins, context.binned.bins, corrected=robust)
        return np.array([*gaussian_scores(np.atleast_2d(np.cov(own.T))), information])

    found, null = scores(points, binned), None
    if not context.point_only:
        # mean over shuffles, since one alone would add its noise to the score
        orders = [permutations(context.seed + j, n, context.settings.shuffles) for j in range(len(columns))]
        shuffles = list(zip(*orders, strict=True))
        null = np.mean([scores(_permuted(points, s), _permuted(binned, s)) for s in shuffles], axis=0)
        found[3] = max(found[3] - float(null[3]), 0.0) if robust else found[3]
    note = context.no_subsamples
    parts = [] if note else context.subsamples(SUBSAMPLES)
    draws = np.array([scores(points[part], binned[part]) for part in parts])
    reason = "a latent dimension is constant or a linear function of the others"
    results = []
    for i, name in enumerate(NAMES):
        resampled = None if note else ScoreParts(draws[:, i])
        chance = None if null is None else ScoreParts(np.asarray(0.0 if robust and i == 3 else null[i]))
        point = ScoreParts(np.asarray(found[i] if np.isfinite(found[i]) else np.nan))
        size = context.subsample_size
        results.append(ScoreResult(name, point, n, resampled, chance, reason, note, subsample_size=size))
    return results


def _permuted(table: NDArray[Any], orders: Sequence[Ids]) -> NDArray[Any]:
    """Each column in its own order of rows."""
    return np.stack([column[order] for column, order in zip(table.T, orders, strict=True)], axis=1)
