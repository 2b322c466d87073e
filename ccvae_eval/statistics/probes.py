"""Linear probes of labels, cross-fitted: every image is scored by probes that were fitted on other images.

Folds are a hash of the image id, so an image is always scored by the same folds, whichever images are evaluated with
it. Codes are standardised over all images; no label enters the standardisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.devices import one_thread
from ccvae_eval.core.large_arrays import MAX_IN_MEMORY
from ccvae_eval.core.random_streams import stream_key
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.statistics.auc import auc
from ccvae_eval.statistics.intervals import Resampled, ratio_estimate, undefined_estimate
from ccvae_eval.statistics.resampling import ResampleWeights

FOLDS = 5
"""Folds by default."""

STEPS = 50
"""Newton steps at most; 5 to 8 are usual."""

TOLERANCE = 1e-8
"""Largest gradient per image of a converged fit."""

CHUNK_SIZE = 1 << 22
"""Numbers of weighted codes in memory at once (32 MB), unless a single regression has more."""

Folds = NDArray[np.int64]


def folds_of(ids: Ids, *, folds: int = FOLDS) -> Folds:
    """Fold of each image by a hash of its id, shape (N,); the folds have nearly equal sizes."""
    return np.fromiter((stream_key(0, "fold", int(i)) % folds for i in ids), np.int64, len(ids))


def standardised(codes: Floats) -> Floats:
    r"""Codes with mean 0 and deviation 1 in each dimension, shape :math:`(N, D)`; constant dimensions become 0."""
    deviation = codes.std(axis=0)
    # a dimension that is constant up to rounding counts as constant
    largest = np.maximum(codes.max(axis=0, initial=0.0), -codes.min(axis=0, initial=0.0))
    varies = deviation > 1e-12 * np.maximum(largest, 1e-300)
    points = codes - codes.mean(axis=0)
    points[:, ~varies] = 0.0
    return np.asarray(np.divide(points, deviation, out=points, where=varies))


def logistic_coefficients(codes: Floats, labels: Floats, masks: Bools, *, strength: float = 1.0) -> Floats:
    r"""Coefficients of regularised logistic regressions on the same codes, fitted together by Newton's method.

    Each minimises

    .. math:: \frac{\lambda}{2} |w|^2 + \sum_i \log(1 + e^{-s_i (w x_i + b)}), \quad s_i = \pm 1

    over its images; b is not penalised. :math:`\lambda = 1` is scikit-learn's default.

    Args:
        codes: standardised codes, shape :math:`(N, D)`, finite.
        labels: 0 or 1, one row for each regression, shape :math:`(F, N)`; ignored outside the masks.
        masks: images of each regression, shape :math:`(F, N)`.
        strength: :math:`\lambda`, > 0.

    Returns:
        w followed by b, shape :math:`(F, D + 1)`; NaN for a regression with images of one class only.
    """
    size = codes.shape[1] + 1
    counts = masks.sum(axis=1)
    positives = (masks & (labels == 1)).sum(axis=1)
    possible = np.flatnonzero((positives > 0) & (positives < counts))
    found = np.full((len(masks), size), np.nan)
    stride = max(CHUNK_SIZE // (min(len(codes), MAX_IN_MEMORY) * size), 1)
    penalty = np.full(size, strength)
    penalty[-1] = 0.0
    with one_thread():
        for first in range(0, len(possible), stride):
            rows = possible[first : first + stride]
            found[rows] = _Regressions(codes, labels[rows] == 1, masks[rows], penalty).fitted()
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Regressions:
    """Logistic regressions on the same codes, with sums over blocks of images.

    Args:
        codes: shape (N, D).
        positive, masks: label and images of each regression, shape (F, N).
        penalty: of each coefficient, shape (D + 1,).
    """

    codes: Floats
    positive: Bools
    masks: Bools
    penalty: Floats

    def fitted(self) -> Floats:
        """Newton's method on all regressions together; each step is halved until the loss of its regression falls."""
        masks, positive, penalty = self.masks, self.positive, self.penalty
        counts = masks.sum(axis=1)
        found = np.zeros((len(masks), len(penalty)))
        found[:, -1] = np.log(positive.sum(axis=1, where=masks) / (~positive).sum(axis=1, where=masks))
        active = np.arange(len(masks))
        for _ in range(STEPS):
            gradient = self._gradient(active, found[active])
            going = np.abs(gradient).max(axis=1) > TOLERANCE * counts[active]
            if not going.any():
                break
            active, gradient = active[going], gradient[going]
            step = np.linalg.solve(self._hessian(active, found[active]), gradient[:, :, None])[:, :, 0]
            found[active] -= self._step_size(active, found[active], step) * step
        return found

    def _blocks(self, active: Ids, coefficients: Floats) -> Iterator[tuple[Floats, Floats, Floats]]:
        """The inputs of each block of images with a column of ones, and signs and margins of the regressions."""
        for first in range(0, len(self.codes), MAX_IN_MEMORY):
            rows = slice(first, first + MAX_IN_MEMORY)
            codes = self.codes[rows]
            design = np.concatenate([codes, np.ones((len(codes), 1))], axis=1)
            masks, positive = self.masks[active, rows], self.positive[active, rows]
            signs = np.where(masks, np.where(positive, 1.0, -1.0), 0.0)
            yield design, signs, signs * (coefficients @ design.T)

    def _gradient(self, active: Ids, coefficients: Floats) -> Floats:
        ascent = sum((signs * _wrong(margin)) @ design for design, signs, margin in self._blocks(active, coefficients))
        return np.asarray(self.penalty * coefficients - ascent)

    def _hessian(self, active: Ids, coefficients: Floats) -> Floats:
        hessian = np.zeros((len(active), len(self.penalty), len(self.penalty)))
        for design, signs, margin in self._blocks(active, coefficients):
            wrong = _wrong(margin)
            hessian += ((wrong * (1 - wrong) * np.abs(signs))[:, None, :] * design.T) @ design
        # a tiny ridge term keeps the intercept's curvature positive for huge margins
        diagonal = np.arange(len(self.penalty))
        hessian[:, diagonal, diagonal] += self.penalty + 1e-10
        return hessian

    def _step_size(self, active: Ids, found: Floats, step: Floats) -> Floats:
        """Largest power of 1/2 of each Newton step that does not increase the loss, shape (F, 1)."""
        size = np.ones((len(found), 1))
        before = self._loss(active, found)
        for _ in range(30):
            worse = self._loss(active, found - size * step) > before * (1 + 1e-12)
            if not worse.any():
                break
            size[worse] /= 2
        return size

    def _loss(self, active: Ids, coefficients: Floats) -> Floats:
        # images outside the mask have margin 0 and add a constant
        data = sum(np.logaddexp(0.0, -margin).sum(axis=1) for _, _, margin in self._blocks(active, coefficients))
        return np.asarray(data + (self.penalty * coefficients**2).sum(axis=1) / 2)


