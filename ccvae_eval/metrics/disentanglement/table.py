"""Codes and factors as the scores see them: checked, factors told apart by kind, rows split into train and test.

How the factors go together, and the factors themselves as a code: what a perfect representation could reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.statistics.information import Classes, equal_mass_bins, robust_bins
from ccvae_eval.statistics.probes import folds_of

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


def factor_correlations(table: PanelTable) -> Floats:
    """Cramér's V of every two factors (numbers in bins of equal mass), shape (K, K), 1 on the diagonal."""
    count = len(table.factors)
    found = np.eye(count)
    for i in range(count):
        for j in range(i):
            found[i, j] = found[j, i] = cramers_v(table.factors[i].classes, table.factors[j].classes)
    return found


def factors_as_codes(table: PanelTable, seed: int) -> PanelTable:
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


FactorKind = Literal["discrete", "continuous"]

MOST_LEVELS = 256
"""Whole numbers in more different values than this are a measurement, not classes."""

GREATEST = 1e30
"""Size of a code: beyond, squares overflow in float32, and the published machine does not end."""

FEW_LEVELS, ROWS_OF_A_LEVEL = 64, 20
"""Numbers in no more different values than this, each with so many rows on average, are classes: a factor of a grid."""

TEST_FOLDS = 3
"""Without a split of the user's own, one row in so many is held out, by a hash of its id."""


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    r"""One factor of variation.

    Args:
        name: for reports.
        discrete: whether its values are classes; else they are numbers.
        classes: the class of each row, or its bin of equal mass, shape :math:`(N,)`, -1 = missing.
        values: the number of each row, shape :math:`(N,)`, NaN = missing; of a text factor the class.
        levels: how many classes or bins.
    """

    name: str
    discrete: bool
    classes: Classes
    values: Floats
    levels: int

    @property
    def known(self) -> Bools:
        return np.asarray(self.classes >= 0)


@dataclass(frozen=True, slots=True, eq=False)
class PanelTable:
    r"""What the panel is computed from.

    Args:
        codes: shape :math:`(N, D)`, finite.
        factors: one for each column of factors.
        blocks: the columns of each row z_j of the panel; a column belongs to one block.
        names: of the blocks.
        train, test: places of the rows that scores are fitted and judged on, ascending.
    """

    codes: Floats
    factors: tuple[Factor, ...]
    blocks: tuple[tuple[int, ...], ...]
    names: tuple[str, ...]
    train: Ids
    test: Ids

    def __len__(self) -> int:
        return len(self.codes)

    @property
    def rows(self) -> Ids:
        """The rows that are in either part."""
        return np.union1d(self.train, self.test)

    @property
    def factor_names(self) -> tuple[str, ...]:
        return tuple(factor.name for factor in self.factors)

    def shuffled(self, order: Ids) -> PanelTable:
        """The same with the factors' rows permuted together, the codes left in place."""
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
    r"""Checks arrays and makes a table of them.

    A factor is discrete if it is text, boolean, whole numbers in at most 256 values (also as floats, which have NaN
    for missing) or any numbers in at most 64 values with 20 rows for each; other floats are continuous. ``kinds``
    overrides. Missing: NaN, None or the empty text.

    Args:
        codes: numbers, shape :math:`(N, D)` or :math:`(N,)`.
        factors: numbers, text or objects of both, shape :math:`(N, K)` or :math:`(N,)`.
        names: of the factors.
        kinds: "discrete" or "continuous" for each factor.
        blocks: lists of columns that belong together; columns in none are blocks of their own.
        block_names: of ``blocks``.
        train, test: row indices or masks. Without them a third is held out, by a hash of the row's id.
        ids: of the rows, for that hash; else their places.
        where: what errors name.

    Raises:
        DataError: shapes that do not meet, codes that are no finite numbers, no row, wrong indices or blocks.
    """
    points = _codes(codes, where)
    columns = _columns(factors, len(points), where)
    labels = _names(names, len(columns), where)
    if kinds is not None and len(kinds) != len(columns):
        raise DataError(f"{len(kinds)} kinds for {len(columns)} factors", where=where)
    found = tuple(
        factor_of(name, column, None if kinds is None else kinds[k], where)
        for k, (name, column) in enumerate(zip(labels, columns, strict=True))
    )
    groups, called = _blocks(blocks, block_names, points.shape[1], where)
    inside, outside = _split(train, test, len(points), ids, where)
    return PanelTable(points, found, groups, called, inside, outside)


def _codes(codes: Any, where: str) -> Floats:
    table = np.asarray(codes)
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2 or table.dtype.kind not in "biuf":
        raise DataError(f"codes of shape {table.shape} and type {table.dtype}", where=where, hint="Numbers (N, D).")
    if not table.size:
        raise DataError(f"codes of shape {table.shape} hold nothing", where=where)
    points = table.astype(np.float64)
    bad = ~np.isfinite(points)
    if bad.any():
        row, column = map(int, np.argwhere(bad)[0])
        raise DataError(
            f"codes hold NaN or infinity in {int(bad.any(axis=1).sum())} rows",
            where=f"{where}: row {row}, column {column}",
            hint="Leave those rows out; only factors may be missing.",
        )
    if float(np.abs(points).max()) > GREATEST:
        raise DataError(
            f"codes reach {float(np.abs(points).max()):.0e}",
            where=where,
            why=f"trees and support vector machines take no more than {GREATEST:.0e}",
            hint="Rescale them: no score of the robust profile depends on the codes' units.",
        )
    return points


