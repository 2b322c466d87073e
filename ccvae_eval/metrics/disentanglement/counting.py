r"""Information between codes and factors, counted on bins, with what permuted factors and smaller samples would give.

Profiles: ``reference`` takes bins of equal width and plug-in counts, as the published code does; ``robust`` takes
bins of equal mass, Miller's and Madow's correction, and subtracts the mean over permuted factors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ccvae_eval.metrics.disentanglement.table import Table
from ccvae_eval.statistics.information import Classes, entropy_of_counts, equal_mass_bins
from ccvae_eval.streams import numpy_stream
from ccvae_eval.types import Bools, Floats, Ids

AT_ONCE = 1 << 22
"""Cells or rows counted at once: 32 MB."""

PROBED = 512
"""Rows whose order is compared before all are."""


def equal_width_bins(column: Floats, edges_from: Floats, bins: int) -> Classes:
    """The bin of each value by edges of equal width between the least and the greatest of ``edges_from``.

    As the published code has it: the greatest value shares the last bin; what lies below the first edge has bin 0.

    >>> equal_width_bins(np.array([0.0, 0.4, 1.0]), np.array([0.0, 1.0]), 2)
    array([0, 0, 1])
    """
    edges = np.histogram_bin_edges(edges_from, bins)[:-1]
    return np.maximum(np.digitize(column, edges) - 1, 0).astype(np.int64)


def binned(codes: Floats, bins: int, *, equal_mass: bool) -> Classes:
    """Every column in bins of its own, shape (N, D)."""
    columns = [
        equal_mass_bins(column, bins) if equal_mass else equal_width_bins(column, column, bins) for column in codes.T
    ]
    return np.stack(columns, axis=1)


def contingency(cells: Classes, classes: Classes, bins: int, levels: int) -> Floats:
    """How often each bin of each column meets each class, shape (D, bins, levels); rows of class -1 do not count."""
    known = classes >= 0
    rows = cells if known.all() else cells[known]
    wanted = classes if known.all() else classes[known]
    found = np.empty((cells.shape[1], bins, levels))
    step = max(AT_ONCE // max(len(rows), bins * levels), 1)
    for first in range(0, cells.shape[1], step):
        part = rows[:, first : first + step]
        place = (part + bins * np.arange(part.shape[1])) * levels + wanted[:, None]
        size = part.shape[1] * bins * levels
        found[first : first + step] = np.bincount(place.ravel(), minlength=size).reshape(-1, bins, levels)
    return found


def capped(entropy: Floats, most: float) -> Floats:
    """Entropies to divide by, none above what the bins can hold; NaN where there is none."""
    return np.where(entropy > 1e-12, np.minimum(entropy, most), np.nan)


@dataclass(frozen=True, slots=True, eq=False)
class Information:
    r"""What codes and factors know of each other, in nats; leading axes are samples.

    Args:
        mutual: I(z_j; v_k), shape :math:`(..., J, K)`.
        factor_entropy: H(v_k), shape :math:`(..., K)`.
        code_entropy: H(z_j) of its bins, shape :math:`(..., J)`; NaN for blocks of several columns.
        conditional: H(v_k | v_l), shape :math:`(..., K, K)`, rows k, columns l.
        most: the most that a code in so many bins can know, in nats; infinite where that is not taken into account.
        bins: of each code.
        active: which codes take part where a sum runs over j, shape :math:`(..., J)`.
    """

    mutual: Floats
    factor_entropy: Floats
    code_entropy: Floats
    conditional: Floats
    bins: int
    active: Bools
    most: float = np.inf

    @property
    def knowable(self) -> Floats:
        """What a perfect code would know of each factor: its entropy, or what the bins can hold; NaN where nothing."""
        return capped(self.factor_entropy, self.most)

    def with_mutual(self, mutual: Floats, active: Bools | None = None) -> Information:
        """The same with other information (all codes active unless said)."""
        shape = mutual.shape[:-2]
        return Information(
            mutual,
            np.broadcast_to(self.factor_entropy, (*shape, self.factor_entropy.shape[-1])),
            np.broadcast_to(self.code_entropy, (*shape, self.code_entropy.shape[-1])),
            np.broadcast_to(self.conditional, (*shape, *self.conditional.shape[-2:])),
            self.bins,
            np.ones(mutual.shape[:-1], dtype=bool) if active is None else active,
            self.most,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    r"""Binned codes beside the classes of the factors.

    Args:
        cells: the bin of each row and column, shape :math:`(N, D)`.
        classes: of each factor, shape :math:`(K, N)`, -1 = missing.
        levels: of each factor.
        bins: the greatest number of bins of a column.
        corrected: whether entropies are corrected after Miller and Madow.
    """

    cells: Classes
    classes: Classes
    levels: tuple[int, ...]
    bins: int
    corrected: bool

    def mutual(self, rows: Ids | slice = slice(None), order: Ids | None = None) -> Floats:
        """I of every column with every factor on some rows, the factors' rows in another order if given; (D, K)."""
        cells = self.cells[rows]
        found = np.empty((cells.shape[1], len(self.levels)))
        for k, size in enumerate(self.levels):
            classes = self.classes[k][rows] if order is None else self.classes[k][rows][order]
            found[:, k] = self._mutual(contingency(cells, classes, self.bins, max(size, 1)))
        return found

    def _mutual(self, joint: Floats) -> Floats:
        corrected = self.corrected
        both = entropy_of_counts(joint.reshape(len(joint), -1), corrected=corrected)
        parts = [entropy_of_counts(joint.sum(axis=axis), corrected=corrected) for axis in (1, 2)]
        return np.asarray(parts[0] + parts[1] - both)

    def entropies(self) -> tuple[Floats, Floats, Floats]:
        """H of the factors, of the columns, and of each factor given each other."""
        columns = [self._entropy(column, self.bins) for column in self.cells.T]
        factors = [self._entropy(c[c >= 0], max(size, 1)) for c, size in zip(self.classes, self.levels, strict=True)]
        count = len(self.levels)
        conditional = np.zeros((count, count))
        for k in range(count):
            for given in range(count):
                if k != given:
                    conditional[k, given] = self._conditional(k, given)
        return np.array(factors), np.array(columns), conditional

    def _entropy(self, classes: Classes, levels: int) -> float:
        counts = np.bincount(classes, minlength=levels).astype(np.float64)
        return float(entropy_of_counts(counts, corrected=self.corrected))

    def _conditional(self, k: int, given: int) -> float:
        """H(v_k | v_given) on the rows that have both, not below 0."""
        both = (self.classes[k] >= 0) & (self.classes[given] >= 0)
        own, other = self.classes[k][both], self.classes[given][both]
        size = max(self.levels[given], 1)
        together = self._entropy(own * size + other, max(self.levels[k], 1) * size)
        return max(together - self._entropy(other, size), 0.0)