def _wrong(margin: Floats) -> Floats:
    """Probability of the other class."""
    return np.asarray(1 / (1 + np.exp(np.minimum(margin, 700.0))))


def cross_fitted_scores(
    codes: Floats, labels: Floats, folds: Folds, *, strata: Floats | None = None, strength: float = 1.0
) -> Floats:
    r"""Held-out scores of each label: logistic regressions on standardised codes, fitted on the other folds.

    A score is :math:`w x` without the intercept. The intercept follows the prevalence in the other folds, which is low
    where this fold's is high, and would bias ROC areas over all folds below chance.

    Args:
        codes: shape :math:`(N, D)`.
        labels: 0, 1 or NaN = missing, shape :math:`(N, L)`.
        folds: fold of each image, shape :math:`(N,)`.
        strata: values of another label, shape :math:`(N,)`, NaN = missing: one fit within each of its classes.
        strength: of the penalty, see ``logistic_coefficients``.

    Returns:
        Scores, shape :math:`(N, L)`; NaN where the label or stratum is missing, or where the other folds have images
        of one class only.
    """
    points = standardised(codes)
    within = np.zeros(len(codes)) if strata is None else strata
    scores = np.full(labels.shape, np.nan)
    fits = [(stratum, fold) for stratum in np.unique(within[~np.isnan(within)]) for fold in np.unique(folds)]
    # label by label: the bits of a label's scores do not depend on the other labels
    for label, column in enumerate(labels.T if fits else []):
        known = ~np.isnan(column)
        masks = np.stack([known & (within == stratum) & (folds != fold) for stratum, fold in fits])
        found = logistic_coefficients(points, np.broadcast_to(column, masks.shape), masks, strength=strength)
        for (stratum, fold), coefficients in zip(fits, found, strict=True):
            held_out = known & (within == stratum) & (folds == fold)
            scores[held_out, label] = (points[held_out] * coefficients[:-1]).sum(axis=1)
    return scores


