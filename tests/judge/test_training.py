import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import spearmanr

from ccvae_eval.core.errors import UndefinedError, UnsupportedError, UsageError
from ccvae_eval.core.random_streams import torch_stream
from ccvae_eval.judge import balanced_accuracies, train_judge, trusted_labels
from ccvae_eval.judge.artifact import outputs_of
from ccvae_eval.judge.training import (
    CHECK_STEPS,
    _platt_targets,
    _temperatures,
    blurred,
    degraded,
    reference_blur,
    rescaled,
)
from ccvae_eval.model.interface import Label, LabelSchema, binary_schema
from tests.support.fakes import GRADED, SCHEMA, GradedSquares, Squares

STEPS = 120


@pytest.fixture(scope="module")
def squares():
    return Squares(count=1200)


@pytest.fixture(scope="module")
def judge(squares):
    return train_judge(squares, seed=3, steps=STEPS)


class Points(Squares):
    @property
    def input_shape(self):
        return (2,)


class WithAge(Squares):
    """Adds a continuous label with one value and a label that is almost never present."""

    @property
    def schema(self):
        return LabelSchema((*SCHEMA, Label("Age", "continuous"), Label("Tattoo")))

    def labels_of(self, ids):
        rare = np.where(np.asarray(ids) % 200 == 0, 1, 0)
        return np.column_stack([super().labels_of(ids), np.full(len(ids), 7), rare]).astype(np.float32)

    def batch(self, ids):
        batch = super().batch(ids)
        return type(batch)(batch.images, torch.from_numpy(self.labels_of(ids)), batch.ids)


def test_it_classifies_new_images_also_blurred_ones(judge, squares):
    batch = squares.batch(squares.split("test"))
    for images in (batch.images, reference_blur(batch.images)):
        shares = balanced_accuracies(judge.log_probabilities(images), batch.labels, squares.schema)
        assert min(shares.values()) > 0.9
    assert set(judge.record.balanced_accuracy) == set(squares.schema.names)
    assert judge.record.seed == 3
    assert judge.record.trained_on == squares.spec
    assert judge.record.digest == squares.digest


def test_the_seed_determines_the_judge(squares):
    one, same, other = (train_judge(squares, seed=seed, steps=6) for seed in (0, 0, 1))
    assert one.sha256 == same.sha256 != other.sha256
    assert one.temperatures == same.temperatures


def test_training_ends_when_the_accuracy_is_settled(squares):
    calls = []
    judge = train_judge(
        squares, recipe="settled", labels=["Smile"], progress=lambda done, total: calls.append((done, total))
    )
    assert judge.record.recipe == "settled"
    assert 3 * CHECK_STEPS <= judge.record.steps < 400
    assert calls[-1] == (judge.record.steps, judge.record.steps)
    batch = squares.batch(squares.split("test"))
    for images in (batch.images, reference_blur(batch.images)):
        shares = balanced_accuracies(judge.log_probabilities(images), batch.labels, squares.schema)
        assert min(shares.values()) > 0.95
    assert train_judge(squares, recipe="settled", labels=["Smile"]).sha256 == judge.sha256


def test_the_duration_is_estimated_after_five_steps(squares):
    estimates, steps = [], []

    def estimate(labels, seconds):
        estimates.append((tuple(labels), seconds, len(steps)))

    train_judge(squares, steps=7, labels=["Hair"], progress=lambda *done: steps.append(done), estimate=estimate)
    ((labels, seconds, after),) = estimates
    assert labels == ("Hair",)
    assert seconds > 0
    assert after == 4


def test_training_can_start_from_another_judge(squares):
    first = train_judge(squares, steps=60, labels=["Smile"])
    second = train_judge(squares, steps=1, labels=["Hair"], recipe="settled", start=first)
    assert second.record.started_from == first.sha256
    scratch = train_judge(squares, steps=1, labels=["Hair"], recipe="settled")
    assert scratch.record.started_from == ""

    def distance(judge):
        pairs = zip(judge.network.trunk.parameters(), first.network.trunk.parameters(), strict=True)
        return sum(float((one - other).abs().sum()) for one, other in pairs)

    assert distance(second) < 0.1 * distance(scratch)


