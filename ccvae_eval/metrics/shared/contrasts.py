"""Two-class contrasts of a label, and areas under the ROC curve as sums over images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ccvae_eval.core.errors import UndefinedError
from ccvae_eval.core.results import too_few_images
from ccvae_eval.core.types import Bools, Floats
from ccvae_eval.evaluation.result_table import Undefined
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.model.interface import Label
from ccvae_eval.statistics.auc import auc_estimate, auc_projection, cross_fitted, cross_fitting_factor, placements
from ccvae_eval.statistics.intervals import MIN_IMAGES, Resampled, mean_over
from ccvae_eval.statistics.resampling import ResampleWeights

MEDIAN_SPLIT = "above its median against the rest"


@dataclass(frozen=True, slots=True, eq=False)
class Contrasts:
    """The two-class contrasts of a label: present against absent, or each class against the rest.

    Of a continuous label: the images above its median against the others.

    Args:
        targets: one for each contrast: 1, 0 or NaN (missing), shape (N,).
        classes: index of the class that is coded as 1 in each contrast.
        note: remark for the result table ("one-vs-rest, averaged ...").
    """

    targets: tuple[Floats, ...]
    classes: tuple[int, ...]
    note: str = ""


def contrasts_of(subject: Subject, name: str, least: int) -> Contrasts:
    """Return the contrasts of one label that have enough images on both sides.

    Raises:
        UndefinedError: if no contrast has ``least`` images on both sides.
    """
    label, column = subject.schema[name], subject.column(name).double().numpy()
    if label.kind == "continuous":
        above = above_median(column)
        fewest = int(min((above == side).sum() for side in (0, 1)))
        if fewest < least:
            raise UndefinedError(f"{fewest} images lie on one side of the median, {least} are needed", where=name)
        return Contrasts((above,), (1,), MEDIAN_SPLIT)
    if label.kind == "binary":
        shortage = _shortage(label, column, 1, least)
        if shortage:
            raise UndefinedError(shortage, where=name)
        return Contrasts((column,), (1,))
    shortages = {k: _shortage(label, column, k, least) for k in range(label.cardinality)}
    kept = tuple(k for k, shortage in shortages.items() if not shortage)
    if not kept:
        raise UndefinedError("; ".join(dict.fromkeys(shortages.values())), where=name)
    left_out = ", ".join(label.class_name(k) for k in shortages if k not in kept)
    note = f"one-vs-rest, averaged over {len(kept)} classes" + (f", too few images: {left_out}" if left_out else "")
    targets = tuple(np.where(np.isnan(column), np.nan, (column == k).astype(np.float64)) for k in kept)
    return Contrasts(targets, kept, note)


def above_median(column: Floats) -> Floats:
    """Return 1 for values above the median of a column, 0 for the others, NaN for missing ones, shape (N,).

    >>> above_median(np.array([3.0, 1.0, np.nan, 2.0]))
    array([ 1.,  0., nan,  0.])
    """
    known = column[~np.isnan(column)]
    median = np.median(known) if len(known) else np.nan
    return np.where(np.isnan(column), np.nan, column > median)


def _shortage(label: Label, column: Floats, positive: int, least: int) -> str:
    """Return which side of a contrast has fewer than ``least`` images; "" if neither has."""
    known = column[~np.isnan(column)]
    inside = int((known == positive).sum())
    rest = "absent" if label.kind == "binary" else f"not {label.class_name(positive)}"
    for count, which in ((inside, label.class_name(positive)), (len(known) - inside, rest)):
        if count < least:
            return too_few_images(count, least, which)
    return ""


@dataclass(frozen=True, slots=True, eq=False)
class RocAuc:
    """Area under the ROC curve, averaged over contrasts.

    An image's contribution is the share of the other class that its score ranks correctly against, divided by twice
    the share of its own class among the images; the mean contribution is the area.

    Args:
        scores: one for each contrast, shape (N,), NaN = missing.
        targets: one for each contrast: 1, 0 or NaN, shape (N,).
        fitted: True if the scores come from probes fitted to the other folds of the same images.
    """

    scores: Sequence[Floats]
    targets: Sequence[Floats]
    fitted: bool = False

    def terms(self) -> tuple[Floats, Floats]:
        parts = [_contributions(score, target) for score, target in zip(self.scores, self.targets, strict=True)]
        mean = np.mean(parts, axis=0)
        return mean, np.where(np.isnan(mean), np.nan, 1.0)

    def within(self, images: Bools) -> RocAuc | Undefined:
        scores = [np.where(images, score, np.nan) for score in self.scores]
        for score, target in zip(scores, self.targets, strict=True):
            known = target[~(np.isnan(score) | np.isnan(target))]
            rarer = int(min((known == 1).sum(), (known != 1).sum()))
            if 0 < rarer < MIN_IMAGES:
                return Undefined(too_few_images(rarer, MIN_IMAGES))
        return replace(self, scores=scores)

    def influence(self) -> Floats:
        r"""Influence of each image on the area, shape (N,), mean 0; NaN = the image does not enter.

        .. math:: \psi_i = \frac{V_i - A}{n_{y_i} / n} \sqrt{\frac{n_{y_i}}{n_{y_i} - 1}}

        V are the ``placements``, n images enter and :math:`n_y` of them are of class y. Every comparison of two images
        counts in the contributions of both, so their own variance is too small by half; the influence is twice the
        contribution, centred within each class (Hájek's projection). The root makes the variance unbiased within each
        class, as in DeLong, DeLong and Clarke-Pearson (1988). Scores of fitted probes have the wider spread of
        ``cross_fitted``.
        """
        parts = []
        for scores, target in zip(self.scores, self.targets, strict=True):
            part = auc_projection(scores, target, least=1)
            present = ~(np.isnan(scores) | np.isnan(target))
            size = np.where(target == 1, (target[present] == 1).sum(), (target[present] != 1).sum())
            influence = part.influence * np.sqrt(size / np.maximum(size - 1, 1))
            error = float(np.sqrt((influence**2).sum()))
            factor = cross_fitting_factor(part.value, error) if self.fitted else 1.0
            parts.append(np.where(present, part.n * factor * influence, np.nan))
        return np.asarray(np.mean(parts, axis=0))

    def estimate(self, weights: ResampleWeights) -> Resampled:
        parts = [auc_estimate(s, t, weights) for s, t in zip(self.scores, self.targets, strict=True)]
        if self.fitted:
            parts = [cross_fitted(part, weights.level) for part in parts]
        return mean_over_contrasts(parts, weights.level)


def _contributions(scores: Floats, target: Floats) -> Floats:
    present = ~(np.isnan(scores) | np.isnan(target))
    positive = target[present] == 1
    found = np.full(len(scores), np.nan)
    if positive.any() and not positive.all():
        share = np.where(positive, positive.mean(), 1 - positive.mean())
        found[present] = placements(scores[present], positive) / (2 * share)
    return found


def mean_over_contrasts(parts: Sequence[Resampled], level: float) -> Resampled:
    """Return the mean over contrasts; a single estimate keeps its own confidence interval."""
    if len(parts) == 1 or not any(part.defined for part in parts):
        return parts[0]
    return mean_over(parts, level)
