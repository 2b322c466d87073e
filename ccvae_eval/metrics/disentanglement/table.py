"""Checked codes and factors, split into training and test rows, and the association of factors (Cramér's V).

In the whole panel a *factor* v_k is one column of ground truth: a label, or a generative factor of the data. A *latent*
z_j is one latent dimension, or a *block* of several that belong to one characteristic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.statistics.information import Classes, equal_mass_bins, robust_bins
from ccvae_eval.statistics.probes import folds_of

FactorKind = Literal["discrete", "continuous"]

MAX_INTEGER_LEVELS = 256
"""Integers with more distinct values than this are continuous."""

MAX_GRID_LEVELS, MIN_ROWS_PER_LEVEL = 64, 20
"""Numbers with no more distinct values, and this many rows per value on average, are discrete (a grid)."""

MAX_CODE = 1e30
"""Largest absolute code: beyond it squares overflow in float32, and the support vector machine does not end."""
TINY_RANGE = 1e-6
"""Latent dimensions of at most this range are rescaled: trees take a range of 1e-7 for a constant."""

TEST_FOLDS = 3
"""Without a given split, one row in three is a test row."""

JITTER = 0.05
"""Standard deviation of the noise on factors used as codes, in units of the smallest step between levels."""


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    r"""One factor of variation.

    Args:
        name: the name in reports.
        discrete: True if the values are classes, False if they are continuous.
        classes: class (or equal-mass bin of a continuous value) of each row, shape :math:`(N,)`; -1 = missing.
        values: numeric value of each row, shape :math:`(N,)`; NaN = missing; the class index of a text factor.
        levels: number of classes or bins.
    """

    name: str
    discrete: bool
    classes: Classes
    values: Floats
    levels: int

    @property
    def known(self) -> Bools:
        """True where the value is not missing, shape (N,)."""
        return np.asarray(self.classes >= 0)


@dataclass(frozen=True, slots=True, eq=False)
class PanelTable:
    r"""The data that every score of a panel is computed from.

    Args:
        codes: finite numbers, shape :math:`(N, D)`.
        factors: the K factors.
        blocks: latent dimensions (columns of ``codes``) of each latent z_j; each dimension belongs to one block.
        names: names of the latents.
        train, test: indices of the rows for fitting and for evaluation, ascending.
    """

    codes: Floats
    factors: tuple[Factor, ...]
    blocks: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    train: Ids
    test: Ids
    given: ClassVar[frozenset[str]] = frozenset()
    groups: ClassVar[None] = None
    assigned: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def rows(self) -> Ids:
        """Indices of all training and test rows."""
        return np.union1d(self.train, self.test)

    @property
    def factor_names(self) -> tuple[str, ...]:
        return tuple(factor.name for factor in self.factors)

    def known_rows(self, factor: Factor) -> tuple[Ids, Ids]:
        """Training and test rows where a factor is not missing."""
        return self.train[factor.known[self.train]], self.test[factor.known[self.test]]

    def with_permuted_factors(self, order: Ids) -> PanelTable:
        """The table with the rows of all factors permuted together and the codes left in place."""
        factors = tuple(replace(f, classes=f.classes[order], values=f.values[order]) for f in self.factors)
        return replace(self, factors=factors)


def table_of(
    codes: Any,
    factors: Any,
    *,
    names: Sequence[str] | None = None,
    kinds: Sequence[FactorKind] | None = None,
    blocks: Sequence[Sequence[int]] | None = None,
    block_names: Sequence[str] | None = None,
    train: Any = None,
    test: Any = None,
    ids: Ids | None = None,
    where: str = "codes and factors",
) -> PanelTable:
    r"""Checks arrays of codes and factors and makes a table of them.

    A factor is discrete if it is text, boolean, integers with at most 256 distinct values (floats are accepted, since
    they can hold NaN), or any numbers with at most 64 distinct values and 20 rows per value. Other numbers are
    continuous. ``kinds`` overrides this rule. NaN, None and empty text are missing values.

    Args:
        codes: numbers, shape :math:`(N, D)` or :math:`(N,)`.
        factors: numbers, text or a mix of both, shape :math:`(N, K)` or :math:`(N,)`.
        names: names of the factors; default ``factor0``, ``factor1``, ...
        kinds: "discrete" or "continuous" for each factor.
        blocks: lists of latent dimensions that form one latent; every other dimension is a latent of its own.
        block_names: names of ``blocks``.
        train, test: row indices or masks. If only one is given, the other has the remaining rows; if none is given, a
            third of the rows is the test part, chosen by a hash of the row's id.
        ids: row ids for that hash; default: the row numbers.
        where: the location that errors report.

    Raises:
        DataError: shapes do not match, codes are not finite numbers, there is no row, or indices or blocks are invalid.
    """
    points = _checked_codes(codes, where)
    columns = _matrix(factors).T
    if columns.ndim != 2 or columns.shape[1] != len(points):
        message = f"factors of shape {np.shape(factors)} do not match {len(points)} rows of codes"
        raise DataError(message, where=where, hint="Expected (N, K).")
    if not len(columns):
        raise DataError("at least one factor is needed", where=where)
    labels = [f"factor{k}" for k in range(len(columns))] if names is None else [str(name) for name in names]
    if len(labels) != len(columns) or len(set(labels)) != len(columns):
        raise DataError(f"{len(set(labels))} different names for {len(columns)} factors", where=where)
    if kinds is not None and len(kinds) != len(columns):
        raise DataError(f"{len(kinds)} kinds for {len(columns)} factors", where=where)
    given: Sequence[FactorKind | None] = kinds if kinds is not None else [None] * len(columns)
    found = tuple(factor_of(name, c, kind, where) for name, c, kind in zip(labels, columns, given, strict=True))
    groups, group_names = _all_blocks(blocks, block_names, points.shape[1], where)
    train_rows, test_rows = _split(train, test, len(points), ids, where)
    return PanelTable(points, found, groups, group_names, train_rows, test_rows)


def _matrix(array: Any) -> NDArray[Any]:
    """The array, or its only column if it has one dimension."""
    table = np.asarray(array)
    return table[:, None] if table.ndim == 1 else table


def _checked_codes(codes: Any, where: str) -> Floats:
    table = _matrix(codes)
    if table.ndim != 2 or table.dtype.kind not in "biuf":
        raise DataError(
            f"codes must be numbers of shape (N, D), got shape {table.shape} of type {table.dtype}", where=where
        )
    if not table.size:
        raise DataError(f"codes of shape {table.shape} are empty", where=where)
    points = table.astype(np.float64)
    bad = ~np.isfinite(points)
    if bad.any():
        row, column = map(int, np.argwhere(bad)[0])
        raise DataError(
            f"codes contain NaN or infinity in {int(bad.any(axis=1).sum())} rows",
            where=f"{where}: row {row}, column {column}",
            hint="Leave those rows out; only factors may have missing values.",
        )
    if float(np.abs(points).max()) > MAX_CODE:
        raise DataError(
            f"codes must not exceed {MAX_CODE:.0e}, got {float(np.abs(points).max()):.0e}",
            where=where,
            why="trees and support vector machines overflow beyond it",
            hint="Rescale them: no score of the robust profile depends on the units of the codes.",
        )
    ranges = np.ptp(points, axis=0)
    tiny = (ranges > 0) & (ranges <= TINY_RANGE)
    points[:, tiny] *= np.exp2(-np.floor(np.log2(ranges[tiny])))  # by a power of two: no bit is lost
    return points


def factor_of(name: str, column: NDArray[Any], kind: FactorKind | None = None, where: str = "factors") -> Factor:
    """Makes a factor from a column of numbers or text.

    Raises:
        DataError: text declared continuous, or an infinite number.
    """
    numbers = _numbers(column)
    if numbers is None:
        if kind == "continuous":
            raise DataError("a factor of text cannot be continuous", where=f"{where}: {name}")
        words = np.array(["" if cell is None or cell != cell else str(cell).strip() for cell in column], dtype=str)
        present = words != ""
        levels, classes = _classes(words, present)
        return Factor(name, True, classes, np.where(present, classes, np.nan), len(levels))
    if np.isinf(numbers).any():
        raise DataError("factors must be finite, got an infinite value", where=f"{where}: {name}")
    present = ~np.isnan(numbers)
    distinct, classes = _classes(numbers, present)
    integers = bool((distinct == np.round(distinct)).all()) and len(distinct) <= MAX_INTEGER_LEVELS
    if kind == "discrete" or (kind is None and (integers or has_few_levels(numbers))):
        return Factor(name, True, classes, numbers, len(distinct))
    classes[present] = equal_mass_bins(numbers[present], robust_bins(int(present.sum())))
    return Factor(name, False, classes, numbers, int(classes.max(initial=-1)) + 1)


def _classes(column: NDArray[Any], present: Bools) -> tuple[NDArray[Any], Classes]:
    """The distinct values that are present, and the index of each row's value; -1 where none is."""
    classes = np.full(len(column), -1, dtype=np.int64)
    distinct, classes[present] = np.unique(column[present], return_inverse=True)
    return distinct, classes


