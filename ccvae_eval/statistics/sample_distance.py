"""How far two samples of feature vectors lie apart: distances of their laws, and of their manifolds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from ccvae_eval.measure import Estimate
from ccvae_eval.types import Bools, Floats

BLOCK = 1000
"""Rows of a kernel or distance matrix that are held at once; no number depends on it."""


def frechet_distance(x: Floats, y: Floats) -> float:
    r"""Fréchet distance of the Gaussians with the samples' means and covariances (divisor n - 1).

    .. math:: |m_x - m_y|^2 + \operatorname{tr}(S_x + S_y - 2 (S_x^{1/2} S_y S_x^{1/2})^{1/2})

    Dowson and Landau 1982. It is biased upwards, the more so the smaller the samples: compare at the same N.

    Args:
        x, y: shape :math:`(N, F)` and :math:`(M, F)`, at least two rows each.

    >>> frechet_distance(np.array([[0.0], [2.0]]), np.array([[3.0], [5.0]]))
    9.0
    """
    gap = x.mean(axis=0) - y.mean(axis=0)
    a, b = (np.atleast_2d(np.cov(z, rowvar=False)) for z in (x, y))
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    middle = np.sqrt(np.clip(np.linalg.eigvalsh(root @ b @ root), 0, None)).sum()
    return max(float(gap @ gap + np.trace(a) + np.trace(b) - 2 * middle), 0.0)


def kernel_distance(x: Floats, y: Floats, level: float = 0.95) -> Estimate:
    r"""Unbiased squared maximum mean discrepancy with the kernel :math:`k(u, v) = (u \cdot v / F + 1)^3`.

    .. math:: \frac{1}{n(n-1)} \sum_{i \ne j} k(x_i, x_j) + \frac{1}{m(m-1)} \sum_{i \ne j} k(y_i, y_j)
        - \frac{2}{nm} \sum_{i,j} k(x_i, y_j)

    Gretton et al. 2012 (lemma 6), with the kernel of Binkowski et al. 2018. Its mean is 0 for samples of one law; it
    may be negative. The interval is normal, from the variance of each row's first-order contribution, and too narrow
    where both laws are nearly the same.

    Args:
        x, y: shape :math:`(N, F)` and :math:`(M, F)`, at least two rows each.
        level: of the interval.
    """
    own_x, own_y = _own(x), _own(y)
    across_x, across_y = _across(x, y)
    value = float(own_x.mean() + own_y.mean() - 2 * across_x.mean())
    parts = own_x - across_x, own_y - across_y
    error = 2 * np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts))
    reach = float(ndtri((1 + level) / 2) * error)
    return Estimate(value, value - reach, value + reach, min(len(x), len(y)), "normal")


def _kernel(x: Floats, y: Floats) -> Floats:
    found = x @ y.T
    found /= x.shape[1]
    found += 1
    square = found * found  # a power takes ten times as long
    square *= found
    return np.asarray(square)


def _own(x: Floats) -> Floats:
    """The mean kernel of each row with all others."""
    total, itself = _across(x, x)[0] * len(x), ((x * x).sum(axis=1) / x.shape[1] + 1) ** 3
    return np.asarray((total - itself) / (len(x) - 1))


def _across(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The mean kernel of each row of x with those of y, and of each of y with those of x."""
    rows, columns = np.empty(len(x)), np.zeros(len(y))
    for first in range(0, len(x), BLOCK):
        block = _kernel(x[first : first + BLOCK], y)
        rows[first : first + BLOCK] = block.mean(axis=1)
        columns += block.sum(axis=0)
    return rows, columns / len(x)


@dataclass(frozen=True, slots=True, eq=False)
class Manifolds:
    """What each image says of two samples' manifolds (Kynkäänniemi et al. 2019; Naeem et al. 2020).

    Args:
        precision: whether a generated row lies in the ball of some real one, shape (M,).
        recall: whether a real row lies in the ball of some generated one, shape (N,).
        density: in how many balls of real rows a generated one lies, over k, shape (M,).
        coverage: whether some generated row lies in a real one's ball, shape (N,).
    """

    precision: Bools
    recall: Bools
    density: Floats
    coverage: Bools


def manifolds(real: Floats, generated: Floats, k: int = 5) -> Manifolds:
    """Compares two samples by balls around their rows that reach to the k-th nearest row of the same sample.

    Args:
        real, generated: shape (N, F) and (M, F), more than k rows each.
        k: which neighbour.
    """
    radius, theirs = _radii(real, k), _radii(generated, k)
    precision, density = np.zeros(len(generated), np.bool_), np.zeros(len(generated))
    recall, coverage = np.zeros(len(real), np.bool_), np.zeros(len(real), np.bool_)
    for first in range(0, len(generated), BLOCK):
        rows = slice(first, first + BLOCK)
        apart = _squares(generated[rows], real)
        inside = apart <= radius
        precision[rows], density[rows] = inside.any(axis=1), inside.sum(axis=1) / k
        coverage |= inside.any(axis=0)
        recall |= (apart <= theirs[rows, None]).any(axis=0)
    return Manifolds(precision, recall, density, coverage)


def _radii(x: Floats, k: int) -> Floats:
    """The squared distance of each row to its k-th neighbour."""
    parts = [np.partition(_squares(x[i : i + BLOCK], x), k, axis=1)[:, k] for i in range(0, len(x), BLOCK)]
    return np.concatenate(parts)


def _squares(x: Floats, y: Floats) -> Floats:
    """Squared distances: only their order matters here, and roots take as long as all else."""
    found = x @ y.T
    found *= -2
    found += (x * x).sum(axis=1)[:, None]
    found += (y * y).sum(axis=1)
    return np.asarray(np.maximum(found, 0, out=found))
