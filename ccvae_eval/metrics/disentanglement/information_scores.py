r"""Scores that are formulas of the information matrix; every function takes leading axes of samples along.

I is I(z_j; v_k), :math:`I^{(k)}_1 \ge I^{(k)}_2 \ge ...` the same sorted over j. Each returns the total and the parts
it is the mean of. NaN where it does not exist: fewer than two codes or factors, no entropy, no active code.

Information between codes and factors, counted on bins, with what permuted factors and smaller samples would give.

Profiles: ``reference`` takes bins of equal width and plug-in counts, as the published code does; ``robust`` takes
bins of equal mass, Miller's and Madow's correction, and subtracts the mean over permuted factors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.metrics.disentanglement.table import PanelTable
from ccvae_eval.statistics.information import Classes, entropy_of_counts, equal_mass_bins

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


def counted(table: PanelTable, rows: Ids, bins: int, *, robust: bool) -> Counted:
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


RARE = 1e-4
"""The share of tables of noise in which some code is taken for active."""


@dataclass(frozen=True, slots=True, eq=False)
class ScoreParts:
    r"""A score with what it is made of; leading axes are samples.

    Args:
        total: shape :math:`(...)`.
        factors: the share of each factor, shape :math:`(..., K)`, or None.
        codes: the share of each code, shape :math:`(..., J)`, or None.
    """

    total: Floats
    factors: Floats | None = None
    codes: Floats | None = None


def mean_defined(values: Floats) -> Floats:
    """The mean over the last axis of what is not NaN; NaN where all is."""
    present = ~np.isnan(values)
    count = present.sum(axis=-1)
    total = np.where(present, values, 0.0).sum(axis=-1)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def weighted_mean(values: Floats, weights: Floats) -> Floats:
    """The mean over the last axis by weights; NaN values and weights do not enter; NaN where all weights are 0."""
    used = np.where(np.isnan(values), 0.0, np.nan_to_num(weights))
    total = used.sum(axis=-1)
    summed = (np.nan_to_num(values) * used).sum(axis=-1)
    return np.asarray(np.where(total > 0, summed / np.where(total > 0, total, 1.0), np.nan))


def top_two(values: Floats, axis: int) -> tuple[Floats, Floats]:
    """The greatest and the second greatest along an axis of at least two."""
    best = np.partition(values, -2, axis=axis)
    return np.asarray(best.take(-1, axis=axis)), np.asarray(best.take(-2, axis=axis))


def _nowhere(info: Information) -> ScoreParts:
    shape = info.mutual.shape
    return ScoreParts(np.full(shape[:-2], np.nan))


def mig(info: Information) -> ScoreParts:
    r"""Mutual information gap, :math:`\frac1K \sum_k (I^{(k)}_1 - I^{(k)}_2) / H(v_k)` (Chen et al. 2018, eq. 6).

    Robust: B bins hold at most log B nats, so the divisor is min(H(v_k), log B): a perfect code of 40 levels scores 1
    in 20 bins, where it would score .81.

    >>> entropy = np.array([np.log(2)])
    >>> table = Information(entropy * [[1.0], [0.25]], entropy, entropy, np.eye(1), 2, np.ones(2, bool))
    >>> float(mig(table).total)
    0.75
    """
    if info.mutual.shape[-2] < 2:
        return _nowhere(info)
    first, second = top_two(info.mutual, -2)
    factors = (first - second) / info.knowable
    return ScoreParts(mean_defined(factors), factors)


def mig_sup(info: Information) -> ScoreParts:
    r"""The gap the other way round: mean over active codes of the gap over k of I(j,k)/H(v_k) (Li et al. 2020)."""
    if info.mutual.shape[-1] < 2:
        return _nowhere(info)
    shares = np.nan_to_num(info.mutual / info.knowable[..., None, :])
    first, second = top_two(shares, -1)
    codes = np.where(info.active, first - second, np.nan)
    return ScoreParts(mean_defined(codes), None, codes)


def dmig(info: Information) -> ScoreParts:
    r"""The gap over what a factor keeps to itself: :math:`(I_1 - I_2)/H(v_k | v_l)` (Watcharasupat and Lerch 2021).

    l is the factor that the runner-up code knows best; where that is k itself, the entropy is H(v_k). For labels that
    go together: a runner-up that holds a correlated factor must know something of k.
    """
    if info.mutual.shape[-2] < 2:
        return _nowhere(info)
    order = np.argsort(info.mutual, axis=-2, kind="stable")
    best, second = order[..., -1, :], order[..., -2, :]
    gap = np.take_along_axis(info.mutual, best[..., None, :], -2) - np.take_along_axis(
        info.mutual, second[..., None, :], -2
    )
    other = np.take_along_axis(info.mutual.argmax(axis=-1), second, -1)
    own = np.arange(info.mutual.shape[-1])
    conditional = np.take_along_axis(info.conditional, other[..., None], -1)[..., 0]
    entropy = np.where(other == own, info.factor_entropy, conditional)
    factors = gap[..., 0, :] / capped(entropy, info.most)
    return ScoreParts(mean_defined(factors), factors)


def jemmig(info: Information) -> ScoreParts:
    r"""Joint entropy minus the gap, normalised and turned: 1 is best (Do and Tran 2020).

    .. math:: 1 - \frac{H(z_1, v_k) - I_1 + I_2}{H(v_k) + \log B}

    Undefined for factors whose best code is a block of several columns: it has no bins.
    """
    if info.mutual.shape[-2] < 2:
        return _nowhere(info)
    first, second = top_two(info.mutual, -2)
    code = np.take_along_axis(info.code_entropy, info.mutual.argmax(axis=-2), -1)
    joint = code + info.factor_entropy - first
    factors = 1 - (joint - first + second) / (info.factor_entropy + np.log(info.bins))
    factors = np.where(info.factor_entropy > 1e-12, factors, np.nan)
    return ScoreParts(mean_defined(factors), factors)


def dcimig(info: Information) -> ScoreParts:
    r""":math:`\sum_k S_k / \sum_k H(v_k)`, S_k the greatest gap over factors of a code whose best is k
    (Sepliarskaia et al. 2019, "How to not measure disentanglement")."""
    if info.mutual.shape[-1] < 2:
        return _nowhere(info)
    first, second = top_two(info.mutual, -1)
    best = info.mutual.argmax(axis=-1)
    mine = best[..., None] == np.arange(info.mutual.shape[-1])
    scores = np.where(mine, (first - second)[..., None], 0.0).max(axis=-2)
    entropy = info.knowable
    total = np.where(np.isnan(entropy), 0.0, scores).sum(axis=-1) / capped(np.nansum(entropy, axis=-1), np.inf)
    return ScoreParts(np.asarray(total), scores / entropy)


def modularity(info: Information, *, weighted: bool) -> ScoreParts:
    r"""Does a code know one factor only: :math:`1 - \sum_{k \ne k_1} I_{jk}^2 / (I_{jk_1}^2 (K - 1))`
    (Ridgeway and Mozer 2018, eq. 2).

    Args:
        info: the information.
        weighted: mean over active codes by what they know best; else plain over all, a code that knows nothing
            counting 0, as published.
    """
    if info.mutual.shape[-1] < 2:
        return _nowhere(info)
    squares = info.mutual**2
    greatest = squares.max(axis=-1)
    rest = squares.sum(axis=-1) - greatest
    known = greatest > 0
    codes = np.where(known, 1 - rest / (np.where(known, greatest, 1.0) * (squares.shape[-1] - 1)), np.nan)
    if not weighted:
        codes = np.where(known, codes, 0.0)
        return ScoreParts(codes.mean(axis=-1), None, codes)
    codes = np.where(info.active, codes, np.nan)
    return ScoreParts(weighted_mean(codes, info.mutual.max(axis=-1)), None, codes)


def infom(info: Information) -> ScoreParts:
    r"""Of all that a code knows, how much belongs to one factor: mean over active codes of
    :math:`(\max_k N_{jk} / \sum_k N_{jk} - 1/K) / (1 - 1/K)`, N = I/H(v_k) (Hsu et al. 2023)."""
    shares = _shares(info)
    if shares.shape[-1] < 2:
        return _nowhere(info)
    codes = np.where(info.active, _ratio(shares, -1, shares.shape[-1]), np.nan)
    return ScoreParts(mean_defined(codes), None, codes)


def infoc(info: Information) -> ScoreParts:
    r"""Of all that is known of a factor, how much lies in one code: mean over factors of
    :math:`(\max_j N_{jk} / \sum_j N_{jk} - 1/D_a) / (1 - 1/D_a)`, over the D_a active codes (Hsu et al. 2023)."""
    shares = np.where(info.active[..., None], _shares(info), 0.0)
    count = info.active.sum(axis=-1)[..., None]
    factors = np.where(count >= 2, _ratio(shares, -2, np.maximum(count, 2)), np.nan)
    factors = np.where(info.factor_entropy > 1e-12, factors, np.nan)
    return ScoreParts(mean_defined(factors), factors)


def _shares(info: Information) -> Floats:
    """Normalised information, not below 0."""
    return np.maximum(np.nan_to_num(info.mutual / info.knowable[..., None, :]), 0.0)


def _ratio(shares: Floats, axis: int, count: int | Floats | np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Floats:
    total = shares.sum(axis=axis)
    known = total > 0
    ratio = np.where(known, shares.max(axis=axis) / np.where(known, total, 1.0), np.nan)
    return np.asarray((ratio - 1 / count) / (1 - 1 / count))


def active_by_information(excess: Floats, null: Floats, freedom: Floats, rows: Floats) -> Bools:
    r"""Codes whose information about some factor exceeds all that permuted factors gave any code there.

    Few shuffles have a low maximum. So it must also exceed the quantile that one table of noise in 10,000 exceeds
    anywhere: that of a scaled :math:`\chi^2` with f degrees of freedom, whose deviation is the shuffles' own or the
    theoretical :math:`\sqrt{2 f}/2n`, whichever is greater.

    Args:
        excess: information beyond the null's mean, shape (J, K).
        null: that of each shuffle beyond their mean, shape (S, J, K).
        freedom: degrees of freedom f of each factor's table, (bins - 1)(levels - 1), shape (K,).
        rows: n, where the factor is known, shape (K,).
    """
    share = RARE / max(excess.size, 1)
    df = np.maximum(freedom, 1.0)
    reach = (chi2.isf(share, df) - df) / np.sqrt(2 * df)
    deviation = np.maximum(null.std(axis=(0, 1)), np.sqrt(2 * df) / (2 * np.maximum(rows, 1)))
    bar = np.maximum(null.max(axis=(0, 1), initial=0.0), reach * deviation)
    return np.asarray((excess > bar).any(axis=-1))
