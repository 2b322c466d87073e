"""Accuracy: does the model know the labels, and does it know how well it knows them?

Labels read off columns: what a model without a prediction of its own is credited with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.errors import UndefinedError, UnsupportedError, UsageError
from ccvae_eval.core.results import Measurement, ValueSpec
from ccvae_eval.core.types import Floats, Gaussian, Ids
from ccvae_eval.evaluation.metric import LAWS, Decoded, Needs
from ccvae_eval.evaluation.result_table import UNASSIGNED, Mean, Proportion, ResultTable, sentence
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.shared.contrasts import Areas, contrasts_of
from ccvae_eval.metrics.shared.likelihood import label_frequencies
from ccvae_eval.model.interface import Predicts, Rebuildable
from ccvae_eval.statistics.auc import balanced_accuracy_estimate
from ccvae_eval.statistics.calibration_error import (
    blind_calibration_error,
    calibration_error_estimate,
    honest_calibration_error,
)
from ccvae_eval.statistics.intervals import Resampled, bootstrap_estimate
from ccvae_eval.statistics.probes import Folds, folds_of, logistic_coefficients, standardised
from ccvae_eval.statistics.resampling import ResampleWeights


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


READOUT = "readout"
"""The note of what was read off columns by a regression of ours, not predicted by the model."""

CLASSED = ("accuracy", "balanced_accuracy", "majority", "auc", "brier", "calibration_error")
VALUED = ("r2", "absolute_error")


@dataclass(frozen=True, slots=True)
class Accuracy:
    r"""How often the model's own prediction of each label, at the posterior mean or at a sample, is right.

    For classes, p the predicted probabilities and the prediction their argmax:

    - ``accuracy`` = share of images predicted right (Wilson's interval); ``majority`` beside it = what always saying
      the most frequent class of the *training* labels would reach on these images;
    - ``balanced_accuracy`` = mean over the classes of the share of their images that is predicted right: 1/K for a
      constant or random answer, whatever the frequencies;
    - ``auc`` = chance that a present image gets a higher probability than an absent one; categorical: each class
      against the rest, averaged;
    - ``brier`` = mean of sum_k (p_k - [y = k])^2 / 2, for two classes (p - y)^2; its chance is what the training
      frequencies, given as probabilities, would score;
    - ``calibration_error`` = mean over 15 bins of equal mass of |frequency - probability|, noise taken off. Binary: of
      "present"; categorical: of the predicted class and whether it was right. May be slightly negative;
      honest probabilities score a little above 0, and how much, at this number of images, is its reference.

    For a continuous label: ``r2`` = 1 - sum (y - m)^2 / sum (y - mean y)^2 of the predicted mean m (chance 0: the mean
    of these images), and ``absolute_error`` (chance: that of their median).

    A model that cannot predict but has columns for its labels, assigned ones included, is read out: a logistic
    regression on the columns of the characteristic, fitted on the other four fifths of the images. Such rows are noted
    "readout": they say what a linear reader would reach, and flatter a model against one that must predict by itself.

    Range: 0 to 1; -1 to 1 for calibration_error, at most 1 for r2, 0 and up for absolute_error.
    Direction: higher is better, lower for brier, calibration_error and absolute_error. Undefined where a class has
    fewer than ``least`` images (accuracy, majority, brier and calibration stay defined). Missing labels are skipped
    and counted as excluded. Cost: one more pass of the encoder's images through the classifier, nothing is decoded.
    Chance: 1/K for balanced_accuracy, ``majority`` for accuracy, .5 for auc, labels permuted for calibration_error,
    none for majority, which is a chance level itself; for the others, as above.
    Pitfalls: accuracy of a rare label is high for a model that never says it: look at ``majority``. A model whose
    encoder takes labels is shown none when it predicts; what is read off columns that were given the labels is marked
    "given" and enters no mean.
    Reference: docs/metrics.md, section 5; Brier 1950; calibration: Kumar, Liang and Ma 2019.

    Args:
        code: what is predicted from: the mean of q(z|x), or one sample for each image.
        bins: of the calibration error.
        least: images that each class needs.
        strength: penalty of the readout's regression.
    """

    name: ClassVar[str] = "accuracy"
    version: ClassVar[int] = 2
    headline: ClassVar[str] = "balanced_accuracy"
    default_sample: ClassVar[int] = 2000
    laws: ClassVar[frozenset[str]] = LAWS
    values: ClassVar[Mapping[str, ValueSpec]] = {
        "balanced_accuracy": ValueSpec(
            "share predicted right, mean over the classes", "share", True, (0.0, 1.0), "1/K", dials=("mislabel",)
        ),
        "accuracy": ValueSpec(
            "share of images predicted right", "share", True, (0.0, 1.0), "most frequent training class",
            dials=("mislabel",),
        ),
        "majority": ValueSpec(
            "what the most frequent class of the training labels would reach", "share", None, (0.0, 1.0),
            no_chance="it is the chance level of accuracy",
        ),
        "auc": ValueSpec(
            "how well the predicted probability ranks present above absent", "", True, (0.0, 1.0), "labels permuted",
            dials=("mislabel",),
        ),
        "brier": ValueSpec(
            "squared error of the predicted probabilities", "", False, (0.0, 1.0), "training frequencies",
            dials=("mislabel",),
        ),
        "calibration_error": ValueSpec(
            "how far predicted probabilities lie from frequencies", "", False, (-1.0, 1.0), "labels permuted",
            dials=("temper",), reference="honest probabilities, at this number of images",
        ),
        "r2": ValueSpec("share of a continuous label's variance that is predicted", "", True, (None, 1.0), "the mean"),
        "absolute_error": ValueSpec(
            "mean absolute error of a continuous label", "label", False, (0.0, None), "the median"
        ),
    }  # fmt: skip

    code: Literal["mean", "sample"] = "mean"
    bins: int = 15
    least: int = 10
    strength: float = 1.0

    def needs(self, subject: Subject) -> Needs:
        """Nothing decoded.

        Raises:
            UnsupportedError: if the model neither predicts nor has columns for a label.
        """
        if self.code not in ("mean", "sample"):
            raise UsageError(f"code {self.code!r} is unknown", where="accuracy", hint='"mean" or "sample".')
        if not isinstance(subject.model, Predicts) and not (subject.characteristics or subject.unassigned):
            raise UnsupportedError(f"{type(subject.model).__name__} cannot predict labels and has no columns for them")
        return Needs(images=False)

    def start(self, subject: Subject) -> AccuracyAccumulator:
        return AccuracyAccumulator(self, subject)


@dataclass
class AccuracyAccumulator:
    """The accumulator: everything is known before the pass."""

    metric: Accuracy
    subject: Subject

    def update(self, batch: Decoded) -> None:
        """Never called: nothing is decoded for this metric."""

    def compute(self, weights: ResampleWeights) -> Measurement:
        subject = self.subject
        means = self.metric.code == "mean"
        told = subject.log_probabilities if means else subject.predicted(sampled=True)
        note, given = "", frozenset[str]()
        if told is None:
            told, note, given = self._read_out(), READOUT, subject.given
        tally = ResultTable(self.metric, subject, weights, given_counts=False, given=given)
        for name in subject.schema.names:
            if subject.selected is not None and name not in subject.selected:
                continue
            prediction = told.get(name)
            if isinstance(prediction, Gaussian):
                self._enter_continuous(tally, name, prediction)
            elif prediction is not None:
                self._enter_classes(tally, name, prediction.double().numpy(), note)
            elif name in subject.unassigned:
                for value in CLASSED:
                    tally.add(value, name, f"{UNASSIGNED}: no column tells it beyond chance")
        notes = [] if isinstance(subject.model, Rebuildable) else ["majority: the frequencies of the evaluated labels"]
        return tally.measurement(notes, {})

    def _read_out(self) -> dict[str, Tensor | Gaussian]:
        """The readouts of all characteristics with classes, as log-probabilities."""
        subject = self.subject
        codes = subject.posterior.loc if self.metric.code == "mean" else subject.codes
        points = codes.double().numpy()
        folds = folds_of(subject.ids)
        found: dict[str, Tensor | Gaussian] = {}
        for name in subject.characteristics:
            label = subject.schema[name]
            if label.kind != "continuous":
                columns, classes = points[:, list(subject.layout[name])], subject.classes(name).numpy()
                shares = readout(columns, classes, label.cardinality, folds, strength=self.metric.strength)
                found[name] = _log_of(shares)
        return found

    def _enter_classes(self, tally: ResultTable, name: str, told: Floats, note: str) -> None:
        subject, weights = self.subject, tally.weights
        classes, column = subject.classes(name).numpy(), subject.column(name).double().numpy()
        known = classes >= 0
        if not known.any():
            for value in CLASSED:
                tally.add(value, name, "every label is missing")
            return
        shares = np.exp(told - told.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        right = np.where(known, shares.argmax(axis=1) == classes, np.nan)
        prior = label_frequencies(subject, name)
        majority = np.where(known, classes == prior.argmax(), np.nan)
        floor = float(np.nanmean(majority))
        tally.evidence[f"probabilities/{name}"] = shares
        tally.evidence[f"label/{name}"] = column
        tally.add("accuracy", name, Proportion(right), chance=floor, note=note)
        tally.add("majority", name, Proportion(majority))
        brier = float(np.nanmean(_squared_error(prior[None], classes)))
        tally.add("brier", name, Mean(_squared_error(shares, classes)), chance=brier, note=note)
        binary = shares.shape[1] == 2
        error = self._calibration(shares, right, column, weights, binary=binary)
        stated = np.where(known, shares[:, 1] if binary else shares.max(axis=1), np.nan)
        honest = honest_calibration_error(stated, bins=self.metric.bins)
        blind = blind_calibration_error(stated, column if binary else right, bins=self.metric.bins)
        tally.add("calibration_error", name, error, chance=blind, reference=honest, note=note)
        self._enter_ranked(tally, name, told, shares, note)

    def _enter_ranked(self, tally: ResultTable, name: str, told: Floats, shares: Floats, note: str) -> None:
        """The values that need images of every class."""
        classes, column = self.subject.classes(name).numpy(), self.subject.column(name).double().numpy()
        counts = np.bincount(classes[classes >= 0], minlength=shares.shape[1])
        if counts.min() < self.metric.least:
            class_name = self.subject.schema[name].class_name(int(counts.argmin()))
            why = f"only {counts.min()} images of class {class_name}, {self.metric.least} are needed"
            tally.add("balanced_accuracy", name, why, note=note)
        else:
            balanced = Balanced(shares.argmax(axis=1).astype(np.float64), column)
            tally.add("balanced_accuracy", name, balanced, chance=1 / len(counts), note=note)
        try:
            contrasts = contrasts_of(self.subject, name, self.metric.least)
        except UndefinedError as error:
            tally.add("auc", name, error.what, note=note)
            return
        # log-odds: probabilities near 0 and 1 would tie by rounding
        scores = [told[:, k] - _log_rest(told, k) for k in contrasts.classes]
        tally.add("auc", name, Areas(scores, contrasts.targets), chance=0.5, note=sentence(note, contrasts.note))

    def _calibration(
        self, shares: Floats, right: Floats, column: Floats, weights: ResampleWeights, *, binary: bool
    ) -> Resampled:
        if binary:
            return calibration_error_estimate(shares[:, 1], column, weights, bins=self.metric.bins)
        return calibration_error_estimate(shares.max(axis=1), right, weights, bins=self.metric.bins)

    def _enter_continuous(self, tally: ResultTable, name: str, told: Gaussian) -> None:
        column, mean = self.subject.column(name).double().numpy(), told.loc.double().numpy().reshape(-1)
        known = ~np.isnan(column)
        if not known.any():
            for value in VALUED:
                tally.add(value, name, "every label is missing")
            return
        centred = column - column[known].mean()
        table = np.column_stack([(column - mean) ** 2, centred, centred**2, np.where(known, 1.0, np.nan)])
        tally.add("r2", name, bootstrap_estimate(_r2, table, tally.weights), chance=0.0)
        chance = float(np.abs(column[known] - np.median(column[known])).mean())
        tally.add("absolute_error", name, Mean(np.abs(column - mean)), chance=chance)


@dataclass(frozen=True, slots=True, eq=False)
class Balanced:
    """Balanced accuracy as a mean over images: each right image counts 1 over K times its class's share.

    Args:
        predicted: classes, shape (N,).
        labels: classes, shape (N,), NaN = missing.
    """

    predicted: Floats
    labels: Floats

    def terms(self) -> tuple[Floats, Floats]:
        known = ~np.isnan(self.labels)
        classes, place, counts = np.unique(self.labels[known], return_inverse=True, return_counts=True)
        share = counts[place] / known.sum()
        numerator = np.full(len(self.labels), np.nan)
        numerator[known] = (self.predicted[known] == self.labels[known]) / (len(classes) * share)
        return numerator, np.where(known, 1.0, np.nan)

    def estimate(self, weights: ResampleWeights) -> Resampled:
        return balanced_accuracy_estimate(self.predicted, self.labels, weights)


def _log_of(shares: Floats) -> Tensor:
    """Logarithms of probabilities; 0 becomes the log of the least positive float."""
    return torch.from_numpy(np.log(np.maximum(shares, np.finfo(np.float64).tiny)))


def _log_rest(told: Floats, k: int) -> Floats:
    """log of the summed probability of all classes but k."""
    rest = np.delete(told, k, axis=1)
    top = rest.max(axis=1, keepdims=True)
    return np.asarray(top[:, 0] + np.log(np.exp(rest - top).sum(axis=1)))


def _squared_error(shares: Floats, classes: Ids) -> Floats:
    """Half the sum over classes of (p_k - [y = k])^2, shape (N,), NaN = missing."""
    truth = classes[:, None] == np.arange(shares.shape[1])
    return np.where(classes >= 0, ((shares - truth) ** 2).sum(axis=1) / 2, np.nan)


def _r2(totals: Floats) -> Floats:
    residual, total, square, n = totals.T
    return np.asarray(1 - residual / (square - total * total / n))
