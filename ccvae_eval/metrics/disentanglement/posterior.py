r"""RMIG: the gap with the information that the posterior itself carries, not one draw of it (Do and Tran 2020).

.. math:: I(z_j; v_k) = \sum_v p(v) \int q(z_j|v) \log \frac{q(z_j|v)}{q(z_j)}, \qquad
          q(z_j|v) = \frac{1}{n_v} \sum_{i: v_i = v} q(z_j|x_i)

by sums over an even grid. Unnormalised: nats.
"""

from __future__ import annotations

import numpy as np

from ccvae_eval.metrics.disentanglement.bench import Bench
from ccvae_eval.metrics.disentanglement.findings import Finding, undefined_finding
from ccvae_eval.metrics.disentanglement.gaps import Parts, mean_defined, top_two
from ccvae_eval.metrics.disentanglement.table import Factor
from ccvae_eval.types import Floats

GRID = 512
REACH = 5.0
"""Deviations beyond the outermost mean that the grid covers."""
AT_ONCE = 1 << 22


def posterior_information(loc: Floats, scale: Floats, factors: tuple[Factor, ...]) -> Floats:
    """I in nats of one column with each factor, shape (K,).

    Args:
        loc, scale: of q(z|x) of each row, shape (N,), scale > 0.
        factors: their classes are of the same rows.
    """
    ends = float((loc - REACH * scale).min()), float((loc + REACH * scale).max())
    edges = np.linspace(*ends, GRID)
    # narrow posteriors fall between the points of an even grid: it follows the codes' quantiles as well
    grid = np.unique(np.concatenate([edges, np.quantile(loc, np.linspace(0, 1, GRID))]))
    step = np.gradient(grid)
    sums = [np.zeros((factor.levels, len(grid))) for factor in factors]
    stride = max(AT_ONCE // len(grid), 1)
    for first in range(0, len(loc), stride):
        rows = slice(first, first + stride)
        density = np.exp(-0.5 * ((grid - loc[rows, None]) / scale[rows, None]) ** 2) / scale[rows, None]
        density /= np.maximum((density * step).sum(axis=1, keepdims=True), 1e-300)
        for total, factor in zip(sums, factors, strict=True):
            classes = factor.classes[rows]
            member = (classes == np.arange(factor.levels)[:, None]).astype(np.float64)
            total += member @ density
    return np.array([_information(total, step, f) for total, f in zip(sums, factors, strict=True)])


def _information(total: Floats, step: Floats, factor: Factor) -> float:
    counts = np.bincount(factor.classes[factor.classes >= 0], minlength=factor.levels)
    if not counts.sum():
        return float("nan")
    share = counts / counts.sum()
    within = total / np.maximum(counts, 1)[:, None]
    overall = share @ within
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(within > 0, within * np.log(within / overall), 0.0)
    return float((share[:, None] * terms * step).sum())


def rmig(bench: Bench) -> list[Finding]:
    """The mean over factors of I_1 - I_2 in nats; undefined without posteriors, or with point masses."""
    posterior, n = bench.posterior, len(bench.rows)
    single = [b for b in (bench.table.blocks[j] for j in bench.kept) if len(b) == 1]
    if posterior is None:
        return [undefined_finding("rmig", "needs q(z|x): a table of codes has none", n)]
    columns = [block[0] for block in single]
    loc = posterior.loc.double().numpy()[bench.rows][:, columns]
    scale = posterior.scale.double().numpy()[bench.rows][:, columns]
    if len(columns) < 2 or (scale <= 0).any():
        why = "fewer than two codes of one column" if len(columns) < 2 else "the posterior is a point mass"
        return [undefined_finding("rmig", why, n)]
    factors = tuple(
        Factor(f.name, f.discrete, f.classes[bench.rows], f.values[bench.rows], f.levels) for f in bench.table.factors
    )
    found = np.stack([posterior_information(loc[:, j], scale[:, j], factors) for j in range(len(columns))])
    first, second = top_two(found, 0)
    gaps = np.where([f.levels > 1 for f in factors], first - second, np.nan)
    return [Finding("rmig", Parts(mean_defined(gaps), gaps), n, why="no factor varies")]