def test_training_leaves_the_global_random_state_alone(squares):
    before = torch.get_rng_state()
    train_judge(squares, steps=2)
    assert torch.equal(before, torch.get_rng_state())


def test_progress_is_reported_for_each_step(squares):
    calls = []
    train_judge(squares, steps=3, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_labels_that_cannot_be_learned_are_left_out_with_a_reason():
    judge = train_judge(WithAge(count=600), steps=2)
    assert judge.labels == SCHEMA
    assert judge.record.left_out["Age"] == "the label has the same value in every image"
    assert "present" in judge.record.left_out["Tattoo"]


def test_the_values_of_a_continuous_label_are_predicted_also_from_blurred_images():
    data = GradedSquares(count=1500, missing=0.3)
    judge = train_judge(data, steps=STEPS)
    assert judge.labels == GRADED
    assert judge.temperatures[1] == 1
    truth = GradedSquares(count=1500)
    batch = truth.batch(truth.split("test"))
    value = batch.labels[:, 1].double()
    for images in (batch.images, reference_blur(batch.images)):
        predicted = judge.log_probabilities(images)["Smile"]
        assert predicted.shape == (len(value), 1)
        r2 = 1 - (predicted[:, 0] - value).square().sum() / (value - value.mean()).square().sum()
        assert r2 > 0.8
        assert spearmanr(predicted[:, 0], value).statistic > 0.9
    assert 0.8 < judge.record.accuracy["Smile"] < 1
    assert 0.9 < judge.record.balanced_accuracy["Smile"] < 1
    assert "Smile" in judge.record.blurred_accuracy


def test_a_continuous_label_that_is_hardly_known_is_left_out():
    data = GradedSquares(count=300, missing=0.95)
    judge = train_judge(data, steps=2)
    assert judge.labels.names == ("Glasses",)
    assert judge.record.left_out["Smile"].endswith("images have this label, 10 are needed")


def test_the_rank_correlation_of_a_continuous_label_against_scipy():
    values, column = torch.randn(50, 1), torch.randn(50)
    column[:5] = torch.nan
    expected = spearmanr(values[5:, 0], column[5:]).statistic
    schema = LabelSchema((Label("Age", "continuous"),))
    found = balanced_accuracies({"Age": values}, column[:, None], schema)["Age"]
    assert found == pytest.approx(expected, abs=1e-12)
    assert np.isnan(balanced_accuracies({"Age": torch.ones(50, 1)}, column[:, None], schema)["Age"])


def test_only_requested_labels_are_learned(squares):
    assert train_judge(squares, steps=2, labels=["Smile"]).labels.names == ("Smile",)
    with pytest.raises(UsageError, match="Smlie"):
        train_judge(squares, steps=2, labels=["Smlie"])


def test_missing_labels_carry_no_gradient():
    data = Squares(count=900, missing=0.5)
    judge = train_judge(data, steps=STEPS)
    batch = Squares(count=900).batch(data.split("test"))
    shares = balanced_accuracies(judge.log_probabilities(batch.images), batch.labels, SCHEMA)
    assert min(shares.values()) > 0.9


def test_points_and_small_splits_are_rejected():
    with pytest.raises(UnsupportedError):
        train_judge(Points(count=300))
    with pytest.raises(UndefinedError):
        train_judge(Squares(count=2))
    with pytest.raises(UndefinedError, match="a judge can learn no label"):
        train_judge(Squares(count=45))


def test_temperatures_minimise_the_platt_loss(judge, squares):
    batch = squares.batch(squares.split("train"))
    found = _temperatures(judge.network, batch.images, batch.labels, SCHEMA)
    logits = outputs_of(judge.network, batch.images).double()
    for (first, last), column, temperature in zip(((0, 2), (2, 4), (4, 7)), batch.labels.T, found, strict=True):
        part, target = logits[:, first:last], column.long()
        counts = torch.bincount(target).double()
        weight = (1 / counts)[target]

        def loss(x, part=part, target=target, weight=weight):
            log_probs = torch.log_softmax(part / float(np.exp(x[0])), 1)
            return -float((weight[:, None] * _platt_targets(target, part.shape[1]) * log_probs).sum() / weight.sum())

        best = minimize(loss, [0.0], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-13})
        assert temperature == pytest.approx(float(np.exp(best.x[0])), rel=1e-3)


