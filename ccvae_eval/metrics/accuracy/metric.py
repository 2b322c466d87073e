"""The metric ``accuracy``: quality and calibration of label predictions, by the model itself or by a linear probe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.errors import UndefinedError, UnsupportedError
from ccvae_eval.core.results import Measurement, too_few_images
from ccvae_eval.core.types import Bools, Floats, Gaussian, Ids
from ccvae_eval.evaluation.accumulator import ImageAccumulator
from ccvae_eval.evaluation.metric import Needs
from ccvae_eval.evaluation.result_table import (
    NO_LABEL,
    NOT_PREDICTED,
    Mean,
    Proportion,
    ResultTable,
    Undefined,
    joined_notes,
)
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.metrics.accuracy.settings import Accuracy
from ccvae_eval.metrics.shared.contrasts import RocAuc, contrasts_of
from ccvae_eval.metrics.shared.likelihood import label_frequencies
from ccvae_eval.model.interface import Predicts, Rebuildable, supports, type_name, unwrapped
from ccvae_eval.statistics.auc import balanced_accuracy_estimate
from ccvae_eval.statistics.calibration_error import (
    calibration_error_estimate,
    calibration_error_floor,
    permuted_calibration_error,
)
from ccvae_eval.statistics.intervals import MIN_IMAGES, Resampled, bootstrap_estimate
from ccvae_eval.statistics.probes import (
    Folds,
    cross_fitted_regression,
    folds_of,
    logistic_coefficients,
    standardised,
)
from ccvae_eval.statistics.ratios import safe_ratio
from ccvae_eval.statistics.resampling import ResampleWeights

LINEAR_PROBE = "linear probe"
"""Note of values that are based on a probe of the latent dimensions because the model does not predict labels."""

CLASS_VALUES = ("accuracy", "balanced_accuracy", "majority", "auc", "brier", "calibration_error")
CONTINUOUS_VALUES = ("r2", "absolute_error")


def needs(metric: Accuracy, subject: Subject) -> Needs:
    """No decoded images.

    Raises:
        UnsupportedError: if the model neither predicts labels nor has latent dimensions for them.
    """
    del metric
    if not supports(subject.model, Predicts) and not (subject.characteristics or subject.unassigned):
        name = type_name(subject.model)
        raise UnsupportedError(f"{name} cannot predict labels and has no latent dimensions for them")
    return Needs(images=False)


class AccuracyAccumulator(ImageAccumulator[Accuracy]):
    """Computes all values from the predictions; no image is decoded."""

    def compute(self, weights: ResampleWeights) -> Measurement:
        subject = self.subject
        means = self.metric.code == "mean"
        predictions = subject.log_probabilities if means else subject.predicted(sampled=True)
        note, given = "", frozenset[str]()
        if predictions is None:
            note, given = LINEAR_PROBE, subject.given
        table = ResultTable(self.metric, subject, weights, given_counts=False, given=given)
        for name in subject.schema.names:
            if subject.selected is not None and name not in subject.selected:
                continue
            prediction = self._probe(name) if predictions is None else predictions.get(name)
            if isinstance(prediction, Gaussian):
                self._add_continuous(table, name, prediction, note)
            elif prediction is not None:
                self._add_classes(table, name, prediction.double().numpy(), note)
            elif name in subject.unassigned:
                table.undefined(name, NOT_PREDICTED, CLASS_VALUES)
        notes = ["predictions: by the model itself"]
        if note:
            notes = ["predictions: by a linear probe of the latent dimensions, since the model predicts no labels"]
        if not supports(unwrapped(subject.model), Rebuildable):
            notes.append(
                "majority: class frequencies of the evaluated labels (those of the training labels are unknown)"
            )
        found = table.measurement(notes, {})
        marked = [
            replace(v, note=joined_notes(v.note, note)) if v.characteristic is None and v.estimate.defined else v
            for v in found.values
        ]
        return replace(found, values=tuple(marked))

    @cached_property
    def _folds(self) -> Folds:
        return folds_of(self.subject.ids)

    def _probe(self, name: str) -> Tensor | Gaussian | None:
        """Return the log-probabilities of a linear probe of a characteristic; values of a continuous one."""
        subject, strength = self.subject, self.metric.strength
        if name not in subject.characteristics:
            return None
        points, label = subject.latents(subject.layout[name], self.metric.code), subject.schema[name]
        if label.kind != "continuous":
            p = probe_probabilities(
                points, subject.classes(name).numpy(), label.cardinality, self._folds, strength=strength
            )
            # 0 becomes the smallest positive float
            return torch.from_numpy(np.log(np.maximum(p, np.finfo(np.float64).tiny)))
        column = subject.column(name).double().numpy()[:, None]
        mean = torch.from_numpy(cross_fitted_regression(points, column, self._folds, strength=strength).predicted)
        return Gaussian(mean, torch.zeros_like(mean))

    def _add_classes(self, table: ResultTable, name: str, log_probs: Floats, note: str) -> None:
        subject, weights = self.subject, table.weights
        classes, column = subject.classes(name).numpy(), subject.column(name).double().numpy()
        known = classes >= 0
        if not known.any():
            table.undefined(name, NO_LABEL, CLASS_VALUES)
            return
        probabilities = np.exp(log_probs - log_probs.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        correct = np.where(known, probabilities.argmax(axis=1) == classes, np.nan)
        prior = label_frequencies(subject, name)
        majority = np.where(known, classes == prior.argmax(), np.nan)
        floor = float(np.nanmean(majority))
        table.evidence[f"probabilities/{name}"] = probabilities
        table.evidence[f"label/{name}"] = column
        table.add("accuracy", name, Proportion(correct), chance=floor, note=note)
        table.add("majority", name, Proportion(majority))
        brier = float(np.nanmean(_squared_error(prior[None], classes)))
        table.add("brier", name, Mean(_squared_error(probabilities, classes)), chance=brier, note=note)
        binary = probabilities.shape[1] == 2
        # of "present" for a binary label, else of the predicted class being correct
        stated, truth = (probabilities[:, 1], column) if binary else (probabilities.max(axis=1), correct)
        error = calibration_error_estimate(stated, truth, weights, bins=self.metric.bins)
        stated = np.where(known, stated, np.nan)
        calibrated = calibration_error_floor(stated, bins=self.metric.bins)
        permuted = permuted_calibration_error(stated, truth, bins=self.metric.bins)
        table.add("calibration_error", name, error, chance=permuted, reference=calibrated, note=note)
        self._add_ranked(table, name, log_probs, probabilities, note)

    def _add_ranked(self, table: ResultTable, name: str, log_probs: Floats, probabilities: Floats, note: str) -> None:
        """Add the values that need images of every class."""
        classes, column = self.subject.classes(name).numpy(), self.subject.column(name).double().numpy()
        counts = np.bincount(classes[classes >= 0], minlength=probabilities.shape[1])
        if counts.min() < self.metric.least:
            class_name = self.subject.schema[name].class_name(int(counts.argmin()))
            why = too_few_images(int(counts.min()), self.metric.least, class_name)
            table.add("balanced_accuracy", name, Undefined(why), note=note)
        else:
            balanced = BalancedAccuracy(probabilities.argmax(axis=1).astype(np.float64), column)
            table.add("balanced_accuracy", name, balanced, chance=1 / len(counts), note=note)
        try:
            contrasts = contrasts_of(self.subject, name, self.metric.least)
        except UndefinedError as error:
            table.add("auc", name, Undefined(error.what), note=note)
            return
        # log-odds, because probabilities near 0 and 1 would tie by rounding
        scores = [log_probs[:, k] - _log_rest(log_probs, k) for k in contrasts.classes]
        table.add("auc", name, RocAuc(scores, contrasts.targets), chance=0.5, note=joined_notes(note, contrasts.note))

    def _add_continuous(self, table: ResultTable, name: str, prediction: Gaussian, note: str) -> None:
        column, mean = self.subject.column(name).double().numpy(), prediction.loc.double().numpy().reshape(-1)
        known = ~np.isnan(column)
        if not known.any():
            table.undefined(name, NO_LABEL, ("balanced_accuracy", "auc", *CONTINUOUS_VALUES))
            return
        centred = column - column[known].mean()
        terms = np.column_stack([(column - mean) ** 2, centred, centred**2, np.where(known, 1.0, np.nan)])
        table.add("r2", name, bootstrap_estimate(_r2, terms, table.weights), chance=0.0, note=note)
        chance = float(np.abs(column[known] - np.median(column[known])).mean())
        table.add("absolute_error", name, Mean(np.abs(column - mean)), chance=chance, note=note)
        try:
            contrasts = contrasts_of(self.subject, name, self.metric.least)
        except UndefinedError as error:
            table.undefined(name, error.what, ("balanced_accuracy", "auc"))
            return
        (above,), split = contrasts.targets, joined_notes(note, contrasts.note)
        predicted = (mean > np.median(column[known])).astype(np.float64)
        table.add("balanced_accuracy", name, BalancedAccuracy(predicted, above), chance=0.5, note=split)
        table.add("auc", name, RocAuc([mean], [above]), chance=0.5, note=split)


@dataclass(frozen=True, slots=True, eq=False)
class BalancedAccuracy:
    """Balanced accuracy as a mean over images: a correct image counts 1 / (K times the share of its class).

    Args:
        predicted: predicted classes, shape (N,).
        labels: true classes, shape (N,), NaN = missing.
    """

    predicted: Floats
    labels: Floats

    def terms(self) -> tuple[Floats, Floats]:
        known, correct, _, divisor = self._classes()
        numerator = np.full(len(self.labels), np.nan)
        numerator[known] = correct / divisor
        return numerator, np.where(known, 1.0, np.nan)

    def within(self, images: Bools) -> BalancedAccuracy | Undefined:
        labels = np.where(images, self.labels, np.nan)
        counts = [int((labels == k).sum()) for k in np.unique(self.labels[~np.isnan(self.labels)])]
        if sum(count > 0 for count in counts) > 1 and min(counts) < MIN_IMAGES:
            return Undefined(too_few_images(min(counts), MIN_IMAGES))
        return BalancedAccuracy(self.predicted, labels)

    def influence(self) -> Floats:
        r"""Influence of each image on the value, shape (N,), mean 0; NaN = missing label.

        .. math:: \psi_i = \frac{[\hat y_i = y_i] - a_{y_i}}{K n_{y_i} / n} \sqrt{\frac{n_{y_i}}{n_{y_i} - 1}}

        :math:`a_y` is the accuracy within the :math:`n_y` images of class y, n the number of images. The root makes the
        variance unbiased within each class.
        """
        known, correct, index, divisor = self._classes()
        counts = np.bincount(index)
        accuracy, unbiased = np.bincount(index, correct) / counts, np.sqrt(counts / np.maximum(counts - 1, 1))
        found = np.full(len(self.labels), np.nan)
        found[known] = (correct - accuracy[index]) / divisor * unbiased[index]
        return found

    def _classes(self) -> tuple[Bools, Bools, Ids, Floats]:
        """Which images have a label, and of each of them: correct, index of its class, K times the class's share."""
        known = ~np.isnan(self.labels)
        classes, index, counts = np.unique(self.labels[known], return_inverse=True, return_counts=True)
        share = counts[index] / known.sum()
        return known, self.predicted[known] == self.labels[known], index, len(classes) * share

    def estimate(self, weights: ResampleWeights) -> Resampled:
        return balanced_accuracy_estimate(self.predicted, self.labels, weights)