def sign_fitted_scores(code: Floats, label: Floats, folds: Folds) -> Floats:
    r"""Held-out scores of one label from one latent dimension, with a sign fitted on the other folds.

    The sign is +1 if the ROC area on the other folds is at least 0.5, else -1.

    Args:
        code: shape :math:`(N,)`.
        label: 0, 1 or NaN = missing, shape :math:`(N,)`.
        folds: fold of each image, shape :math:`(N,)`.

    Returns:
        Scores, shape :math:`(N,)`; NaN where the label is missing or the other folds have images of one class only.
    """
    known = ~np.isnan(label)
    scores = np.full(len(code), np.nan)
    for fold in np.unique(folds):
        held_out, rest = known & (folds == fold), known & (folds != fold)
        area = auc(code[rest], label[rest] == 1)
        scores[held_out] = np.nan if np.isnan(area) else code[held_out] * (1.0 if area >= 0.5 else -1.0)
    return scores


@dataclass(frozen=True, slots=True, eq=False)
class HeldOutPredictions:
    r"""Held-out predictions of continuous targets.

    Args:
        targets: shape :math:`(N, T)`, NaN = missing.
        predicted: predictions of regressions on the other folds, shape :math:`(N, T)`.
        baseline: mean of the target on the other folds, shape :math:`(N, T)`.
    """

    targets: Floats
    predicted: Floats
    baseline: Floats

    def r2(self, target: int, weights: ResampleWeights) -> Resampled:
        r"""Held-out coefficient of determination of one target, with its confidence interval.

        .. math:: R^2 = 1 - \sum_i (t_i - \hat t_i)^2 / \sum_i (t_i - \bar t_i)^2

        with :math:`\bar t_i` the ``baseline``. The interval is that of ``ratio_estimate``, conditional on the fits.

        Returns:
            At most 1, which is perfect; 0 equals the mean, negative is worse. Undefined for a constant target.
        """
        wanted = self.targets[:, target]
        residual = (wanted - self.predicted[:, target]) ** 2
        total = np.where(np.isnan(residual), np.nan, (wanted - self.baseline[:, target]) ** 2)
        if not len(wanted) or np.nansum(total) <= 0:
            return undefined_estimate(weights.draws, "a constant target", len(wanted))
        found = ratio_estimate(residual, total, weights)
        estimate, without = found.estimate, found.leave_one_out
        r2 = replace(estimate, value=1 - estimate.value, low=1 - estimate.high, high=1 - estimate.low)
        return Resampled(r2, 1 - found.draws, found.note, None if without is None else 1 - without)


def cross_fitted_regression(
    codes: Floats, targets: Floats, folds: Folds, *, strength: float = 1.0
) -> HeldOutPredictions:
    r"""Held-out predictions of ridge regressions of each target on standardised codes, fitted on the other folds.

    Args:
        codes: shape :math:`(N, D)`.
        targets: shape :math:`(N, T)`, NaN = missing.
        folds: fold of each image, shape :math:`(N,)`.
        strength: :math:`\lambda` > 0 of the penalty :math:`\lambda |w|^2`; the intercept is not penalised.

    Returns:
        Predictions; NaN where the target is missing in all other folds.
    """
    points = standardised(codes)
    predicted = np.full(targets.shape, np.nan)
    baseline = np.full(targets.shape, np.nan)
    for target in range(targets.shape[1]):
        wanted = targets[:, target]
        known = ~np.isnan(wanted)
        for fold in np.unique(folds):
            rest, held_out = known & (folds != fold), known & (folds == fold)
            if not rest.any():
                continue
            mean, centre = float(wanted[rest].mean()), points[rest].mean(axis=0)
            x = points[rest] - centre
            with one_thread():
                slope = np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ (wanted[rest] - mean))
            baseline[held_out, target] = mean
            predicted[held_out, target] = mean + ((points[held_out] - centre) * slope).sum(axis=1)
    return HeldOutPredictions(targets, predicted, baseline)