def counted(table: Table, rows: Ids, bins: int, *, robust: bool) -> Counted:
    """Codes in bins and factors in classes, of some rows."""
    cells = binned(table.codes[rows], bins, equal_mass=robust)
    classes = np.stack([f.classes[rows] for f in table.factors])
    levels = tuple(int(column.max(initial=-1)) + 1 for column in classes)
    return Counted(cells, classes, levels, int(cells.max(initial=0)) + 1, robust)


def permutations(seed: int, n: int, times: int) -> Iterator[Ids]:
    """Seeded orders of n rows."""
    for shuffle in range(times):
        yield numpy_stream(seed, "permuted factors", shuffle).permutation(n)


def subsamples(seed: int, n: int, size: int, draws: int) -> Iterator[Ids]:
    """Seeded subsamples without replacement, ascending; memory of one at a time."""
    for draw in range(draws):
        yield np.sort(numpy_stream(seed, "panel subsample", draw).choice(n, size, replace=False, shuffle=False))


def duplicates(codes: Floats) -> dict[int, int]:
    """Columns that are a strictly monotone transform of an earlier one, each with that one.

    >>> duplicates(np.array([[1.0, 3.0, 0.0], [2.0, 1.0, 1.0], [5.0, 0.0, 0.0]]))
    {1: 0}
    """
    found: dict[int, int] = {}
    candidates: dict[bytes, list[int]] = {}
    ranked = np.stack([np.unique(column, return_inverse=True)[1] for column in codes.T])
    for column, ranks in enumerate(ranked):
        if ranks.max() == 0:
            continue
        # the ranks among the first rows choose whom to compare with; mirrored ones have the same key
        head = np.unique(ranks[:PROBED], return_inverse=True)[1]
        key = min(head.tobytes(), (head.max() - head).tobytes())
        for earlier in candidates.setdefault(key, []):
            other = ranked[earlier]
            if np.array_equal(ranks, other) or np.array_equal(ranks, other.max() - other):
                found[column] = earlier
                break
        else:
            candidates[key].append(column)
    return found