def _columns(factors: Any, rows: int, where: str) -> list[NDArray[Any]]:
    table = np.asarray(factors)
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2 or len(table) != rows:
        raise DataError(f"factors of shape {table.shape} for {rows} codes", where=where, hint="Expected (N, K).")
    if not table.shape[1]:
        raise DataError("there is no factor", where=where)
    return list(table.T)


def _names(names: Sequence[str] | None, count: int, where: str) -> list[str]:
    if names is None:
        return [f"factor{k}" for k in range(count)]
    labels = [str(name) for name in names]
    if len(labels) != count or len(set(labels)) != count:
        raise DataError(f"{len(set(labels))} different names for {count} factors", where=where)
    return labels


def factor_of(name: str, column: NDArray[Any], kind: FactorKind | None = None, where: str = "factors") -> Factor:
    """One factor from its values, which may be text."""
    numbers = _numbers(column)
    if numbers is None:
        if kind == "continuous":
            raise DataError("a factor of text is not continuous", where=f"{where}: {name}")
        words = np.array(["" if cell is None or cell != cell else str(cell).strip() for cell in column], dtype=str)
        present = words != ""
        classes = np.full(len(words), -1, dtype=np.int64)
        levels, classes[present] = np.unique(words[present], return_inverse=True)
        return Factor(name, True, classes, np.where(present, classes, np.nan), len(levels))
    if np.isinf(numbers).any():
        raise DataError("a factor is infinite", where=f"{where}: {name}")
    present = ~np.isnan(numbers)
    raw = np.full(len(numbers), -1, dtype=np.int64)
    distinct, raw[present] = np.unique(numbers[present], return_inverse=True)
    whole = bool((distinct == np.round(distinct)).all()) and len(distinct) <= MOST_LEVELS
    if kind == "discrete" or (kind is None and (whole or has_few_levels(numbers))):
        return Factor(name, True, raw, numbers, len(distinct))
    classes = np.full(len(numbers), -1, dtype=np.int64)
    classes[present] = equal_mass_bins(numbers[present], robust_bins(int(present.sum())))
    return Factor(name, False, classes, numbers, int(classes.max(initial=-1)) + 1)


def has_few_levels(numbers: Floats) -> bool:
    """Whether a column of numbers (NaN = missing) takes few values, again and again."""
    known = numbers[~np.isnan(numbers)]
    count = len(np.unique(known))
    return 0 < count <= FEW_LEVELS and len(known) >= ROWS_OF_A_LEVEL * count


def _numbers(column: NDArray[Any]) -> Floats | None:
    """The column as floats, None -> NaN; None if it is text."""
    if column.dtype.kind in "biuf":
        return column.astype(np.float64)
    if column.dtype.kind == "O" and not any(isinstance(cell, str | bytes) for cell in column):
        try:
            return np.array([np.nan if cell is None else float(cell) for cell in column])
        except (TypeError, ValueError):
            return None
    return None


def _blocks(
    blocks: Sequence[Sequence[int]] | None, names: Sequence[str] | None, columns: int, where: str
) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
    groups = [tuple(int(column) for column in block) for block in blocks or ()]
    taken = [column for group in groups for column in group]
    if len(set(taken)) != len(taken) or any(not 0 <= c < columns for c in taken) or any(not g for g in groups):
        raise DataError("blocks must be lists of different columns", where=where, why=f"columns are 0 to {columns - 1}")
    called = [str(name) for name in names] if names is not None else ["+".join(f"z{c}" for c in g) for g in groups]
    if len(called) != len(groups):
        raise DataError(f"{len(called)} names for {len(groups)} blocks", where=where)
    alone = sorted(set(range(columns)) - set(taken))
    return (*groups, *((c,) for c in alone)), (*called, *(f"z{c}" for c in alone))


def _split(train: Any, test: Any, rows: int, ids: Ids | None, where: str) -> tuple[Ids, Ids]:
    if train is None and test is None:
        held_out = folds_of(np.arange(rows) if ids is None else ids, folds=TEST_FOLDS) == 0
        return np.flatnonzero(~held_out), np.flatnonzero(held_out)
    given = {name: _places(part, rows, f"{where}: {name}") for name, part in (("train", train), ("test", test))}
    every = np.arange(rows)
    none = np.empty(0, dtype=np.int64)
    inside, outside = (none if given[name] is None else given[name] for name in ("train", "test"))
    assert inside is not None
    assert outside is not None
    inside = np.setdiff1d(every, outside) if given["train"] is None else inside
    outside = np.setdiff1d(every, inside) if given["test"] is None else outside
    if len(np.intersect1d(inside, outside)):
        raise DataError("train and test share rows", where=where)
    if not len(inside):
        raise DataError("no row to train on", where=where)
    return inside, outside


def _places(part: Any, rows: int, where: str) -> Ids | None:
    if part is None:
        return None
    places = np.asarray(part)
    if places.dtype == np.bool_ and places.shape == (rows,):
        return np.flatnonzero(places)
    if places.ndim != 1 or places.dtype.kind not in "iu":
        raise DataError("row indices are whole numbers, or a mask of all rows", where=where)
    if len(places) and (int(places.min()) < 0 or int(places.max()) >= rows):
        raise DataError(f"row index {int(places.max())} of {rows} rows", where=where)
    return np.unique(places).astype(np.int64)
