r"""DCI-ES: how much capacity a reader needs, and how large the code is (Eastwood et al. 2022, section 4).

E_k = 1 minus the area between a factor's loss-capacity curve and the least loss, over the area of a reader that
stays at the guessing loss: 1 where the smallest reader already knows all. The reader here is a decision tree grown
leaf by leaf, best first; its capacity is its number of leaves, on a logarithmic axis. S = K / D.

RMIG: the gap with the information that the posterior itself carries, not one draw of it (Do and Tran 2020).

.. math:: I(z_j; v_k) = \sum_v p(v) \int q(z_j|v) \log \frac{q(z_j|v)}{q(z_j)}, \qquad
          q(z_j|v) = \frac{1}{n_v} \sum_{i: v_i = v} q(z_j|x_i)

by sums over an even grid. Unnormalised: nats.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.random_streams import stream_key
from ccvae_eval.core.types import Floats, Ids
from ccvae_eval.metrics.disentanglement.context import PanelContext, ScoreResult, undefined_result
from ccvae_eval.metrics.disentanglement.dci import SURE
from ccvae_eval.metrics.disentanglement.information_scores import ScoreParts, mean_defined, top_two
from ccvae_eval.metrics.disentanglement.predictors import without_fit_warnings
from ccvae_eval.metrics.disentanglement.table import Factor

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


def rmig(bench: PanelContext) -> list[ScoreResult]:
    """The mean over factors of I_1 - I_2 in nats; undefined without posteriors, or with point masses."""
    posterior, n = bench.posterior, len(bench.rows)
    single = [b for b in (bench.table.blocks[j] for j in bench.kept) if len(b) == 1]
    if posterior is None:
        return [undefined_result("rmig", "needs q(z|x): a table of codes has none", n)]
    columns = [block[0] for block in single]
    loc = posterior.loc.double().numpy()[bench.rows][:, columns]
    scale = posterior.scale.double().numpy()[bench.rows][:, columns]
    if len(columns) < 2 or (scale <= 0).any():
        why = "fewer than two codes of one column" if len(columns) < 2 else "the posterior is a point mass"
        return [undefined_result("rmig", why, n)]
    factors = tuple(
        Factor(f.name, f.discrete, f.classes[bench.rows], f.values[bench.rows], f.levels) for f in bench.table.factors
    )
    found = np.stack([posterior_information(loc[:, j], scale[:, j], factors) for j in range(len(columns))])
    first, second = top_two(found, 0)
    gaps = np.where([f.levels > 1 for f in factors], first - second, np.nan)
    return [ScoreResult("rmig", ScoreParts(mean_defined(gaps), gaps), n, why="no factor varies")]


def capacities(most: int) -> Ids:
    """The numbers of leaves that are looked at: 1, 2, 4, ... up to ``most``."""
    return 2 ** np.arange(int(np.log2(most)) + 1)


def explicitness_of(losses: Floats, baseline: float, axis: Floats) -> float:
    r""":math:`1 - \int (\ell - \ell^*) / ((c_1 - c_0) (\ell_0 - \ell^*))`, by trapezoids.

    Args:
        losses: at each capacity; what a larger reader loses again by overfitting does not count.
        baseline: the guessing loss l_0.
        axis: the capacities, ascending.

    Returns:
        in [0, 1]; NaN where no reader beats the guess.

    >>> explicitness_of(np.array([1.0, 0.0, 0.0]), 1.0, np.array([0.0, 1.0, 2.0]))
    0.75
    """
    curve = np.minimum.accumulate(np.minimum(losses, baseline))
    least = float(curve.min())
    if baseline - least <= 1e-9 or len(axis) < 2:
        return float("nan")
    area = float(np.trapezoid(curve - least, axis))
    return 1 - area / (float(axis[-1] - axis[0]) * (baseline - least))


def loss_curve(codes: Floats, factor: Factor, inside: Ids, outside: Ids, most: int, seed: int) -> tuple[Floats, float]:
    """Held-out error of trees of each capacity, from one tree: a best-first tree of m leaves is its first 2m - 1 nodes.

    The error is the share of wrong classes weighted so that classes count alike, or the squared error. Beside it
    the standard error that one of them has at most.
    """
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    kind = DecisionTreeClassifier if factor.discrete else DecisionTreeRegressor
    wanted = factor.classes if factor.discrete else factor.values
    more = {"class_weight": "balanced"} if factor.discrete else {}
    with without_fit_warnings():
        grown = kind(max_leaf_nodes=most, random_state=seed, **more).fit(codes[inside], wanted[inside]).tree_
    path = np.zeros(len(outside), dtype=np.int64)
    losses, error = [], 0.0
    points = codes[outside].astype(np.float32)
    for leaves in capacities(most):
        path = _descended(grown, points, path, 2 * int(leaves) - 1)
        if factor.discrete:
            seen = np.unique(wanted[inside])
            told = seen[grown.value[path, 0].argmax(axis=1)]
            counts = np.bincount(factor.classes[outside], minlength=factor.levels)
            weight = 1 / (counts[factor.classes[outside]] * (counts > 0).sum())
            losses.append(float(((told != wanted[outside]) * weight).sum()))
            error = float(np.sqrt((weight**2).sum()))
        else:
            squares = (grown.value[path, 0, 0] - wanted[outside]) ** 2
            losses.append(float(squares.mean()))
            error = max(error, float(squares.std() / np.sqrt(len(outside))))
    return np.array(losses), error


def _descended(tree: object, points: NDArray[np.float32], path: Ids, nodes: int) -> Ids:
    """Where each row stands in the tree of the first so many nodes, going on from where it stood in a smaller one."""
    left, right = np.asarray(tree.children_left), np.asarray(tree.children_right)  # type: ignore[attr-defined]
    feature, threshold = np.asarray(tree.feature), np.asarray(tree.threshold)  # type: ignore[attr-defined]
    rows = np.arange(len(path))
    while True:
        going = (left[path] >= 0) & (left[path] < nodes) & (right[path] < nodes)
        if not going.any():
            return path
        here = np.flatnonzero(going)
        at = path[here]
        lower = points[rows[here], feature[at]] <= threshold[at]
        path = path.copy()
        path[here] = np.where(lower, left[at], right[at])


def dci_es(bench: PanelContext) -> list[ScoreResult]:
    """Explicitness E of each factor, and the size S = K / D of the codes that are active."""
    table, settings = bench.table, bench.settings
    columns = [column for j in bench.kept for column in table.blocks[j]]
    codes = table.codes[:, columns]
    axis = np.log2(capacities(settings.leaves)).astype(np.float64)
    found = np.full(len(table.factors), np.nan)
    for k, factor in enumerate(table.factors):
        inside, outside = (rows[factor.known[rows]] for rows in (table.train, table.test))
        values = factor.classes[inside] if factor.discrete else factor.values[inside]
        if len(inside) < 2 or not len(outside) or (values == values[0]).all():
            continue
        seed = stream_key(bench.seed, "capacity", factor.name) % 2**31
        losses, error = loss_curve(codes, factor, inside, outside, settings.leaves, seed)
        if losses[0] - losses.min() > SURE * error:
            found[k] = explicitness_of(losses, float(losses[0]), axis)
    why = "no tree beats guessing for any factor"
    note = f"trees of 1 to {2 ** int(axis[-1])} leaves, log axis"
    capacity = ScoreResult(
        "dci_explicitness", ScoreParts(mean_defined(found), found), len(table.test), why=why, note=note
    )
    used = int(bench.information.active.sum())
    size = float("nan") if used == 0 else len(table.factors) / used
    return [capacity, ScoreResult("dci_size", ScoreParts(np.asarray(size)), len(table), why="no active code")]
