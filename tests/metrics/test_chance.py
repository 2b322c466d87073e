"""Chance levels against models that realise the null."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ccvae_eval.core.types import Gaussian
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.density.metric import Density
from ccvae_eval.metrics.drift.metric import Drift
from ccvae_eval.metrics.generation.metric import Generation
from ccvae_eval.metrics.intervention.metric import Interventions
from ccvae_eval.metrics.locality.metric import Locality
from ccvae_eval.metrics.reconstruction.metric import Reconstruction
from ccvae_eval.metrics.shared.likelihood import Generate
from tests.support.fakes import PlainSquaresVAE, Squares, SquaresJudge, SquaresVAE

pytestmark = pytest.mark.oracle

COUNT = 64


class Still(SquaresVAE):
    """Ignores the latent dimensions of its labels when decoding."""

    def decode(self, codes):
        plain = codes.clone()
        plain[:, self.layout.characteristic_columns] = 0.0
        return super().decode(plain)


class MeanImage(PlainSquaresVAE):
    """Decodes every code to the mean image."""

    def __init__(self, images):
        super().__init__()
        self.mean = images.double().mean(0).float()

    def decode(self, codes):
        return self.mean.expand(len(codes), -1, -1, -1)


class Uninformative(PlainSquaresVAE):
    """The posterior is the prior."""

    def encode(self, images, labels=None):
        q = super().encode(images, labels)
        return Gaussian(torch.zeros_like(q.loc), torch.ones_like(q.scale))


def measured(model, metric, count=COUNT, judge=None):
    subject = prepare(model, Squares(count), np.arange(count), judge=judge)
    run = measure(subject, [metric])
    assert run.measurements[0].status == "ok", run.measurements[0].reason
    return run.measurements[0]


def row(found, name, characteristic=None, **at):
    rows = [v for v in found.values if v.name == name and v.characteristic == characteristic]
    return next(v for v in rows if at.items() <= dict(v.at).items())


def test_the_mean_image_scores_the_chance_level_of_similarity():
    images = Squares(COUNT).batch(np.arange(COUNT)).images
    found = measured(MeanImage(images), Reconstruction(importance=0, gap_images=0))
    for name in ("mse", "psnr", "ssim"):
        assert row(found, name).estimate.value == pytest.approx(row(found, name).chance, rel=1e-5)


def test_an_uninformative_posterior_scores_the_chance_level_of_likelihoods():
    found = measured(Uninformative(), Reconstruction(importance=4, code="sample"), count=256)
    for name in ("reconstruction", "elbo", "iwae"):
        value = row(found, name)
        # chance is measured on the first 64 images with samples of its own
        spread = 4 * (value.estimate.high - value.estimate.low)
        assert value.estimate.value == pytest.approx(value.chance, abs=spread), name
    assert row(found, "kl").estimate.value == pytest.approx(row(found, "kl").chance, abs=1e-6)
    informed = measured(PlainSquaresVAE(), Reconstruction(importance=4), count=256)
    assert row(informed, "iwae").estimate.low > row(informed, "iwae").chance


def test_an_edit_without_effect_scores_the_chance_level():
    metric = Interventions(axiom_images=0, draws=4)
    found = measured(Still(), metric, judge=SquaresJudge())
    for name, at in (("error", {"where": "inside"}), ("error", {"where": "outside"}), ("energy", {}), ("change", {})):
        value = row(found, name, "Glasses" if name != "change" else None, **at)
        if value.estimate.defined:
            assert value.estimate.value == pytest.approx(value.chance, abs=1e-6), (name, at)
    assert row(found, "energy", "Glasses").estimate.defined
    assert row(found, "error", "Glasses", where="inside").estimate.defined
    moved = measured(SquaresVAE(), metric, judge=SquaresJudge())
    assert row(moved, "error", "Glasses", where="inside").estimate.high < row(moved, "error", "Glasses").chance
    assert row(moved, "energy", "Glasses").estimate.high < row(moved, "energy", "Glasses").chance
    assert row(moved, "identity", "Glasses").estimate.value < row(moved, "identity", "Glasses").chance


def test_chance_levels_of_locality_are_those_of_the_posteriors_noise():
    found = measured(SquaresVAE(scale=0.3), Locality(steps=3))
    assert row(found, "changed", "Glasses").chance == 0.5
    assert row(found, "magnitude", "Glasses").chance == pytest.approx(row(found, "floor", "Glasses").estimate.value)
    assert row(found, "monotone", "Glasses").chance == 0.5
    noiseless = measured(SquaresVAE(scale=0.0), Locality(steps=5))
    assert row(noiseless, "changed", "Glasses").chance == 0.0
    assert row(noiseless, "evenness", "Glasses").chance == 0.25


def test_every_row_of_a_dose_has_a_chance_level():
    found = measured(SquaresVAE(scale=0.1), Drift(doses=(0.5, 1.0)))
    doses = [v for v in found.values if "dose" in v.at and v.estimate.defined]
    assert doses
    assert all(v.chance is not None for v in doses)


def test_chance_of_prior_gap_is_the_distance_of_permuted_codes():
    found = measured(SquaresVAE(), Density(curve_draws=20, permutations=2), count=240)
    gap = row(found, "prior_gap", "Glasses")
    # means +-2, deviation .5: half of the codes lie 8 deviations away
    assert gap.chance == pytest.approx(4.0, abs=0.4)
    assert gap.estimate.high < gap.chance


class Shuffled(PlainSquaresVAE):
    """Decodes each chunk to its images with every pixel taken from a random one of the same 32."""

    def __init__(self, images):
        super().__init__()
        self.chunks, self.generator = list(images.split(32)), np.random.default_rng(0)

    def decode(self, codes):
        flat = self.chunks.pop(0).flatten(2)
        rows = torch.from_numpy(self.generator.integers(32, size=(32, 1, flat.shape[2])))
        return torch.take_along_dim(flat, rows, 0).reshape(len(codes), *Squares(1).input_shape)


def test_unstructured_pixels_score_the_chance_level_of_generation():
    images = Squares(256).batch(np.arange(256)).images
    found = measured(Shuffled(images), Generation(), count=256)
    frechet = row(found, "frechet")
    assert frechet.estimate.value == pytest.approx(frechet.chance, rel=0.15)
    kernel = row(found, "kernel")
    assert kernel.estimate.low <= kernel.chance <= kernel.estimate.high


def test_labels_are_sampled_with_their_frequencies():
    subject = prepare(SquaresVAE(), Squares(600), np.arange(600))
    drawn = torch.cat([Generate().classes("Hair", subject, chunk) for chunk in subject.chunks()])
    true = np.bincount(subject.classes("Hair").numpy(), minlength=3) / 600
    assert np.bincount(drawn.numpy(), minlength=3) / 600 == pytest.approx(true, abs=0.08)
