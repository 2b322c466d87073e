r"""How the codes depend on each other; not about factors, and so without a direction.

Gaussian total correlation :math:`\frac12 (\sum_j \log \Sigma_{jj} - \log \det \Sigma)`, Wasserstein distance of the
Gaussian from its independent copy, mean information between pairs. Robust: on the active codes' normal scores, so that
neither scale nor an outlier counts; reference: on the codes as they are.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri
from scipy.stats import rankdata

from ccvae_eval.core.types import Floats
from ccvae_eval.metrics.disentanglement.context import PanelContext, ResampledScore, ScoreResult, undefined_result
from ccvae_eval.metrics.disentanglement.information_scores import Counted, ScoreParts, permutations, subsamples
from ccvae_eval.statistics.subsampling import FEWEST

NAMES = (
    "gaussian_total_correlation",
    "gaussian_wasserstein_correlation",
    "gaussian_wasserstein_correlation_norm",
    "mutual_info_score",
)
MOST_CODES = 200
"""Pairs grow with the square."""
DRAWS = 100


def normal_scores(codes: Floats) -> Floats:
    """Each column's ranks as quantiles of the standard normal, ties sharing theirs."""
    return np.asarray(ndtri((rankdata(codes, axis=0) - 0.5) / len(codes)))


def gaussian_scores(covariance: Floats) -> Floats:
    r"""Total correlation (nats), Wasserstein distance, and that over the trace, shape (3,).

    The distance is :math:`2 \mathrm{tr} \Sigma - 2 \mathrm{tr} (\Sigma^{1/2}_{d} \Sigma \Sigma^{1/2}_{d})^{1/2}`,
    d = the diagonal. NaN where a variance is 0.

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


def pair_information(counts: Counted) -> float:
    """Mean information between two different columns, in nats."""
    width = counts.cells.shape[1]
    levels = tuple(int(column.max()) + 1 for column in counts.cells.T)
    pairs = Counted(counts.cells, counts.cells.T, levels, counts.bins, counts.corrected).mutual()
    np.fill_diagonal(pairs, 0.0)
    return float(pairs.sum() / (width * width - width))


def dependence(bench: PanelContext) -> list[ScoreResult]:
    """All four scores."""
    robust, rows = bench.settings.robust, bench.rows
    chosen = bench.kept[bench.information.active] if robust else bench.kept
    columns = [c for j in chosen for c in bench.table.blocks[j]]
    n = len(rows)
    if not 2 <= len(columns) <= MOST_CODES or n < 3:
        why = f"{len(columns)} active codes: from 2 to {MOST_CODES} are needed"
        return [undefined_result(name, why, n) for name in NAMES]
    codes = bench.table.codes[rows][:, columns]
    points = normal_scores(codes) if robust else codes
    table = Counted(bench.counts.cells[:, columns], np.empty((0, n), dtype=np.int64), (), bench.counts.bins, robust)
    found = _all(points, table)
    null = _independent(bench, points, table) if not bench.quick else None
    if robust and null is not None:
        found[3] = max(found[3] - float(null[3]), 0.0)
    draws, size, note = _drawn(bench, points, table)
    findings = []
    for i, name in enumerate(NAMES):
        drawn = ResampledScore(None if draws is None else ScoreParts(draws[:, i]), "subsampling", size, note)
        chance = None if null is None else ScoreParts(np.asarray(0.0 if robust and i == 3 else null[i]))
        point = ScoreParts(np.asarray(found[i] if np.isfinite(found[i]) else np.nan))
        findings.append(ScoreResult(name, point, n, drawn, chance, "a code is constant, or follows from the others"))
    return findings


def _all(points: Floats, table: Counted) -> Floats:
    return np.array([*gaussian_scores(np.atleast_2d(np.cov(points.T))), pair_information(table)])


def _independent(bench: PanelContext, points: Floats, table: Counted) -> Floats:
    """What the codes give on average when each is shuffled by itself.

    Of one shuffle alone the null is so noisy that the score less the null leaves its interval: the interval of
    ``mutual_info_score`` held the value of the population in .84 of 100 tables of 1,000 rows.
    """
    columns = [permutations(bench.seed + j, len(points), bench.settings.shuffles) for j in range(points.shape[1])]
    found = []
    for orders in zip(*columns, strict=True):
        shuffled = np.stack([column[order] for column, order in zip(points.T, orders, strict=True)], axis=1)
        cells = np.stack([column[order] for column, order in zip(table.cells.T, orders, strict=True)], axis=1)
        found.append(_all(shuffled, Counted(cells, table.classes, (), table.bins, table.corrected)))
    return np.asarray(np.mean(found, axis=0))


def _drawn(bench: PanelContext, points: Floats, table: Counted) -> tuple[Floats | None, int, str]:
    size = bench.subsample_size
    if bench.quick:
        return None, size, ""
    if size < FEWEST or size >= len(points):
        return None, size, f"no interval: subsamples of {size} rows, {FEWEST} needed"
    found = [
        _all(points[rows], Counted(table.cells[rows], table.classes, (), table.bins, table.corrected))
        for rows in subsamples(bench.seed, len(points), size, DRAWS)
    ]
    return np.stack(found), size, ""
