"""Accuracy against scikit-learn and SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ccvae_eval.core.types import Gaussian
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.accuracy.metric import Accuracy, BalancedAccuracy, probe_probabilities
from ccvae_eval.model.interface import Batch, Label, LabelSchema, LatentLayout, ModelContext
from ccvae_eval.statistics.calibration_error import permuted_calibration_error
from ccvae_eval.statistics.probes import folds_of, standardised
from tests.support.fakes import PlainSquaresVAE, Squares, SquaresVAE, Table, TableVAE, table_subject
from tests.support.statistics import plain_calibration_error

pytestmark = pytest.mark.oracle

SCHEMA = LabelSchema((Label("a"), Label("hair", "categorical", ("x", "y", "z")), Label("age", "continuous")))
LAYOUT = LatentLayout(5, {"a": (0,), "hair": (1, 2), "age": (3,)})
COUNT = 600


def labelled(seed=0):
    rng = np.random.default_rng(seed)
    a = (rng.random(COUNT) < 0.25).astype(float)
    hair = rng.choice(3, COUNT, p=[0.5, 0.3, 0.2]).astype(float)
    codes = rng.standard_normal((COUNT, 5))
    codes[:, 0] += 1.5 * a
    codes[:, 1] += 1.5 * (hair == 1)
    codes[:, 2] += 1.5 * (hair == 2)
    age = 40 + 10 * codes[:, 3] + 5 * rng.standard_normal(COUNT)
    return torch.from_numpy(codes), torch.from_numpy(np.column_stack([a, hair, age]))


class Predicting(TableVAE):
    """Predicts labels linearly from the code, with known errors."""

    def predict(self, images, codes):
        del images
        odds = 1.5 * codes[:, :1] - 2
        three = torch.cat([torch.ones(len(codes), 1), codes[:, 1:3]], 1)
        return {
            "a": torch.nn.functional.logsigmoid(torch.cat([-odds, odds], 1)),
            "hair": torch.log_softmax(1.5 * three, 1),
            "age": Gaussian(40 + 9 * codes[:, 3], torch.full((len(codes),), 5.0)),
            "not a label of these data": torch.zeros(len(codes), 2),
        }


@pytest.fixture(scope="module")
def case():
    codes, labels = labelled()
    subject = table_subject(codes, labels, SCHEMA, LAYOUT, Predicting(SCHEMA, LAYOUT))
    return subject, measure(subject, [Accuracy()])


def value(run, name, characteristic=None):
    (found,) = (v for v in run.measurements[0].values if (v.name, v.characteristic) == (name, characteristic))
    return found


def probabilities(subject, name):
    """Return predicted probabilities in float64 that sum to 1."""
    predicted = subject.log_probabilities[name].double().exp()
    return (predicted / predicted.sum(1, keepdim=True)).numpy()


def test_accuracies_equal_scikit_learns_with_wilsons_interval(case):
    subject, run = case
    for name in ("a", "hair"):
        truth, predicted = subject.column(name).numpy(), probabilities(subject, name).argmax(1)
        found = value(run, "accuracy", name)
        assert found.estimate.value == pytest.approx(accuracy_score(truth, predicted), abs=1e-12)
        ends = binomtest(int((truth == predicted).sum()), COUNT).proportion_ci(method="wilson")
        assert (found.estimate.low, found.estimate.high) == pytest.approx((ends.low, ends.high), abs=1e-12)
        assert found.chance == value(run, "majority", name).estimate.value
        balanced = value(run, "balanced_accuracy", name)
        assert balanced.estimate.value == pytest.approx(balanced_accuracy_score(truth, predicted), abs=1e-12)
        assert balanced.chance == pytest.approx({"a": 1 / 2, "hair": 1 / 3}[name])
    assert run["accuracy.majority@a"] == pytest.approx((subject.column("a") == 0).double().mean().item(), abs=1e-12)


def test_roc_areas_equal_scikit_learns(case):
    subject, run = case
    expected = roc_auc_score(subject.column("a"), probabilities(subject, "a")[:, 1])
    assert run["accuracy.auc@a"] == pytest.approx(expected, abs=1e-12)
    rest = roc_auc_score(subject.column("hair"), probabilities(subject, "hair"), multi_class="ovr")
    # float32 probabilities tie where log-odds do not
    assert run["accuracy.auc@hair"] == pytest.approx(rest, abs=1e-4)


def test_brier_score_equals_scikit_learns(case):
    subject, run = case
    truth = subject.column("a").numpy()
    assert run["accuracy.brier@a"] == pytest.approx(
        brier_score_loss(truth, probabilities(subject, "a")[:, 1]), abs=1e-7
    )
    hair = brier_score_loss(
        subject.column("hair"), probabilities(subject, "hair"), scale_by_half=True, labels=[0, 1, 2]
    )
    assert run["accuracy.brier@hair"] == pytest.approx(hair, abs=1e-7)
    frequency = truth.mean(dtype=np.float64)
    assert value(run, "brier", "a").chance == pytest.approx(frequency * (1 - frequency), abs=1e-12)


def test_calibration_error_is_small_for_true_and_large_for_tempered_probabilities():
    """Probabilities are calibrated by construction; at half the log-odds the error is the mean of |p - p_half|."""
    rng = np.random.default_rng(0)
    odds = rng.standard_normal(4000) * 2
    truth = 1 / (1 + np.exp(-odds))
    labels = torch.from_numpy((rng.random(4000) < truth).astype(float))[:, None]
    schema, layout = LabelSchema((Label("a"),)), LatentLayout(1, {"a": (0,)})

    class Tempered(TableVAE):
        temper = 1.0

        def predict(self, images, codes):
            del images
            tempered = codes / self.temper
            return {"a": torch.nn.functional.logsigmoid(torch.cat([-tempered, tempered], 1))}

    model = Tempered(schema, layout)
    subject = table_subject(torch.from_numpy(odds)[:, None], labels, schema, layout, model)
    right = value(measure(subject, [Accuracy()]), "calibration_error", "a").estimate
    assert right.low <= 0.01
    assert abs(right.value) < 0.02
    model.temper = 2.0
    again = table_subject(torch.from_numpy(odds)[:, None], labels, schema, layout, model)
    wrong = value(measure(again, [Accuracy()]), "calibration_error", "a").estimate
    expected = np.abs(truth - 1 / (1 + np.exp(-odds / 2))).mean()
    assert wrong.low < expected < wrong.high
    assert wrong.value == pytest.approx(expected, abs=0.02)


def test_a_continuous_label_has_its_own_values(case):
    subject, run = case
    truth, predicted = subject.column("age").numpy(), subject.log_probabilities["age"].loc.numpy()
    assert run["accuracy.r2@age"] == pytest.approx(r2_score(truth, predicted), abs=1e-6)
    assert run["accuracy.absolute_error@age"] == pytest.approx(mean_absolute_error(truth, predicted), abs=1e-5)
    assert run["accuracy.r2"] == run["accuracy.r2@age"]
    assert {v.characteristic for v in run.measurements[0].values if v.name == "accuracy"} == {None, "a", "hair"}
    above, seen = truth > np.median(truth), predicted > np.median(truth)
    expected = balanced_accuracy_score(above, seen)
    assert run["accuracy.balanced_accuracy@age"] == pytest.approx(expected, abs=1e-12)
    assert run["accuracy.auc@age"] == pytest.approx(roc_auc_score(above, predicted.reshape(-1)), abs=1e-12)


def test_a_ridge_regression_predicts_a_continuous_label_for_a_model_that_does_not():
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((400, 3))
    ages = 5 * codes[:, 0] + rng.standard_normal(400)
    schema, layout = LabelSchema((Label("age", "continuous"),)), LatentLayout(3, {"age": (0, 1)})
    subject = table_subject(torch.from_numpy(codes), torch.from_numpy(ages)[:, None], schema, layout)
    measurement = measure(subject, [Accuracy()]).measurements[0]
    found = next(v for v in measurement.values if (v.name, v.characteristic) == ("r2", "age"))
    predicted = cross_val_predict(make_pipeline(StandardScaler(), Ridge()), codes[:, :2], ages)
    assert found.estimate.value == pytest.approx(r2_score(ages, predicted), abs=0.01)
    assert found.note == "linear probe"
    assert measurement.status == "ok", "the headline is the balanced accuracy of both sides of the median"


def test_values_can_be_recomputed_from_the_evidence(case):
    _, run = case
    evidence = run.measurements[0].evidence
    for name in ("accuracy", "balanced_accuracy", "auc", "brier", "majority"):
        for label in ("a", "hair"):
            numerator, denominator = (evidence[f"{name}/{label}/{term}"] for term in ("numerator", "denominator"))
            found = np.nansum(numerator) / np.nansum(denominator)
            assert found == pytest.approx(run[f"accuracy.{name}@{label}"], abs=1e-12)


def test_majority_uses_the_training_frequencies():
    """In training a is mostly present; in these images it is mostly absent."""

    class Rebuilt(Predicting):
        settings = None
        context = ModelContext(SCHEMA, (1, 2, 2), ((0.2, 0.8), (0.1, 0.1, 0.8), ()))

        @classmethod
        def from_settings(cls, settings, context, seed=0):
            raise NotImplementedError

        def state_dict(self):
            return {}

        def load_state_dict(self, state_dict, strict=True):
            del state_dict, strict

    codes, labels = labelled()
    run = measure(table_subject(codes, labels, SCHEMA, LAYOUT, Rebuilt(SCHEMA, LAYOUT)), [Accuracy()])
    assert run["accuracy.majority@a"] == pytest.approx(labels[:, 0].mean().item(), abs=1e-12)
    assert run["accuracy.majority@hair"] == pytest.approx((labels[:, 1] == 2).double().mean().item(), abs=1e-12)
    truth = labels[:, 0].numpy()
    assert value(run, "brier", "a").chance == pytest.approx(((0.8 - truth) ** 2).mean(), abs=1e-12)
    assert run.measurements[0].notes == ("predictions: by the model itself",)


def test_missing_labels_are_skipped_and_counted():
    codes, labels = labelled()
    labels[:150, 0] = torch.nan
    subject = table_subject(codes, labels, SCHEMA, LAYOUT, Predicting(SCHEMA, LAYOUT))
    run = measure(subject, [Accuracy()])
    truth, predicted = labels[150:, 0].numpy(), probabilities(subject, "a")[150:].argmax(1)
    found = value(run, "accuracy", "a")
    assert found.estimate.value == pytest.approx(accuracy_score(truth, predicted), abs=1e-12)
    assert (found.estimate.n, found.excluded) == (450, 150)


def test_a_rare_class_leaves_class_averages_undefined():
    codes, labels = labelled()
    labels[:, 0] = 0
    labels[:4, 0] = 1
    run = measure(table_subject(codes, labels, SCHEMA, LAYOUT, Predicting(SCHEMA, LAYOUT)), [Accuracy()])
    for name in ("balanced_accuracy", "auc"):
        found = value(run, name, "a")
        assert math.isnan(found.estimate.value)
        assert found.note == "only 4 images of class present, 10 are needed"
        assert value(run, name).excluded == 1
    assert value(run, "accuracy", "a").estimate.defined
    labels[:, 1] = torch.nan
    run = measure(table_subject(codes, labels, SCHEMA, LAYOUT, Predicting(SCHEMA, LAYOUT)), [Accuracy()])
    assert value(run, "accuracy", "hair").note == "every label is missing"


@pytest.mark.parametrize("cardinality", [2, 3])
def test_the_linear_probe_equals_scikit_learns_on_the_other_folds(cardinality):
    codes, labels = labelled()
    classes = labels[:, 0 if cardinality == 2 else 1].long().numpy().copy()
    classes[:20] = -1
    folds = folds_of(np.arange(COUNT))
    columns = codes[:, :3].numpy()
    found = probe_probabilities(columns, classes, cardinality, folds)
    points, expected = standardised(columns), np.empty((COUNT, cardinality))
    for fold in np.unique(folds):
        rest = (folds != fold) & (classes >= 0)
        for k in range(cardinality):
            probe = LogisticRegression(tol=1e-10, max_iter=1000).fit(points[rest], classes[rest] == k)
            expected[folds == fold, k] = probe.predict_proba(points[folds == fold])[:, 1]
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_probe_with_a_single_class_is_certain():
    folds = folds_of(np.arange(40))
    codes = np.random.default_rng(0).standard_normal((40, 1))
    np.testing.assert_array_equal(probe_probabilities(codes, np.ones(40, int), 2, folds), np.tile([0.0, 1.0], (40, 1)))
    np.testing.assert_array_equal(probe_probabilities(codes, np.full(40, -1), 3, folds), np.full((40, 3), 1 / 3))


def test_a_linear_probe_replaces_missing_predictions_and_is_noted():
    codes, labels = labelled()
    run = measure(table_subject(codes, labels, SCHEMA, LAYOUT), [Accuracy()])
    found = value(run, "balanced_accuracy", "a")
    assert found.note == value(run, "balanced_accuracy", None).note == "linear probe"
    assert run.measurement("accuracy").notes[0].startswith("predictions: by a linear probe")
    assert found.estimate.value > 0.6
    plain = measure(prepare(PlainSquaresVAE(), Squares(800), np.arange(800)), [Accuracy()])
    assert value(plain, "accuracy", "Glasses").note == "assigned; linear probe"
    assert plain["accuracy.accuracy"] > 0.99


def test_a_perfect_score_has_an_interval():
    """All n images of a class are correct with probability .025 at a rate of .025^(1/n); two classes add in squares."""
    codes, labels = labelled()
    certain = torch.stack([2 * labels[:, 0] - 1, *codes.T[1:]], 1)
    found = value(
        measure(table_subject(10 * certain, labels, SCHEMA, LAYOUT, Predicting(SCHEMA, LAYOUT)), [Accuracy()]),
        "balanced_accuracy", "a",
    ).estimate  # fmt: skip
    assert (found.value, found.high) == (1, 1)
    each = [1 - 0.025 ** (1 / n) for n in (labels[:, 0].sum().item(), (1 - labels[:, 0]).sum().item())]
    assert found.low == pytest.approx(1 - np.hypot(*each) / 2)


def test_a_model_without_predictions_and_latent_dimensions_is_unsupported():
    codes, labels = labelled()
    found = measure(table_subject(codes, labels, SCHEMA, LatentLayout(5)), [Accuracy()]).measurements[0]
    assert (found.status, found.reason.code) == ("unsupported", "unsupported")
    assert "cannot predict labels" in found.reason.text


def test_probes_of_given_labels_enter_no_mean():
    class Given(TableVAE):
        given = ("a",)

    codes, labels = labelled()
    run = measure(table_subject(codes, labels, SCHEMA, LAYOUT, Given(SCHEMA, LAYOUT)), [Accuracy()])
    assert value(run, "accuracy", "a").note.startswith("given")
    assert run["accuracy.accuracy"] == run["accuracy.accuracy@hair"]


def test_a_model_whose_encoder_takes_labels_predicts_without_seeing_them(case):
    """Its codes were given the label, but its prediction comes from an encoding without labels and counts."""
    codes, labels = labelled()

    class Blind(Predicting):
        given = ("a",)

        def encode(self, images, labels=None):
            assert labels is None
            rows = images[:, 0, 0, 0].long()
            return Gaussian(codes[rows].float(), torch.zeros(len(rows), codes.shape[1]))

    class Numbered(Table):
        def batch(self, ids):
            images = torch.from_numpy(ids).float()[:, None, None, None].expand(-1, *self.input_shape)
            return Batch(images, self.labels[ids], ids)

    given = codes.clone()
    given[:, :1] = 100 * labels[:, :1]  # a code that repeats the label
    model, data = Blind(SCHEMA, LAYOUT), Numbered(SCHEMA, labels)
    run = measure(table_subject(given, labels, SCHEMA, LAYOUT, model, data=data), [Accuracy()])
    assert value(run, "accuracy", "a").note == ""
    assert run["accuracy.accuracy"] == case[1]["accuracy.accuracy"]


def test_predictions_from_samples_are_less_accurate_than_those_from_means():
    subject = prepare(SquaresVAE(scale=1.5), Squares(300), np.arange(300))
    means, samples = (measure(subject, [Accuracy(code=code)]) for code in ("mean", "sample"))
    predicted = subject.predicted(sampled=True)["Glasses"]
    expected = (predicted.argmax(1) == subject.classes("Glasses")).double().mean()
    assert samples["accuracy.accuracy@Glasses"] == pytest.approx(float(expected))
    assert samples["accuracy.accuracy@Glasses"] < means["accuracy.accuracy@Glasses"]
    assert torch.equal(predicted, subject.model.predict(None, subject.codes)["Glasses"])


def test_chance_of_the_calibration_error_is_that_of_permuted_labels():
    rng = np.random.default_rng(0)
    stated = rng.random(4000)
    labels = (rng.random(4000) < stated).astype(float)
    permuted = [plain_calibration_error(stated, rng.permutation(labels)) for _ in range(20)]
    assert permuted_calibration_error(stated, labels) == pytest.approx(np.mean(permuted), abs=0.01)
    assert np.isnan(permuted_calibration_error(stated, np.full(4000, np.nan)))


def test_the_influence_of_images_gives_the_standard_error_of_balanced_accuracy():
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 400, p=[0.6, 0.3, 0.1]).astype(float)
    predicted = np.where(rng.random(400) < 0.7, labels, rng.integers(0, 3, 400))
    labels[:10] = np.nan
    psi = BalancedAccuracy(predicted, labels).influence()
    assert np.isnan(psi[:10]).all()
    known, guess, psi = labels[10:], predicted[10:], psi[10:]
    for k in range(3):
        assert psi[known == k].mean() == pytest.approx(0, abs=1e-12)
    draws = rng.integers(0, 390, (1500, 390))
    resampled = np.std([balanced_accuracy_score(known[rows], guess[rows]) for rows in draws])
    assert np.sqrt((psi**2).sum()) / 390 == pytest.approx(resampled, rel=0.06)
