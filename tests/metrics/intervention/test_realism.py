"""Realism, minimality and preserved identity of edits against brute force and closed forms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ccvae_eval.core.results import Value
from ccvae_eval.evaluation.interventions import Do
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.metrics.intervention.metric import Interventions
from ccvae_eval.metrics.intervention.realism import (
    Neighbourhoods,
    blended,
    distances_apart,
    feature_distance,
    latent_divergence,
)
from ccvae_eval.metrics.shared.features import HogFeatures
from ccvae_eval.statistics.distances import frechet_distance
from ccvae_eval.statistics.resampling import ResampleWeights
from tests.support.fakes import Squares, SquaresVAE

pytestmark = pytest.mark.oracle

COUNT = 192
UNCHANGED = math.log(0.8 + 0.2 * math.e)


class Faded(SquaresVAE):
    """Decodes greyer images, which no real image equals."""

    def decode(self, codes: Tensor) -> Tensor:
        return 0.7 * super().decode(codes) + 0.1


class Idle(SquaresVAE):
    """Its decoder ignores the dimension of the glasses."""

    def decode(self, codes: Tensor) -> Tensor:
        still = codes.clone()
        still[:, 0] = 3.0
        return super().decode(still)


def subject_of(model: Any = None, count: int = COUNT) -> Subject:
    return prepare(model or SquaresVAE(), Squares(count), np.arange(count))


def measured(subject: Subject, **settings: Any) -> Run:
    return measure(subject, [Interventions(axiom_images=0, rendered=0, **settings)])


def row(run: Run, name: str, characteristic: str | None, **at: str) -> Value:
    for value in run.measurement("intervention").values:
        if value.name == name and value.characteristic == characteristic and dict(value.at) == at:
            return value
    raise AssertionError((name, characteristic, at))


def pooled(images: Tensor) -> Any:
    return torch.nn.functional.adaptive_avg_pool2d(images.double(), 8).flatten(1).numpy()


def edits(subject: Subject, name: str) -> tuple[Any, Any, Any]:
    """Pooled pixels of the images, their reconstructions and their edits."""
    chunks = list(subject.chunks())
    edited = torch.cat([subject.decode(Do(name).codes(subject, chunk)) for chunk in chunks])
    rebuilt = torch.cat([subject.decode(chunk.codes) for chunk in chunks])
    return tuple(pooled(images) for images in (torch.cat([c.images for c in chunks]), rebuilt, edited))


def mmd(x: Any, y: Any, paired: bool = False) -> float:
    """Unbiased squared MMD, pair by pair."""
    k = lambda u, v: (u @ v / len(u) + 1) ** 3  # noqa: E731
    own = [np.mean([k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]) for z in (x, y)]
    cross = [k(x[i], y[j]) for i in range(len(x)) for j in range(len(y)) if not (paired and i == j)]
    return float(sum(own) - 2 * np.mean(cross))


@pytest.mark.parametrize("name", ["Glasses", "Hair"])
def test_realism_matches_brute_force(name: str) -> None:
    subject = subject_of(Faded(), 96)
    run = measured(subject)
    real, rebuilt, edited = edits(subject, name)
    then, now = subject.target_class(name).numpy(), subject.classes(name).numpy()
    found = []
    for k in range(subject.schema[name].cardinality):
        at = {"features": "pixels", "class": subject.schema[name].class_name(k)}
        value, other = row(run, "realism", name, **at), row(run, "realism_frechet", name, **at)
        x, y = edited[then == k], real[now == k]
        assert value.estimate.value == pytest.approx(mmd(x, y), abs=1e-9)
        assert value.chance == pytest.approx(mmd(rebuilt[then == k], y), abs=1e-9)
        assert value.reference == pytest.approx(mmd(rebuilt[now == k], y, paired=True), abs=1e-9)
        assert other.estimate.value == pytest.approx(frechet_distance(x, y))
        assert other.reference == pytest.approx(frechet_distance(rebuilt[now == k], y))
        assert value.estimate.n == min(len(x), len(y))
        assert value.estimate.low <= value.estimate.value <= value.estimate.high
        assert math.isnan(other.estimate.low), "a resample contains copies"
        found.append(value)
    mean = row(run, "realism", name, features="pixels")
    assert mean.estimate.value == pytest.approx(np.mean([value.estimate.value for value in found]))
    assert mean.chance == pytest.approx(np.mean([value.chance for value in found]))


def test_an_exact_model_is_as_real_as_its_reconstructions_and_an_idle_one_is_at_chance() -> None:
    exact, idle, faded = (measured(subject_of(model)) for model in (SquaresVAE(), Idle(), Faded()))
    good, none, grey = (row(run, "realism", "Glasses", features="pixels") for run in (exact, idle, faded))
    assert good.estimate.low < good.reference < good.estimate.high
    assert good.chance > good.estimate.high
    assert none.estimate.value == pytest.approx(none.chance), "edited images are the reconstructions"
    assert grey.estimate.low > good.estimate.high


def test_minimality_matches_brute_force() -> None:
    subject = subject_of(Faded(), 96)
    run = measured(subject)
    for name in ("Glasses", "Hair"):
        real, rebuilt, edited = edits(subject, name)
        now, then = subject.classes(name).numpy(), subject.target_class(name).numpy()
        of_edit, of_reconstruction, of_real = [], [], []
        for i in range(len(real)):
            apart = np.abs(real - real[i]).mean(1)
            own = [apart[j] for j in range(len(real)) if now[j] == now[i] and j != i]
            target = [apart[j] for j in range(len(real)) if now[j] == then[i]]

            def divergence(d: float, own: Any = own, target: Any = target) -> float:
                near, far = np.mean([s <= d for s in target]), np.mean([s >= d for s in own])
                return math.log(0.8 * math.exp(near) + 0.2 * math.exp(far))

            of_edit.append(divergence(np.abs(edited[i] - real[i]).mean()))
            of_reconstruction.append(divergence(np.abs(rebuilt[i] - real[i]).mean()))
            of_real.append(np.mean([divergence(d) for d in target]))
        value = row(run, "minimality", name, features="pixels")
        assert value.estimate.value == pytest.approx(np.mean(of_edit))
        assert value.reference == pytest.approx(np.mean(of_reconstruction))
        assert value.chance == pytest.approx(np.mean(of_real))
        assert value.estimate.n == len(real)


def neighbourhoods() -> tuple[Any, Neighbourhoods]:
    random = np.random.default_rng(0)
    features, classes = random.normal(size=(60, 5)), np.repeat([0, 1], 30)
    return features, Neighbourhoods.of(distances_apart(features), classes, 1 - classes)


def test_an_edit_that_equals_its_origin_has_a_known_divergence() -> None:
    _, near = neighbourhoods()
    assert near.divergences(np.zeros(60)) == pytest.approx(UNCHANGED)
    assert near.divergences(np.full(60, np.inf)) == pytest.approx(math.log(0.8 * math.e + 0.2))


def test_an_edit_that_equals_a_real_image_has_the_divergence_of_its_rank() -> None:
    features, near = neighbourhoods()
    for rank in (1, 7, 30):
        chosen = np.array([np.flatnonzero(near.target[i])[np.argsort(near.apart[i, near.target[i]])[rank - 1]]
                           for i in range(60)])  # fmt: skip
        moved = feature_distance(features[chosen], features)
        farther = [(near.apart[i, near.own[i]] >= moved[i]).mean() for i in range(60)]
        expected = latent_divergence(np.full(60, rank / 30), np.array(farther))
        assert near.divergences(moved) == pytest.approx(expected)


def test_the_best_edit_leaves_its_own_class_and_does_not_reach_the_other() -> None:
    features = np.concatenate([np.linspace(0, 1, 20), np.linspace(10, 11, 20)])[:, None]
    classes = np.repeat([0, 1], 20)
    near = Neighbourhoods.of(distances_apart(features), classes, 1 - classes)
    assert near.divergences(np.full(40, 5.0)) == pytest.approx(0)
    assert near.of_real_images() == pytest.approx(np.mean(np.log(0.8 * np.exp(np.arange(1, 21) / 20) + 0.2)))


def test_the_interval_of_minimality_covers_the_value_of_many_images() -> None:
    """The real images, too, are resampled: all edits are compared with the same few."""
    random = np.random.default_rng(1)

    def estimate(count: int, seed: int) -> Any:
        features, classes = random.normal(size=(2 * count, 2)), np.repeat([0, 1], count)
        near = Neighbourhoods.of(distances_apart(features + classes[:, None]), classes, 1 - classes)
        moved = np.abs(random.normal(1.5, 0.3, size=2 * count))
        return near.estimate(moved, ResampleWeights(seed, 2 * count, 400), np.arange(2 * count)).estimate

    truth = estimate(1500, 0).value
    found = [estimate(30, seed) for seed in range(300)]
    assert 0.91 <= np.mean([one.low <= truth <= one.high for one in found]) <= 0.98


def test_resamples_are_the_directional_derivatives_of_the_mean() -> None:
    _, near = neighbourhoods()
    moved = np.random.default_rng(2).uniform(1, 4, size=60)
    weights, step = ResampleWeights(0, 60, 40), 1e-6
    found = near.estimate(moved, weights, np.arange(60))

    def mean(w: Any) -> float:
        hits = near.target & (near.apart <= moved[:, None]), near.own & (near.apart >= moved[:, None])
        shares = [(hit @ w) / (pairs @ w) for hit, pairs in zip(hits, (near.target, near.own), strict=True)]
        return float(np.average(latent_divergence(*shares), weights=w))

    slopes = [(mean(1 + step * (w - 1.0)) - found.value) / step for w in weights.rows(np.arange(60)).T]
    assert found.draws - found.value == pytest.approx(slopes, abs=1e-5)


EDGES = "edges"
"""Stands for features of faces."""


def test_identity_is_undefined_without_features_of_faces() -> None:
    value = row(measured(subject_of(count=96)), "identity_cosine", None)
    assert math.isnan(value.estimate.value)
    assert "--features" in value.note


def test_identity_matches_brute_force_and_its_chance_is_an_equal_change() -> None:
    subject = subject_of(count=96)
    run = measured(subject, features=EDGES)
    after, chance = [], []
    for chunk in subject.chunks():
        r, edited = subject.decode(chunk.codes), subject.decode(Do("Glasses").codes(subject, chunk))
        change = (edited - r).abs().double().mean((1, 2, 3)).numpy()
        blend = blended(r, r.roll(1, 0), change)
        full = (r.roll(1, 0) - r).abs().double().mean((1, 2, 3)).numpy()
        same = (blend - r).abs().double().mean((1, 2, 3)).numpy()
        assert same == pytest.approx(np.minimum(change, full), abs=1e-6)
        for images, into in ((edited, after), (blend, chance)):
            x, y = (HogFeatures().features(z).double() for z in (r, images))
            into.extend(torch.cosine_similarity(x, y).tolist())
    value = row(run, "identity_cosine", "Glasses", features=EDGES)
    assert value.estimate.value == pytest.approx(np.mean(after), abs=1e-6)
    assert value.chance == pytest.approx(np.mean(chance), abs=1e-6)
    assert value.estimate.n == 96


def test_an_idle_edit_keeps_the_identity_and_so_does_its_chance() -> None:
    value = row(measured(subject_of(Idle()), features=EDGES), "identity_cosine", "Glasses", features=EDGES)
    assert value.estimate.value == pytest.approx(1)
    assert value.chance == pytest.approx(1)


def test_few_images_of_a_class_leave_it_out() -> None:
    run = measured(subject_of(count=64), feature_images=32)
    value = row(run, "realism", "Hair", features="pixels")
    assert math.isnan(value.estimate.value)
    assert "20 are needed" in row(run, "minimality", "Hair", features="pixels").note


def test_zero_feature_images_leave_the_values_out() -> None:
    names = {
        value.name for value in measured(subject_of(count=64), feature_images=0).measurement("intervention").values
    }
    assert not names & {"realism", "realism_frechet", "minimality"}


def test_features_of_the_judge_need_one() -> None:
    value = row(measured(subject_of(count=64), features="judge"), "realism", "Glasses", features="judge")
    assert value.note == "needs a judge"
