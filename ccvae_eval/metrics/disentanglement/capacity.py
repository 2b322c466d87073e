r"""Scores from curves and densities instead of bins: DCI-ES (Eastwood et al. 2022) and RMIG (Do and Tran 2020).

DCI-ES adds to DCI the *explicitness* E, how little capacity a predictor of the factors needs, and the *size*
S = K / number of active latents. The predictor is a decision tree that is grown leaf by leaf, best first, and its
capacity is the number of leaves on a logarithmic axis.

RMIG is the gap of MIG, unnormalised, with the mutual information under the whole posterior q(z|x) instead of one point
of it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.random_streams import stream_key
from ccvae_eval.core.types import Floats, Ids
from ccvae_eval.metrics.disentanglement.context import PanelContext, ScoreResult, undefined_results
from ccvae_eval.metrics.disentanglement.dci import SIGNIFICANT_ERRORS
from ccvae_eval.metrics.disentanglement.information_scores import CHUNK_ENTRIES, ScoreParts, over_factors, top_two
from ccvae_eval.metrics.disentanglement.predictors import without_fit_warnings
from ccvae_eval.metrics.disentanglement.table import Factor
from ccvae_eval.statistics.ratios import safe_ratio

GRID = 512
"""Points of the even grid and of the quantile grid over a latent dimension."""
GRID_MARGIN = 5.0
"""Posterior standard deviations that the grid extends beyond the outermost mean."""


def rmig(context: PanelContext) -> list[ScoreResult]:
    r"""Robust mutual information gap, :math:`\frac1K \sum_k (I^{(k)}_1 - I^{(k)}_2)`, in nats (Do and Tran 2020).

    I is :func:`posterior_information` of each latent of one dimension. Range: 0 to the mean entropy of the factors.
    Undefined without posteriors, for point masses, and for fewer than two such latents; constant factors are left out.
    """
    posterior, rows, n = context.posterior, context.rows, len(context.rows)
    if posterior is None:
        return undefined_results(["rmig"], "needs q(z|x), which a table of codes does not have", n)
    blocks = [context.table.blocks[j] for j in context.scored_blocks]
    columns = [block[0] for block in blocks if len(block) == 1]
    loc, scale = (each.double().numpy()[rows][:, columns] for each in (posterior.loc, posterior.scale))
    if len(columns) < 2:
        return undefined_results(["rmig"], "needs two latents of one dimension", n)
    if (scale <= 0).any():
        return undefined_results(["rmig"], "the posterior is a point mass", n)
    factors = tuple(replace(f, classes=f.classes[rows], values=f.values[rows]) for f in context.table.factors)
    found = np.stack([posterior_information(loc[:, j], scale[:, j], factors) for j in range(len(columns))])
    first, second = top_two(found, 0)
    gaps = np.where([f.levels > 1 for f in factors], first - second, np.nan)
    return [ScoreResult("rmig", over_factors(gaps), n, reason="no factor varies")]


def posterior_information(loc: Floats, scale: Floats, factors: tuple[Factor, ...]) -> Floats:
    r"""Mutual information of one latent dimension with each factor under the posterior, in nats, shape (K,).

    .. math:: I(z_j; v_k) = \sum_v p(v) \int q(z_j|v) \log \frac{q(z_j|v)}{q(z_j)} dz_j, \qquad
              q(z_j|v) = \frac{1}{n_v} \sum_{i: v_i = v} q(z_j|x_i)

    The integral is a sum over a grid.

    Args:
        loc, scale: mean and standard deviation (above 0) of q(z_j|x) of each row, shape (N,).
        factors: factors on the same rows; NaN for a factor without a known value.
    """
    ends = float((loc - GRID_MARGIN * scale).min()), float((loc + GRID_MARGIN * scale).max())
    # with quantiles of the means, since narrow posteriors fall between the points of an even grid
    grid = np.unique(np.concatenate([np.linspace(*ends, GRID), np.quantile(loc, np.linspace(0, 1, GRID))]))
    step = np.gradient(grid)
    sums = [np.zeros((factor.levels, len(grid))) for factor in factors]
    stride = max(CHUNK_ENTRIES // len(grid), 1)
    for first in range(0, len(loc), stride):
        rows = slice(first, first + stride)
        density = np.exp(-0.5 * ((grid - loc[rows, None]) / scale[rows, None]) ** 2) / scale[rows, None]
        density /= np.maximum((density * step).sum(axis=1, keepdims=True), 1e-300)
        for total, factor in zip(sums, factors, strict=True):
            member = (factor.classes[rows] == np.arange(factor.levels)[:, None]).astype(np.float64)
            total += member @ density
    return np.array([_information(total, step, f) for total, f in zip(sums, factors, strict=True)])


def _information(total: Floats, step: Floats, factor: Factor) -> float:
    counts = np.bincount(factor.classes[factor.classes >= 0], minlength=factor.levels)
    if not counts.sum():
        return float("nan")
    share = counts / counts.sum()
    within = safe_ratio(total, counts[:, None], 0.0)
    overall = share @ within
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(within > 0, within * np.log(within / overall), 0.0)
    return float((share[:, None] * terms * step).sum())


def dci_es(context: PanelContext) -> list[ScoreResult]:
    """``dci_explicitness`` E, the mean over factors, and ``dci_size`` S = K / number of active latents.

    E is in [0, 1]; factors for which no tree is significantly better than guessing are left out. S is positive, and
    undefined without active latents.
    """
    table, settings = context.table, context.settings
    codes = table.codes[:, [column for j in context.scored_blocks for column in table.blocks[j]]]
    axis = np.log2(capacities(settings.leaves)).astype(np.float64)
    found = np.full(len(table.factors), np.nan)
    for k, factor in enumerate(table.factors):
        train, test = table.known_rows(factor)
        values = factor.classes[train] if factor.discrete else factor.values[train]
        if len(train) < 2 or not len(test) or (values == values[0]).all():
            continue
        seed = stream_key(context.seed, "capacity", factor.name) % 2**31
        losses, error = loss_curve(codes, factor, train, test, settings.leaves, seed)
        if losses[0] - losses.min() > SIGNIFICANT_ERRORS * error:
            found[k] = explicitness_from_curve(losses, float(losses[0]), axis)
    active = int(context.information.active.sum())
    size = ScoreParts(np.asarray(len(table.factors) / active if active else np.nan))
    return [
        ScoreResult(
            "dci_explicitness", over_factors(found), len(table.test),
            reason="no tree is better than guessing for any factor",
            note=f"trees of 1 to {2 ** int(axis[-1])} leaves, log axis",
        ),
        ScoreResult("dci_size", size, len(table), reason="no active latent dimension"),
    ]  # fmt: skip


def capacities(most: int) -> Ids:
    """Numbers of leaves on the curve: 1, 2, 4, ... up to ``most``."""
    return 2 ** np.arange(int(np.log2(most)) + 1)


def explicitness_from_curve(losses: Floats, baseline: float, axis: Floats) -> float:
    r"""Explicitness of one factor: one minus the normalised area under its loss-capacity curve.

    .. math:: 1 - \frac{\int (\ell(c) - \ell^*) \, dc}{(c_1 - c_0) (\ell_0 - \ell^*)}

    by trapezoids, :math:`\ell^*` the least loss (Eastwood et al. 2022, section 4).

    Args:
        losses: loss at each capacity; the running minimum is used, so overfitting does not count.
        baseline: loss :math:`\ell_0` of guessing.
        axis: capacities c, ascending.

    Returns:
        A number in [0, 1], 1 if the smallest capacity suffices; NaN if no loss is below the baseline.

    >>> explicitness_from_curve(np.array([1.0, 0.0, 0.0]), 1.0, np.array([0.0, 1.0, 2.0]))
    0.75
    """
    curve = np.minimum.accumulate(np.minimum(losses, baseline))
    least = float(curve.min())
    if baseline - least <= 1e-9 or len(axis) < 2:
        return float("nan")
    area = float(np.trapezoid(curve - least, axis))
    return 1 - area / (float(axis[-1] - axis[0]) * (baseline - least))


def loss_curve(codes: Floats, factor: Factor, train: Ids, test: Ids, most: int, seed: int) -> tuple[Floats, float]:
    """Test loss of decision trees of 1, 2, 4, ... ``most`` leaves, and the greatest standard error of one of them.

    The loss is the balanced error rate, or the squared error of a continuous factor. All trees come from one fit: a
    best-first tree of m leaves consists of the first 2m - 1 nodes of a larger one.
    """
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    kind = DecisionTreeClassifier if factor.discrete else DecisionTreeRegressor
    target = factor.classes if factor.discrete else factor.values
    more = {"class_weight": "balanced"} if factor.discrete else {}
    with without_fit_warnings():
        tree = kind(max_leaf_nodes=most, random_state=seed, **more).fit(codes[train], target[train]).tree_
    nodes = np.zeros(len(test), dtype=np.int64)
    losses, error = [], 0.0
    points = codes[test].astype(np.float32)
    for leaves in capacities(most):
        nodes = _descend(tree, points, nodes, 2 * int(leaves) - 1)
        if factor.discrete:
            predicted = np.unique(target[train])[tree.value[nodes, 0].argmax(axis=1)]
            counts = np.bincount(factor.classes[test], minlength=factor.levels)
            weight = 1 / (counts[factor.classes[test]] * (counts > 0).sum())
            losses.append(float(((predicted != target[test]) * weight).sum()))
            error = float(np.sqrt((weight**2).sum()))
        else:
            squares = (tree.value[nodes, 0, 0] - target[test]) ** 2
            losses.append(float(squares.mean()))
            error = max(error, float(squares.std() / np.sqrt(len(test))))
    return np.array(losses), error


def _descend(tree: object, points: NDArray[np.float32], nodes: Ids, limit: int) -> Ids:
    """The node of each row in the tree of the first ``limit`` nodes, starting from its node in a smaller tree."""
    left, right = np.asarray(tree.children_left), np.asarray(tree.children_right)  # type: ignore[attr-defined]
    feature, threshold = np.asarray(tree.feature), np.asarray(tree.threshold)  # type: ignore[attr-defined]
    rows = np.arange(len(nodes))
    while True:
        inner = (left[nodes] >= 0) & (left[nodes] < limit) & (right[nodes] < limit)
        if not inner.any():
            return nodes
        here = np.flatnonzero(inner)
        at = nodes[here]
        lower = points[rows[here], feature[at]] <= threshold[at]
        nodes = nodes.copy()
        nodes[here] = np.where(lower, left[at], right[at])
