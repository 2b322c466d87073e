r"""Scores that are functions of the information matrix I_jk = I(z_j; v_k), and the estimation of that matrix.

The matrix is counted on binned codes. Profile ``reference``: bins of equal width and plug-in entropies, as in the
published code. Profile ``robust``: bins of equal mass, the Miller-Madow correction, and the mean information about
permuted factors subtracted.

Each score takes an :class:`Information` of J latents and K factors and returns :class:`ScoreParts`: the total and the
parts that it averages. Leading axes are samples (resamples or shuffles) and are kept. A total is NaN where the score is
undefined, and a part is NaN where it does not enter the total. In the formulas :math:`I^{(k)}_1 \ge I^{(k)}_2 \ge ...`
are the entries of a factor in descending order, and H is entropy in nats.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.stats import chi2

from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.metrics.disentanglement.table import PanelTable
from ccvae_eval.statistics.information import Classes, entropy_of_counts, equal_mass_bins, joint_entropies
from ccvae_eval.statistics.ratios import safe_ratio

CHUNK_ENTRIES = 1 << 22
"""Table entries counted at once (32 MB)."""

KEY_ROWS = 512
"""Rows whose order selects the pairs of latent dimensions that are compared in full."""

NOISE_ACTIVE_RATE = 1e-4
"""Share of tables of pure noise in which any latent is taken for active."""

ZERO_ENTROPY = 1e-12
"""Entropies up to this count as 0."""


@dataclass(frozen=True, slots=True, eq=False)
class Information:
    r"""Mutual information and entropies of latents and factors, in nats.

    Args:
        mutual: I(z_j; v_k), shape :math:`(..., J, K)`.
        factor_entropy: H(v_k), shape :math:`(..., K)`.
        latent_entropy: H of the binned z_j, shape :math:`(..., J)`; NaN for blocks of several dimensions.
        conditional: H(v_k | v_l), shape :math:`(..., K, K)`, k along rows.
        bins: number of bins of a latent dimension.
        active: latents that enter sums over j, shape :math:`(..., J)`.
        capacity: most information that the bins can hold, log B; infinite if it is not taken into account.
    """

    mutual: Floats
    factor_entropy: Floats
    latent_entropy: Floats
    conditional: Floats
    bins: int
    active: Bools
    capacity: float = np.inf

    @property
    def attainable(self) -> Floats:
        """Information of a perfect latent about each factor, min(H(v_k), capacity); NaN for a constant factor."""
        return attainable_information(self.factor_entropy, self.capacity)

    @property
    def shares(self) -> Floats:
        """Mutual information over the entropy of the factor; NaN for a constant factor, shape (..., J, K)."""
        return safe_ratio(self.mutual, self.factor_entropy[..., None, :], above=ZERO_ENTROPY)

    def with_mutual(self, mutual: Floats, active: Bools | None = None) -> Information:
        """A copy with another ``mutual``, possibly with sample axes; all latents are active by default."""
        shape = mutual.shape[:-2]
        return Information(
            mutual,
            np.broadcast_to(self.factor_entropy, (*shape, self.factor_entropy.shape[-1])),
            np.broadcast_to(self.latent_entropy, (*shape, self.latent_entropy.shape[-1])),
            np.broadcast_to(self.conditional, (*shape, *self.conditional.shape[-2:])),
            self.bins,
            np.ones(mutual.shape[:-1], dtype=bool) if active is None else active,
            self.capacity,
        )


@dataclass(frozen=True, slots=True, eq=False)
class ScoreParts:
    r"""A score and the parts that it averages; leading axes are samples.

    Args:
        total: shape :math:`(...)`.
        factors: part of each factor, shape :math:`(..., K)`, or None.
        latents: part of each latent, shape :math:`(..., J)`, or None.
    """

    total: Floats
    factors: Floats | None = None
    latents: Floats | None = None


def attainable_information(entropy: Floats, capacity: float) -> Floats:
    """The smaller of an entropy and the capacity of the bins; NaN where the entropy is 0."""
    return np.where(entropy > ZERO_ENTROPY, np.minimum(entropy, capacity), np.nan)


def mean_defined(values: Floats) -> Floats:
    """Mean over the last axis of the values that are not NaN; NaN if all are."""
    present = ~np.isnan(values)
    return safe_ratio(np.where(present, values, 0.0).sum(axis=-1), present.sum(axis=-1))


def weighted_mean(values: Floats, weights: Floats) -> Floats:
    """Weighted mean over the last axis; NaN values and NaN weights are left out; NaN if the weights sum to 0."""
    used = np.where(np.isnan(values), 0.0, np.nan_to_num(weights))
    return safe_ratio((np.nan_to_num(values) * used).sum(axis=-1), used.sum(axis=-1))


def over_factors(factors: Floats) -> ScoreParts:
    """The mean over the factors for which the score is defined, shape (..., K)."""
    return ScoreParts(mean_defined(factors), factors)


def over_latents(latents: Floats) -> ScoreParts:
    """The mean over the latents for which the score is defined, shape (..., J)."""
    return ScoreParts(mean_defined(latents), None, latents)


def top_two(values: Floats, axis: int) -> tuple[Floats, Floats]:
    """The greatest and the second greatest value along an axis of length 2 or more."""
    best = np.partition(values, -2, axis=axis)
    return np.asarray(best.take(-1, axis=axis)), np.asarray(best.take(-2, axis=axis))


def mig(info: Information) -> ScoreParts:
    r"""Mutual information gap (Chen et al. 2018, eq. 6).

    .. math:: \frac1K \sum_k \frac{I^{(k)}_1 - I^{(k)}_2}{\min(H(v_k), C)}

    C is the capacity: log B in the robust profile, so that a perfect latent also scores 1 on a factor of more levels
    than bins, and infinite in the reference profile, as published. Range: 0 to 1 (permuted factors lie above 0).
    Undefined for fewer than two latents; constant factors are left out.

    >>> entropy = np.array([np.log(2)])
    >>> table = Information(entropy * [[1.0], [0.25]], entropy, entropy, np.eye(1), 2, np.ones(2, bool))
    >>> float(mig(table).total)
    0.75
    """
    if info.mutual.shape[-2] < 2:
        return _undefined(info)
    first, second = top_two(info.mutual, -2)
    return over_factors((first - second) / info.attainable)


def mig_sup(info: Information) -> ScoreParts:
    r"""MIG-sup: gap between the two factors that a latent is most informative about (Li et al. 2020).

    The mean over active latents of the gap between the two greatest :math:`N_{jk} = I_{jk} / \min(H(v_k), C)` over k.
    Range: 0 to 1. Undefined for fewer than two factors or without active latents.
    """
    if info.mutual.shape[-1] < 2:
        return _undefined(info)
    shares = np.nan_to_num(info.mutual / info.attainable[..., None, :])
    first, second = top_two(shares, -1)
    return over_latents(np.where(info.active, first - second, np.nan))


def dmig(info: Information) -> ScoreParts:
    r"""Dependency-aware MIG, for correlated factors (Watcharasupat and Lerch 2021).

    .. math:: \frac1K \sum_k \frac{I^{(k)}_1 - I^{(k)}_2}{\min(H(v_k | v_l), C)}

    v_l is the factor that the second-best latent of v_k is most informative about: a latent of a correlated factor
    necessarily has information about v_k. The divisor is min(H(v_k), C) if l = k. Range: 0 to 1 up to estimation error.
    Undefined for fewer than two latents; factors whose divisor is 0 are left out.
    """
    if info.mutual.shape[-2] < 2:
        return _undefined(info)
    first, second = top_two(info.mutual, -2)
    runner_up = np.argsort(info.mutual, axis=-2, kind="stable")[..., -2, :]
    other = np.take_along_axis(info.mutual.argmax(axis=-1), runner_up, -1)
    conditional = np.take_along_axis(info.conditional, other[..., None], -1)[..., 0]
    entropy = np.where(other == np.arange(info.mutual.shape[-1]), info.factor_entropy, conditional)
    return over_factors((first - second) / attainable_information(entropy, info.capacity))


def jemmig(info: Information) -> ScoreParts:
    r"""JEMMIG: gap minus joint entropy, normalised so that 1 is best (Do and Tran 2020).

    .. math:: 1 - \frac1K \sum_k \frac{H(z_1, v_k) - I^{(k)}_1 + I^{(k)}_2}{H(v_k) + \log B}

    z_1 is the most informative latent, in B bins. At most 1. Undefined for fewer than two latents; constant factors are
    left out, and so are factors whose best latent is a block of several dimensions, which has no bins.
    """
    if info.mutual.shape[-2] < 2:
        return _undefined(info)
    first, second = top_two(info.mutual, -2)
    latent = np.take_along_axis(info.latent_entropy, info.mutual.argmax(axis=-2), -1)
    joint = latent + info.factor_entropy - first
    factors = 1 - (joint - first + second) / (info.factor_entropy + np.log(info.bins))
    return over_factors(np.where(info.factor_entropy > ZERO_ENTROPY, factors, np.nan))


def dcimig(info: Information) -> ScoreParts:
    r"""DCIMIG: total gap of the latents assigned to factors (Sepliarskaia et al. 2019).

    .. math:: \frac{\sum_k S_k}{\sum_k \min(H(v_k), C)}

    S_k is the greatest gap over factors, :math:`I_{jk} - \max_{l \ne k} I_{jl}`, among latents whose best factor is k;
    0 without one. Range: 0 to 1. Undefined for fewer than two factors or if all are constant.
    """
    if info.mutual.shape[-1] < 2:
        return _undefined(info)
    first, second = top_two(info.mutual, -1)
    best = info.mutual.argmax(axis=-1)
    assigned = best[..., None] == np.arange(info.mutual.shape[-1])
    scores = np.where(assigned, (first - second)[..., None], 0.0).max(axis=-2)
    entropy = info.attainable
    divisor = attainable_information(np.nansum(entropy, axis=-1), np.inf)
    total = np.where(np.isnan(entropy), 0.0, scores).sum(axis=-1) / divisor
    return ScoreParts(np.asarray(total), scores / entropy)


def modularity(info: Information, *, weighted: bool) -> ScoreParts:
    r"""Modularity: one minus a latent's squared information about all factors but its best (Ridgeway and Mozer 2018).

    .. math:: m_j = 1 - \frac{\sum_{k \ne k_1} I_{jk}^2}{(K - 1) I_{jk_1}^2}, \qquad k_1 = \arg\max_k I_{jk}

    Range: 0 to 1; random latents lie far above 0, so compare with chance. Undefined for fewer than two factors.

    Args:
        info: the information matrix.
        weighted: True (robust): mean over active latents weighted by :math:`I_{jk_1}`; undefined without one. False (as
            published, eq. 2): plain mean over all latents, in which a latent without information counts as 0.
    """
    if info.mutual.shape[-1] < 2:
        return _undefined(info)
    squares = info.mutual**2
    greatest = squares.max(axis=-1)
    latents = 1 - safe_ratio(squares.sum(axis=-1) - greatest, greatest * (squares.shape[-1] - 1))
    if not weighted:
        return over_latents(np.where(greatest > 0, latents, 0.0))
    latents = np.where(info.active, latents, np.nan)
    return ScoreParts(weighted_mean(latents, info.mutual.max(axis=-1)), None, latents)


def infom(info: Information) -> ScoreParts:
    r"""InfoM (InfoModularity): concentration of a latent's information on one factor (Hsu et al. 2023).

    .. math:: \frac1{D} \sum_{j\,active} \frac{\max_k N_{jk} / \sum_k N_{jk} - 1/K}{1 - 1/K}, \qquad
              N_{jk} = \frac{I_{jk}}{\min(H(v_k), C)}

    D is the number of active latents. Range: 0 (evenly spread) to 1 (one factor only). Undefined for fewer than two
    factors or without active latents.
    """
    shares = _normalised(info)
    if shares.shape[-1] < 2:
        return _undefined(info)
    return over_latents(np.where(info.active, _concentration(shares, -1, shares.shape[-1]), np.nan))


def infoc(info: Information) -> ScoreParts:
    r"""InfoC (InfoCompactness): concentration of the information about a factor in one latent (Hsu et al. 2023).

    .. math:: \frac1K \sum_k \frac{\max_j N_{jk} / \sum_j N_{jk} - 1/D}{1 - 1/D}

    over the D active latents, N as in :func:`infom`. Range: 0 (evenly spread) to 1 (one latent only). Undefined for
    fewer than two active latents; constant factors are left out.
    """
    shares = np.where(info.active[..., None], _normalised(info), 0.0)
    count = info.active.sum(axis=-1)[..., None]
    defined = (count >= 2) & (info.factor_entropy > ZERO_ENTROPY)
    return over_factors(np.where(defined, _concentration(shares, -2, np.maximum(count, 2)), np.nan))


def _undefined(info: Information) -> ScoreParts:
    return ScoreParts(np.full(info.mutual.shape[:-2], np.nan))


def _normalised(info: Information) -> Floats:
    """N_jk, clipped at 0."""
    return np.maximum(np.nan_to_num(info.mutual / info.attainable[..., None, :]), 0.0)


def _concentration(shares: Floats, axis: int, count: int | Ids) -> Floats:
    """Greatest share of the sum along an axis, rescaled so that an even spread over ``count`` is 0; NaN for sum 0."""
    return np.asarray((safe_ratio(shares.max(axis=axis), shares.sum(axis=axis)) - 1 / count) / (1 - 1 / count))


def active_by_information(excess: Floats, null: Floats, freedom: Floats, rows: Floats) -> Bools:
    r"""True for latents with significant information about some factor, shape (J,).

    The threshold for factor k is the greater of two numbers: the most information that any latent has about a permuted
    v_k, and, since few shuffles have a low maximum, the quantile that a table of noise exceeds anywhere with
    probability 1e-4. It is the quantile of a :math:`\chi^2` with f degrees of freedom, scaled to the standard deviation
    of the shuffles or to the theoretical :math:`\sqrt{2 f} / 2n`, whichever is greater.

    Args:
        excess: information minus the mean information of permuted factors, shape (J, K).
        null: information of permuted factors minus its mean over shuffles, shape (S, J, K).
        freedom: degrees of freedom f of each factor's table, (bins - 1)(levels - 1), shape (K,).
        rows: number n of rows where the factor is known, shape (K,).
    """
    tail = NOISE_ACTIVE_RATE / max(excess.size, 1)
    df = np.maximum(freedom, 1.0)
    quantile = (chi2.isf(tail, df) - df) / np.sqrt(2 * df)
    deviation = np.maximum(null.std(axis=(0, 1)), np.sqrt(2 * df) / (2 * np.maximum(rows, 1)))
    threshold = np.maximum(null.max(axis=(0, 1), initial=0.0), quantile * deviation)
    return np.asarray((excess > threshold).any(axis=-1))


def equal_width_bins(column: Floats, edges_from: Floats, bins: int) -> Classes:
    """Bin of each value, with edges of equal width between the minimum and the maximum of ``edges_from``.

    As in the published code, the maximum belongs to the last bin, and values below the first edge to bin 0.

    >>> equal_width_bins(np.array([0.0, 0.4, 1.0]), np.array([0.0, 1.0]), 2)
    array([0, 0, 1])
    """
    edges = np.histogram_bin_edges(edges_from, bins)[:-1]
    return np.maximum(np.digitize(column, edges) - 1, 0).astype(np.int64)


def contingency(binned_codes: Classes, classes: Classes, bins: int, levels: int) -> Floats:
    """Joint counts of bin and class for each latent dimension, shape (D, bins, levels).

    Args:
        binned_codes: bin of each row and dimension, shape (N, D).
        classes: class of each row, shape (N,); rows with -1 (missing) are left out.
        bins, levels: numbers of bins and of classes.
    """
    known = classes >= 0
    rows = binned_codes if known.all() else binned_codes[known]
    wanted = classes if known.all() else classes[known]
    found = np.empty((binned_codes.shape[1], bins, levels))
    step = max(CHUNK_ENTRIES // max(len(rows), bins * levels), 1)
    for first in range(0, binned_codes.shape[1], step):
        part = rows[:, first : first + step]
        place = (part + bins * np.arange(part.shape[1])) * levels + wanted[:, None]
        size = part.shape[1] * bins * levels
        found[first : first + step] = np.bincount(place.ravel(), minlength=size).reshape(-1, bins, levels)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class BinnedTable:
    r"""Binned codes and the classes of the factors, on the same rows.

    Args:
        binned_codes: bin of each row and latent dimension, shape :math:`(N, D)`.
        classes: class of each factor and row, shape :math:`(K, N)`; -1 = missing.
        levels: number of classes of each factor.
        bins: greatest number of bins of a dimension.
        corrected: True for Miller-Madow corrected entropies, False for plug-in ones.
    """

    binned_codes: Classes
    classes: Classes
    levels: tuple[int, ...]
    bins: int
    corrected: bool

    def mutual_information(self, rows: Ids | slice = slice(None), order: Ids | None = None) -> Floats:
        """Mutual information of every latent dimension with every factor in nats, shape (D, K).

        Args:
            rows: the rows to count.
            order: a permutation of these rows that is applied to the factors.
        """
        codes = self.binned_codes[rows]
        found = np.empty((codes.shape[1], len(self.levels)))
        for k, size in enumerate(self.levels):
            classes = self.classes[k][rows] if order is None else self.classes[k][rows][order]
            joint = contingency(codes, classes, self.bins, max(size, 1))
            latent, factor, both = joint_entropies(joint, corrected=self.corrected)
            found[:, k] = factor + latent - both
        return found

    def entropies(self) -> tuple[Floats, Floats, Floats]:
        """Entropies in nats of the factors (K,), of the latent dimensions (D,), and H(v_k | v_l), shape (K, K)."""
        dimensions = [self._entropy(column, self.bins) for column in self.binned_codes.T]
        factors = [self._entropy(c[c >= 0], max(size, 1)) for c, size in zip(self.classes, self.levels, strict=True)]
        conditional = np.zeros((len(factors), len(factors)))
        for k, given in product(range(len(factors)), repeat=2):
            if k != given:
                conditional[k, given] = self._conditional(k, given)
        return np.array(factors), np.array(dimensions), conditional

    def _entropy(self, classes: Classes, levels: int) -> float:
        counts = np.bincount(classes, minlength=levels).astype(np.float64)
        return float(entropy_of_counts(counts, corrected=self.corrected))

    def _conditional(self, k: int, given: int) -> float:
        """H(v_k | v_given) on the rows where both are known, clipped at 0."""
        both = (self.classes[k] >= 0) & (self.classes[given] >= 0)
        own, other = self.classes[k][both], self.classes[given][both]
        size = max(self.levels[given], 1)
        together = self._entropy(own * size + other, max(self.levels[k], 1) * size)
        return max(together - self._entropy(other, size), 0.0)


def bin_table(table: PanelTable, rows: Ids, bins: int, *, robust: bool) -> BinnedTable:
    """Bins the codes of some rows, in bins of equal mass if robust, else of equal width."""
    columns = table.codes[rows].T
    binned = np.stack([equal_mass_bins(c, bins) if robust else equal_width_bins(c, c, bins) for c in columns], axis=1)
    classes = np.stack([f.classes[rows] for f in table.factors])
    levels = tuple(int(column.max(initial=-1)) + 1 for column in classes)
    return BinnedTable(binned, classes, levels, int(binned.max(initial=0)) + 1, robust)


def permutations(seed: int, n: int, times: int) -> Iterator[Ids]:
    """Seeded permutations of n rows."""
    for shuffle in range(times):
        yield numpy_stream(seed, "permuted factors", shuffle).permutation(n)


def subsamples(seed: int, n: int, size: int, draws: int) -> Iterator[Ids]:
    """Seeded subsamples of n rows without replacement, each in ascending order."""
    for draw in range(draws):
        yield np.sort(numpy_stream(seed, "panel subsample", draw).choice(n, size, replace=False, shuffle=False))


def duplicates(codes: Floats) -> dict[int, int]:
    """Columns that are a strictly monotone transform of an earlier column, mapped to that column.

    >>> duplicates(np.array([[1.0, 3.0, 0.0], [2.0, 1.0, 1.0], [5.0, 0.0, 0.0]]))
    {1: 0}
    """
    found: dict[int, int] = {}
    candidates: dict[bytes, list[int]] = {}
    ranked = np.stack([np.unique(column, return_inverse=True)[1] for column in codes.T])
    for column, ranks in enumerate(ranked):
        if ranks.max() == 0:
            continue
        # only columns with equal or reversed order among the first rows need a full comparison
        head = np.unique(ranks[:KEY_ROWS], return_inverse=True)[1]
        key = min(head.tobytes(), (head.max() - head).tobytes())
        for earlier in candidates.setdefault(key, []):
            other = ranked[earlier]
            if np.array_equal(ranks, other) or np.array_equal(ranks, other.max() - other):
                found[column] = earlier
                break
        else:
            candidates[key].append(column)
    return found
