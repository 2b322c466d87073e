r"""Scores that are formulas of the information matrix; every function takes leading axes of samples along.

I is I(z_j; v_k), :math:`I^{(k)}_1 \ge I^{(k)}_2 \ge ...` the same sorted over j. Each returns the total and the parts
it is the mean of. NaN where it does not exist: fewer than two codes or factors, no entropy, no active code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import chi2

from ccvae_eval.metrics.disentanglement.counting import Information, capped
from ccvae_eval.types import Bools, Floats

RARE = 1e-4
"""The share of tables of noise in which some code is taken for active."""


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
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


def _nowhere(info: Information) -> Parts:
    shape = info.mutual.shape
    return Parts(np.full(shape[:-2], np.nan))


def mig(info: Information) -> Parts:
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
    return Parts(mean_defined(factors), factors)


def mig_sup(info: Information) -> Parts:
    r"""The gap the other way round: mean over active codes of the gap over k of I(j,k)/H(v_k) (Li et al. 2020)."""
    if info.mutual.shape[-1] < 2:
        return _nowhere(info)
    shares = np.nan_to_num(info.mutual / info.knowable[..., None, :])
    first, second = top_two(shares, -1)
    codes = np.where(info.active, first - second, np.nan)
    return Parts(mean_defined(codes), None, codes)


def dmig(info: Information) -> Parts:
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
    return Parts(mean_defined(factors), factors)


def jemmig(info: Information) -> Parts:
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
    return Parts(mean_defined(factors), factors)


def dcimig(info: Information) -> Parts:
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
    return Parts(np.asarray(total), scores / entropy)


def modularity(info: Information, *, weighted: bool) -> Parts:
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
        return Parts(codes.mean(axis=-1), None, codes)
    codes = np.where(info.active, codes, np.nan)
    return Parts(weighted_mean(codes, info.mutual.max(axis=-1)), None, codes)


def infom(info: Information) -> Parts:
    r"""Of all that a code knows, how much belongs to one factor: mean over active codes of
    :math:`(\max_k N_{jk} / \sum_k N_{jk} - 1/K) / (1 - 1/K)`, N = I/H(v_k) (Hsu et al. 2023)."""
    shares = _shares(info)
    if shares.shape[-1] < 2:
        return _nowhere(info)
    codes = np.where(info.active, _ratio(shares, -1, shares.shape[-1]), np.nan)
    return Parts(mean_defined(codes), None, codes)


def infoc(info: Information) -> Parts:
    r"""Of all that is known of a factor, how much lies in one code: mean over factors of
    :math:`(\max_j N_{jk} / \sum_j N_{jk} - 1/D_a) / (1 - 1/D_a)`, over the D_a active codes (Hsu et al. 2023)."""
    shares = np.where(info.active[..., None], _shares(info), 0.0)
    count = info.active.sum(axis=-1)[..., None]
    factors = np.where(count >= 2, _ratio(shares, -2, np.maximum(count, 2)), np.nan)
    factors = np.where(info.factor_entropy > 1e-12, factors, np.nan)
    return Parts(mean_defined(factors), factors)


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