def probe_probabilities(
    codes: Floats, classes: Ids, cardinality: int, folds: Folds, *, strength: float = 1.0
) -> Floats:
    r"""Return held-out class probabilities of logistic regressions fitted to the other folds.

    Two classes need one regression; more classes one each against the rest, with probabilities divided by their sum. A
    class that is absent from the other folds gets probability 0, and a class that is alone there gets 1.

    Args:
        codes: shape :math:`(N, d)`.
        classes: class of each image, shape :math:`(N,)`, -1 = missing.
        cardinality: number of classes K.
        folds: fold of each image, shape :math:`(N,)`.
        strength: penalty, on standardised codes.

    Returns:
        Shape :math:`(N, K)`; also for images without a label.
    """
    points = standardised(codes)
    positives = [1] if cardinality == 2 else list(range(cardinality))
    probabilities = np.empty((len(codes), len(positives)))
    for fold in np.unique(folds):
        training, held_out = (classes >= 0) & (folds != fold), folds == fold
        targets = np.stack([classes == k for k in positives]).astype(np.float64)
        fits = logistic_coefficients(points, targets, np.broadcast_to(training, targets.shape), strength=strength)
        for column, (fit, target) in enumerate(zip(fits, targets, strict=True)):
            if np.isnan(fit).any():
                probabilities[held_out, column] = float(training.any() and target[training].all())
                continue
            margin = (points[held_out] * fit[:-1]).sum(axis=1) + fit[-1]
            probabilities[held_out, column] = 1 / (1 + np.exp(-np.clip(margin, -700, 700)))
    if cardinality == 2:
        return np.column_stack([1 - probabilities[:, 0], probabilities[:, 0]])
    total = probabilities.sum(axis=1, keepdims=True)
    return safe_ratio(probabilities, total, 1 / cardinality)


def _log_rest(log_probs: Floats, k: int) -> Floats:
    """Return the log of the summed probability of all classes but k."""
    rest = np.delete(log_probs, k, axis=1)
    top = rest.max(axis=1, keepdims=True)
    return np.asarray(top[:, 0] + np.log(np.exp(rest - top).sum(axis=1)))


def _squared_error(probabilities: Floats, classes: Ids) -> Floats:
    """Return half the sum over classes of (p_k - [y = k])^2, shape (N,), NaN for missing labels."""
    truth = classes[:, None] == np.arange(probabilities.shape[1])
    return np.where(classes >= 0, ((probabilities - truth) ** 2).sum(axis=1) / 2, np.nan)


def _r2(totals: Floats) -> Floats:
    residual, total, square, n = totals.T
    return np.asarray(1 - residual / (square - total * total / n))