def has_few_levels(numbers: Floats) -> bool:
    """True if a column of numbers (NaN = missing) has few distinct values, each in many rows."""
    known = numbers[~np.isnan(numbers)]
    count = len(np.unique(known))
    return 0 < count <= MAX_GRID_LEVELS and len(known) >= MIN_ROWS_PER_LEVEL * count


def _numbers(column: NDArray[Any]) -> Floats | None:
    """The column as floats with NaN for None; None if it holds text."""
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    if column.dtype.kind != "O" or any(isinstance(cell, str | bytes) for cell in column):
        return None
    try:
        return np.array([np.nan if cell is None else float(cell) for cell in column])
    except (TypeError, ValueError):
        return None


def _all_blocks(
    blocks: Sequence[Sequence[int]] | None, names: Sequence[str] | None, columns: int, where: str
) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
    """The given blocks and one of each remaining dimension, with their names."""
    groups = [tuple(int(column) for column in block) for block in blocks or ()]
    taken = [column for group in groups for column in group]
    if len(set(taken)) != len(taken) or any(not 0 <= c < columns for c in taken) or any(not g for g in groups):
        raise DataError(
            "blocks must be disjoint, non-empty lists of latent dimensions",
            where=where,
            why=f"latent dimensions are 0 to {columns - 1}",
        )
    given = [str(name) for name in names] if names is not None else ["+".join(f"z{c}" for c in g) for g in groups]
    if len(given) != len(groups):
        raise DataError(f"{len(given)} names for {len(groups)} blocks", where=where)
    rest = sorted(set(range(columns)) - set(taken))
    return (*groups, *((c,) for c in rest)), (*given, *(f"z{c}" for c in rest))


