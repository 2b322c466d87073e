"""Labels read off columns: what a model without a prediction of its own is credited with."""

from __future__ import annotations

import numpy as np

from ccvae_eval.statistics.probes import Folds, logistic_coefficients, standardised
from ccvae_eval.types import Floats, Ids


def readout(codes: Floats, classes: Ids, cardinality: int, folds: Folds, *, strength: float = 1.0) -> Floats:
    r"""Held-out probabilities of each class from logistic regressions on the images of the other folds.

    Two classes: one regression. More: one for each class against the rest, their probabilities divided by their sum.
    A class that the other folds never have gets probability 0, one that is all they have gets 1.

    Args:
        codes: shape :math:`(N, d)`.
        classes: of each image, shape :math:`(N,)`, -1 = missing.
        cardinality: number of classes K.
        folds: of each image, shape :math:`(N,)`.
        strength: of the penalty on standardised codes.

    Returns:
        shape :math:`(N, K)`; also for images without a label.
    """
    points = standardised(codes)
    ones = [1] if cardinality == 2 else list(range(cardinality))
    shares = np.empty((len(codes), len(ones)))
    for fold in np.unique(folds):
        rest, held_out = (classes >= 0) & (folds != fold), folds == fold
        targets = np.stack([classes == one for one in ones]).astype(np.float64)
        fits = logistic_coefficients(points, targets, np.broadcast_to(rest, targets.shape), strength=strength)
        for place, (fit, target) in enumerate(zip(fits, targets, strict=True)):
            if np.isnan(fit).any():
                shares[held_out, place] = float(rest.any() and target[rest].all())
                continue
            margin = (points[held_out] * fit[:-1]).sum(axis=1) + fit[-1]
            shares[held_out, place] = 1 / (1 + np.exp(-np.clip(margin, -700, 700)))
    if cardinality == 2:
        return np.column_stack([1 - shares[:, 0], shares[:, 0]])
    total = shares.sum(axis=1, keepdims=True)
    return np.asarray(np.where(total > 0, shares / np.where(total > 0, total, 1.0), 1 / cardinality))
