"""How the factors go together, and the factors themselves as a code: what a perfect representation could reach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ccvae_eval.metrics.disentanglement.table import Table
from ccvae_eval.statistics.information import Classes
from ccvae_eval.streams import numpy_stream
from ccvae_eval.types import Floats

JITTER = 0.05
"""Deviation of the noise on the factors as codes, in steps between their levels."""


def cramers_v(one: Classes, other: Classes) -> float:
    r"""Association of two classings in [0, 1], bias corrected (Bergsma 2013); NaN where one is constant.

    Args:
        one, other: shape :math:`(N,)`, -1 = missing.
    """
    both = (one >= 0) & (other >= 0)
    a, b = (np.unique(c[both], return_inverse=True) for c in (one, other))
    n, r, k = int(both.sum()), len(a[0]), len(b[0])
    if min(r, k) < 2:
        return float("nan")
    table = np.bincount(a[1] * k + b[1], minlength=r * k).reshape(r, k)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / n
    phi = float(((table - expected) ** 2 / expected).sum()) / n
    phi = max(phi - (r - 1) * (k - 1) / (n - 1), 0.0)
    rows, columns = r - (r - 1) ** 2 / (n - 1), k - (k - 1) ** 2 / (n - 1)
    smaller = min(rows, columns) - 1
    return float(np.sqrt(phi / smaller)) if smaller > 0 else float("nan")


def factor_correlations(table: Table) -> Floats:
    """Cramér's V of every two factors (numbers in bins of equal mass), shape (K, K), 1 on the diagonal."""
    count = len(table.factors)
    found = np.eye(count)
    for i in range(count):
        for j in range(i):
            found[i, j] = found[j, i] = cramers_v(table.factors[i].classes, table.factors[j].classes)
    return found


def factors_as_codes(table: Table, seed: int) -> Table:
    """The table whose codes are the factors: one column each, its levels in order, a hair of noise on them.

    A missing value becomes the middle level.
    """
    columns = []
    for factor in table.factors:
        values = factor.classes.astype(np.float64) if factor.discrete else factor.values
        known = ~np.isnan(values) & factor.known
        filled = np.where(known, values, np.median(values[known]) if known.any() else 0.0)
        steps = np.unique(filled)
        unit = float(np.diff(steps).min()) if factor.discrete and len(steps) > 1 else 0.0
        noise = numpy_stream(seed, "jitter", factor.name).standard_normal(len(table))
        columns.append(filled + JITTER * unit * noise)
    codes = np.stack(columns, axis=1)
    blocks = tuple((k,) for k in range(codes.shape[1]))
    return replace(table, codes=codes, blocks=blocks, names=table.factor_names)
