r"""UDR: do models of other seeds find the same codes (Duan et al. 2020)?

For two models a and b, R_ij = |rank correlation| of code i of a with code j of b, over codes whose mean KL from the
prior exceeds .01; :math:`r_j = \max_i R_{ij}`, and

.. math:: UDR_{ab} = \frac{1}{d_a + d_b} \Big( \sum_j \frac{r_j^2}{\sum_i R_{ij}} + \sum_i \frac{r_i^2}{\sum_j R_{ij}}
          \Big)

A model's score is the median over its partners. Models whose codes are aligned with labels are stable trivially.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from ccvae_eval.core.errors import DataError
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Bools, Floats, Gaussian

LEAST_KL = 0.01
"""Nats of mean KL from N(0, 1) that make a code active."""


def active_by_kl(posterior: Gaussian) -> Bools:
    """Codes whose mean KL(q(z_j|x) || N(0, 1)) exceeds .01 nat, shape (D,)."""
    loc, scale = posterior.loc.double().numpy(), posterior.scale.double().numpy()
    with np.errstate(divide="ignore"):
        kl = 0.5 * (loc**2 + scale**2 - 1) - np.log(scale)
    return np.asarray(kl.mean(axis=0) > LEAST_KL)


def rank_correlations(one: Floats, other: Floats) -> Floats:
    """Absolute rank correlation of each column of one with each of the other, shape (D1, D2); 0 for a constant one."""
    ranks = []
    for codes in (one, other):
        centred = rankdata(codes, axis=0) - (len(codes) + 1) / 2
        length = np.sqrt((centred**2).sum(axis=0))
        ranks.append(centred / np.where(length > 0, length, np.inf))
    return np.asarray(np.abs(ranks[0].T @ ranks[1]))


def pair_score(relations: Floats) -> float:
    """UDR of two models from the relations of their active codes, shape (d_a, d_b); NaN where one has none.

    >>> pair_score(np.eye(3)), pair_score(np.full((2, 2), 0.5))
    (1.0, 0.25)
    """
    if not relations.size:
        return float("nan")
    total = 0.0
    for axis in (0, 1):
        summed = relations.sum(axis=axis)
        strongest = relations.max(axis=axis) ** 2
        total += float(np.where(summed > 0, strongest / np.where(summed > 0, summed, 1.0), 0.0).sum())
    return total / sum(relations.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Stability:
    """UDR of several models.

    Args:
        pairs: of every two models, shape (M, M); NaN on the diagonal.
        models: of each model, the median over its partners, shape (M,).
        total: the mean over models.
        chance: the total when the codes of each model are turned at random.
        active: how many active codes each model has.
    """

    pairs: Floats
    models: Floats
    total: float
    chance: float
    active: tuple[int, ...]


def udr(codes: Sequence[Floats], active: Sequence[Bools] | None = None, *, seed: int = 0) -> Stability:
    r"""UDR of several models' codes of the same rows.

    Args:
        codes: of each model, shape :math:`(N, D_m)`.
        active: which codes of each take part; None = those that vary.
        seed: of the random rotations of the null.

    Raises:
        DataError: fewer than two models, or other rows.
    """
    if len(codes) < 2:
        raise DataError("stability needs two models at least", hint="Name several checkpoints.")
    if len({len(c) for c in codes}) > 1:
        raise DataError("the models' codes are of different rows")
    masks = [np.ptp(c, axis=0) > 0 for c in codes] if active is None else list(active)
    used = [c[:, mask] for c, mask in zip(codes, masks, strict=True)]
    pairs = _pairs(used)
    models = np.array([_median(row) for row in pairs])
    turned = [_turned(c, numpy_stream(seed, "rotation", m)) for m, c in enumerate(used)]
    chance = np.array([_median(row) for row in _pairs(turned)])
    defined = ~np.isnan(models)
    return Stability(
        pairs,
        models,
        float(models[defined].mean()) if defined.any() else float("nan"),
        float(np.nanmean(chance)) if not np.isnan(chance).all() else float("nan"),
        tuple(int(mask.sum()) for mask in masks),
    )


def _median(row: Floats) -> float:
    known = row[~np.isnan(row)]
    return float(np.median(known)) if len(known) else float("nan")


def _pairs(codes: Sequence[Floats]) -> Floats:
    found = np.full((len(codes), len(codes)), np.nan)
    for a in range(len(codes)):
        for b in range(a + 1, len(codes)):
            found[a, b] = found[b, a] = pair_score(rank_correlations(codes[a], codes[b]))
    return found


def _turned(codes: Floats, generator: np.random.Generator) -> Floats:
    if not codes.shape[1]:
        return codes
    scaled = (codes - codes.mean(axis=0)) / codes.std(axis=0)
    turn = np.linalg.qr(generator.standard_normal((codes.shape[1], codes.shape[1])))[0]
    return np.asarray(scaled @ turn)