def test_confidence_agrees_with_accuracy_on_new_images(judge, squares):
    batch = squares.batch(squares.split("test"))
    for label in SCHEMA:
        log_probs = judge.log_probabilities(batch.images)[label.name]
        confidence = float(log_probs.exp().amax(1).double().mean())
        accuracy = float((log_probs.argmax(1) == batch.labels[:, SCHEMA.index(label.name)]).double().mean())
        assert abs(confidence - accuracy) < 0.03


def test_blur_agrees_with_scipy_and_rescaling_keeps_the_mean():
    from scipy.ndimage import gaussian_filter

    image = torch.rand(1, 1, 24, 24, dtype=torch.float64, generator=torch_stream(0, "test"))
    expected = gaussian_filter(image[0, 0].numpy(), 1.6, mode="nearest", radius=4)
    assert np.allclose(blurred(image, 1.6)[0, 0].numpy(), expected, atol=1e-12)
    assert float(rescaled(image, 2.0).mean()) == pytest.approx(float(image.mean()), abs=0.01)


def test_degraded_images_are_in_range_and_reproducible():
    images = torch.rand(10, 3, 28, 28, generator=torch_stream(1, "test"))
    before = images.clone()
    one, same = (degraded(images, torch_stream(2, "test")) for _ in range(2))
    assert torch.equal(one, same)
    assert torch.equal(images, before)
    assert one.shape == images.shape
    assert float(one.min()) >= 0
    assert float(one.max()) <= 1
    assert bool((one != images).flatten(1).any(1).all())


def test_balanced_accuracy_against_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score

    generator = torch_stream(5, "test")
    log_probs = torch.log_softmax(torch.randn(200, 4, generator=generator), 1)
    labels = torch.randint(0, 4, (200, 1), generator=generator).float()
    labels[:20] = torch.nan
    schema = LabelSchema((Label("Hair", "categorical", tuple("abcd")), Label("Other")))
    table = torch.cat([labels, labels], 1)
    expected = balanced_accuracy_score(labels[20:, 0], log_probs.argmax(1)[20:])
    assert balanced_accuracies({"Hair": log_probs}, table, schema) == {"Hair": pytest.approx(expected, abs=1e-12)}


def test_a_label_with_a_single_class_is_not_trusted():
    log_probs = torch.tensor([[0.1, 0.9]] * 4).log()
    shares = balanced_accuracies({"Hat": log_probs}, torch.ones(4, 1), binary_schema("Hat"))
    assert np.isnan(shares["Hat"])
    assert trusted_labels(shares) == ()


def test_the_threshold_of_trusted_labels_is_inclusive():
    assert trusted_labels({"a": 0.8, "b": 0.7999}) == ("a",)
    assert trusted_labels({"a": 0.8, "b": 0.95}, least=0.9) == ("b",)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 128, 128), (1, 20, 36)])
def test_greyscale_large_and_oblong_images(shape):
    class Bright:
        """Images that are bright if the label is present and dark otherwise."""

        spec, digest, schema, input_shape = "bright", "00", binary_schema("Light"), shape

        def __len__(self):
            return 200

        def split(self, name):
            return np.arange(200)

        def labels_of(self, ids):
            return (np.asarray(ids)[:, None] % 2).astype(np.float32)

        def batch(self, ids):
            from ccvae_eval.model.interface import Batch

            labels = torch.from_numpy(self.labels_of(ids))
            return Batch((0.2 + 0.6 * labels)[:, :, None, None].expand(-1, *shape).clone(), labels, np.asarray(ids))

    judge = train_judge(Bright(), steps=25)
    assert judge.record.balanced_accuracy["Light"] == 1.0