def _split(train: Any, test: Any, rows: int, ids: Ids | None, where: str) -> tuple[Ids, Ids]:
    if train is None and test is None:
        held_out = folds_of(np.arange(rows) if ids is None else ids, folds=TEST_FOLDS) == 0
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)
    parts = {"train": train, "test": test}
    given = {name: _row_indices(part, rows, f"{where}: {name}") for name, part in parts.items() if part is not None}
    rest = np.setdiff1d(np.arange(rows), np.concatenate(list(given.values())))
    train_rows, test_rows = (given.get(name, rest) for name in parts)
    if len(np.intersect1d(train_rows, test_rows)):
        raise DataError("train and test share rows", where=where)
    if not len(train_rows):
        raise DataError("at least one training row is needed", where=where)
    return train_rows, test_rows


def _row_indices(part: Any, rows: int, where: str) -> Ids:
    indices = np.asarray(part)
    if indices.dtype == np.bool_ and indices.shape == (rows,):
        return np.flatnonzero(indices)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise DataError(f"row indices must be integers, or a mask of {rows} rows", where=where)
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= rows):
        raise DataError(f"row indices must lie in 0 to {rows - 1}, got {int(indices.max())}", where=where)
    return np.unique(indices).astype(np.int64)


def cramers_v(one: Classes, other: Classes) -> float:
    r"""Bias-corrected Cramér's V, an association of two factors (Bergsma 2013).

    .. math:: \tilde V = \sqrt{\frac{\max(\phi^2 - (r-1)(k-1)/(n-1), 0)}{\min(\tilde r, \tilde k) - 1}}, \qquad
              \tilde r = r - \frac{(r-1)^2}{n-1}

    for an r by k table of n rows, :math:`\phi^2 = \chi^2 / n`.

    Args:
        one, other: classes, shape :math:`(N,)`; rows with -1 (missing) in either are left out.

    Returns:
        A number in [0, 1], 1 for a one-to-one relation; NaN if either is constant.
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


def factor_correlations(table: PanelTable) -> Floats:
    """Cramér's V of every pair of factors (continuous ones in equal-mass bins), shape (K, K), 1 on the diagonal."""
    found = np.eye(len(table.factors))
    for i, j in combinations(range(len(found)), 2):
        found[i, j] = found[j, i] = cramers_v(table.factors[j].classes, table.factors[i].classes)
    return found


def factors_as_codes(table: PanelTable, seed: int) -> PanelTable:
    """The table with the factors as codes: one latent dimension per factor, levels in order, with a little noise.

    A missing value becomes the median.
    """
    columns = []
    for factor in table.factors:
        values = factor.classes.astype(np.float64) if factor.discrete else factor.values
        known = ~np.isnan(values) & factor.known
        filled = np.where(known, values, np.median(values[known]) if known.any() else 0.0)
        levels = np.unique(filled)
        step = float(np.diff(levels).min()) if factor.discrete and len(levels) > 1 else 0.0
        noise = numpy_stream(seed, "jitter", factor.name).standard_normal(len(table))
        columns.append(filled + JITTER * step * noise)
    blocks = tuple((k,) for k in range(len(columns)))
    return replace(table, codes=np.stack(columns, axis=1), blocks=blocks, names=table.factor_names)
