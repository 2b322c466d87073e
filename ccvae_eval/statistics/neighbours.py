r"""Divergences between classes of codes by distances to nearest neighbours, for many pairs of classes at once."""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial import cKDTree

from ccvae_eval.types import Floats

REPEATED = 0.01
"""The share of codes that may repeat another one; beyond, the codes are discrete."""


def neighbour_divergences(first: Floats, second: Floats, k: int) -> Floats:
    r"""KL(first || second) and back for each of B pairs (Wang, Kulkarni and Verdu 2009), see ``knn_kl``.

    One column is sorted once and searched in windows, all pairs together; several go through a tree for each class.

    Args:
        first: shape :math:`(B, n, d)`.
        second: shape :math:`(B, m, d)`.
        k: which neighbour.

    Returns:
        nats, shape :math:`(B, 2)`; NaN where n <= k or m <= k, or where more than 1 % of a class's distances are 0.
    """
    n, m, d = first.shape[1], second.shape[1], first.shape[2]
    if min(n, m) <= k:
        return np.full((len(first), 2), np.nan)
    if d == 1:
        one, other = np.sort(first[:, :, 0], axis=1), np.sort(second[:, :, 0], axis=1)
        own = [_line_own(points, k) for points in (one, other)]
        cross = [_line_cross(one, other, k), _line_cross(other, one, k)]
    else:
        distances = [_tree_distances(a, b, k) for a, b in zip(first, second, strict=True)]
        own = [np.stack([pair[side] for pair in distances]) for side in (0, 1)]
        cross = [np.stack([pair[side] for pair in distances]) for side in (2, 3)]
    found = np.empty((len(first), 2))
    for side, (size, others) in enumerate(((n, m), (m, n))):
        apart = (own[side] > 0) & (cross[side] > 0)
        count = apart.sum(axis=1)
        logs = np.log(np.where(apart, cross[side], 1.0) / np.where(apart, own[side], 1.0)).sum(axis=1)
        kept = math.log(others / (size - 1)) + d * logs / np.maximum(count, 1)
        found[:, side] = np.where(count >= (1 - REPEATED) * size, kept, np.nan)
    return found


def _line_own(points: Floats, k: int) -> Floats:
    """Distance of each sorted point to its k-th neighbour among the others, shape (B, n).

    The k neighbours and the point fill a window of k + 1 sorted points: the best of the k + 1 windows that hold it.
    """
    n = points.shape[1]
    padded = _padded(points, k)
    best = np.full(points.shape, np.inf)
    for start in range(k + 1):
        left, right = padded[:, start : start + n], padded[:, start + k : start + k + n]
        np.minimum(best, np.maximum(points - left, right - points), out=best)
    return best


def _line_cross(points: Floats, others: Floats, k: int) -> Floats:
    """Distance of each sorted point to its k-th neighbour among the sorted others, shape (B, n)."""
    padded = _padded(others, k)
    below = np.stack([np.searchsorted(row, point) for row, point in zip(others, points, strict=True)])
    best = np.full(points.shape, np.inf)
    for start in range(k + 1):
        # windows of k others, from all k below the point to all k above it
        left = np.take_along_axis(padded, below + start, axis=1)
        right = np.take_along_axis(padded, below + start + k - 1, axis=1)
        np.minimum(best, np.maximum(points - left, right - points), out=best)
    return best


def _padded(points: Floats, k: int) -> Floats:
    """With k points at infinity on both sides: a window that reaches beyond the ends is never the best."""
    ends = np.full((len(points), k), np.inf)
    return np.concatenate([-ends, points, ends], axis=1)


def _tree_distances(first: Floats, second: Floats, k: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Each class's distances within itself, and to the other one: own, own, cross, cross."""
    trees = cKDTree(first), cKDTree(second)
    own = [np.ravel(tree.query(points, [k + 1])[0]) for tree, points in zip(trees, (first, second), strict=True)]
    cross = [np.ravel(tree.query(points, [k])[0]) for tree, points in zip(trees, (second, first), strict=True)]
    return own[0], own[1], cross[1], cross[0]
