"""Reconstruction against kornia, closed forms, SciPy, and the published losses of a third-party checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import kornia
import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import multivariate_normal, norm, ttest_ind
from torch import Tensor
from torch.nn import functional

import ccvae_eval
from ccvae_eval.checkpoint import read_bundle
from ccvae_eval.core.errors import NonFiniteError, UsageError
from ccvae_eval.core.types import Gaussian
from ccvae_eval.evaluation.run import Run
from ccvae_eval.evaluation.runner import measure
from ccvae_eval.evaluation.subject import prepare
from ccvae_eval.metrics.reconstruction.metric import Reconstruction
from ccvae_eval.metrics.shared.image_change import ROUNDING
from ccvae_eval.metrics.shared.likelihood import (
    BERNOULLI,
    Mixture,
    bernoulli_log_likelihood,
    log_likelihoods,
    mixture_divergence,
)
from ccvae_eval.model.interface import LabelSchema, LatentLayout
from tests.support.fakes import PlainSquaresVAE, Squares, SquaresVAE, Table
from tests.support.paths import SHARED

pytestmark = pytest.mark.oracle

CHECKPOINT, DIGITS = SHARED / "checkpoints/disvae_VAE_mnist/model.pt", SHARED / "data/mnist/mnist_train.npz"
PUBLISHED_KL, PUBLISHED_RECONSTRUCTION = 19.1159, 111.909


def measured(model: Any, data: Any, metric: Reconstruction | None = None, **more: Any) -> Run:
    return measure(prepare(model, data, np.arange(len(data)), **more), [metric or Reconstruction()])


class SquaringVAE(SquaresVAE):
    """Reconstructs the square of each pixel."""

    def decode(self, codes: Tensor) -> Tensor:
        return super().decode(codes).square()


def test_errors_match_kornia() -> None:
    data = Squares(40)
    run = measured(SquaringVAE(), data, Reconstruction(importance=0))
    x = data.batch(np.arange(40)).images
    mse = [float((a - a**2).square().mean()) for a in x]
    psnr = [float(kornia.metrics.psnr(a, a**2, 1.0)) for a in x]
    ssim = kornia.metrics.ssim(x, x**2, 11).mean((1, 2, 3))
    assert run["reconstruction.mse"] == pytest.approx(np.mean(mse), rel=1e-5)
    assert run["reconstruction.psnr"] == pytest.approx(np.mean(psnr), rel=1e-5)
    assert run["reconstruction.ssim"] == pytest.approx(float(ssim.mean()), rel=1e-4)
    assert run.find("reconstruction.mse").chance == pytest.approx(float((x - x.mean(0)).square().mean()), rel=1e-5)


def test_an_exact_reconstruction_has_the_error_of_rounding() -> None:
    run = measured(SquaresVAE(), Squares(40), Reconstruction(importance=0))
    assert run["reconstruction.mse"] < 1e-12
    assert run["reconstruction.psnr"] == pytest.approx(-10 * np.log10(ROUNDING))
    assert run["reconstruction.ssim"] == pytest.approx(1)


class LinearGaussianVAE(torch.nn.Module):
    """Linear Gaussian model x = W z + b + s e with its exact posterior and evidence."""

    def __init__(self, scale: float = 0.5) -> None:
        super().__init__()
        self.labels, self.layout = LabelSchema(()), LatentLayout(1)
        self.w, self.b, self.s = torch.tensor([0.8, -0.5, 0.3]), torch.tensor([0.1, 0.2, 0.0]), scale

    likelihood_name = "gaussian, scale 0.5"

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Gaussian:
        precision = 1 + self.w.square().sum() / self.s**2
        loc = ((images - self.b) @ self.w / self.s**2 / precision)[:, None]
        return Gaussian(loc, (1 / precision).sqrt().expand_as(loc).clone())

    def decode(self, codes: Tensor) -> Tensor:
        return codes * self.w + self.b

    def log_likelihood(self, images: Tensor, codes: Tensor) -> Tensor:
        return torch.distributions.Normal(self.decode(codes), self.s).log_prob(images).sum(1)

    def evidence(self, images: Tensor) -> float:
        covariance = torch.outer(self.w, self.w) + self.s**2 * torch.eye(3)
        return float(multivariate_normal(self.b.numpy(), covariance.numpy()).logpdf(images.numpy()).mean())


class UnlabelledPoints(Table):
    """Points without labels."""

    input_shape = (3,)

    def __init__(self, points: Tensor) -> None:
        super().__init__(LabelSchema(()), torch.zeros(len(points), 0))
        self.points = points

    def batch(self, ids: Any) -> Any:
        batch = super().batch(ids)
        return replace(batch, images=self.points[torch.from_numpy(np.asarray(ids))])


@pytest.mark.parametrize("samples", [1, 8])
def test_with_the_exact_posterior_iwae_is_the_evidence_whatever_k(samples: int) -> None:
    model, generator = LinearGaussianVAE(), torch.Generator().manual_seed(1)
    points = torch.randn(50, 1, generator=generator) @ model.w[None] + model.b
    points = points + model.s * torch.randn(50, 3, generator=generator)
    run = measured(model, UnlabelledPoints(points), Reconstruction(importance=samples))
    values = {v.name: v for v in run.measurement("reconstruction").values}
    assert values["iwae"].at == {"likelihood": "gaussian, scale 0.5", "K": samples}
    assert values["iwae"].estimate.value == pytest.approx(model.evidence(points), abs=1e-4)
    q = model.encode(points)
    kl = torch.distributions.kl_divergence(
        torch.distributions.Normal(q.loc, q.scale), torch.distributions.Normal(torch.zeros(1), torch.ones(1))
    )
    assert run["reconstruction.kl"] == pytest.approx(float(kl.mean()), rel=1e-5)
    at_mean = -model.log_likelihood(points, q.loc)
    assert run["reconstruction.reconstruction"] == pytest.approx(float(at_mean.mean()), rel=1e-5)
    assert values["psnr"].note == "undefined for points"
    assert np.isnan(values["psnr"].estimate.value)


def test_the_bound_of_an_inexact_posterior_grows_with_k_up_to_the_evidence() -> None:
    class Wide(LinearGaussianVAE):
        def encode(self, images: Tensor, labels: Tensor | None = None) -> Gaussian:
            q = super().encode(images)
            return Gaussian(q.loc, 2 * q.scale)

    model, generator = Wide(), torch.Generator().manual_seed(2)
    points = torch.randn(400, 1, generator=generator) @ model.w[None] + model.b
    points = points + model.s * torch.randn(400, 3, generator=generator)
    runs = [measured(model, UnlabelledPoints(points), Reconstruction(importance=k)) for k in (1, 4, 32)]
    bounds = [run["reconstruction.iwae"] for run in runs]
    assert runs[0]["reconstruction.elbo"] < bounds[1] < bounds[2] < model.evidence(points)


def test_mixture_divergence_matches_numerical_integration() -> None:
    data, model = Squares(64), SquaresVAE(scale=0.3)
    subject = prepare(model, data, np.arange(64))
    given = Gaussian(torch.tensor([[-2.0], [2.0]]).double(), torch.tensor([[0.5], [0.5]]).double())
    log_p = torch.tensor([0.25, 0.75]).double().log()
    found = mixture_divergence(subject, "Glasses", Mixture((0,), given, log_p), draws=4000)

    def integrand(z: float, m: float, s: float) -> float:
        q = norm.pdf(z, m, s)
        p = 0.25 * norm.pdf(z, -2, 0.5) + 0.75 * norm.pdf(z, 2, 0.5)
        return float(q * np.log(q / p)) if q > 0 else 0.0

    for row in (0, 1, 2, 3):
        m, s = float(subject.posterior.loc[row, 0]), float(subject.posterior.scale[row, 0])
        exact = quad(integrand, m - 8 * s, m + 8 * s, args=(m, s))[0]
        assert found[row] == pytest.approx(exact, abs=0.03)


def test_bernoulli_log_likelihood_matches_torch() -> None:
    random = torch.Generator().manual_seed(0)
    x, m = torch.rand(8, 3, 16, 16, generator=random), torch.rand(8, 3, 16, 16, generator=random)
    m[0, 0, 0, :4], x[0, 0, 0, :4] = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 1.0, 1.0, 0.0])
    for means in (m, m.contiguous(memory_format=torch.channels_last)):
        expected = -functional.binary_cross_entropy(means.double(), x.double(), reduction="none").flatten(1).sum(1)
        torch.testing.assert_close(bernoulli_log_likelihood(x, means), expected, rtol=1e-6, atol=1e-4)
        # float64 takes the path without NumPy
        torch.testing.assert_close(bernoulli_log_likelihood(x.double(), means.double()), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_a_likelihood_of_an_image_that_is_not_finite_is_refused(number: float) -> None:
    class Broken(SquaresVAE):
        """Breaks on codes that no image has."""

        def decode(self, codes: Tensor) -> Tensor:
            return torch.where((codes[:, 0] == 7)[:, None, None, None], number, super().decode(codes))

    subject = prepare(Broken(), Squares(4), np.arange(4))
    chunk = next(subject.chunks())
    assert np.isfinite(log_likelihoods(subject, chunk, [chunk.codes, chunk.codes], BERNOULLI)).all()
    unlike = chunk.codes.clone()
    unlike[2, 0] = 7
    with pytest.raises(NonFiniteError, match="the likelihood is NaN or infinite"):
        log_likelihoods(subject, chunk, [chunk.codes, unlike], BERNOULLI)


def test_kl_is_the_sum_of_its_parts_and_has_parts_given_the_label() -> None:
    data, model = Squares(64), SquaresVAE(scale=0.3)
    run = measured(model, data, Reconstruction(importance=4))
    rows = {v.key: v.estimate.value for v in run.measurement("reconstruction").values if v.name == "kl"}
    total = rows["kl", None, ()]
    parts = [rows["kl", name, ()] for name in ("Glasses", "Smile", "Hair")]
    assert total == pytest.approx(sum(parts) + rows["kl", None, (("columns", "style"),)], rel=1e-9)
    subject = prepare(model, data, np.arange(64))
    means = torch.tensor([-2.0, 2.0])[subject.classes("Glasses")]
    q = subject.posterior.columns([0])
    closed = torch.distributions.kl_divergence(
        torch.distributions.Normal(q.loc[:, 0], q.scale[:, 0]), torch.distributions.Normal(means, 0.5)
    )
    assert rows["kl", "Glasses", (("labels", "given"),)] == pytest.approx(float(closed.mean()), rel=1e-5)
    assert rows["kl", "Glasses", ()] > rows["kl", "Glasses", (("labels", "given"),)] - 0.1, (
        "they differ by ln 2 at most"
    )


def test_kl_and_bounds_are_undefined_for_an_encoder_without_noise() -> None:
    run = measured(SquaresVAE(scale=0.0), Squares(40))
    rows = [v for v in run.measurement("reconstruction").values if v.name in ("kl", "elbo", "iwae")]
    assert rows
    assert all(np.isnan(v.estimate.value) and v.note for v in rows)
    assert run["reconstruction.mse"] < 1e-12


def test_a_model_without_characteristics_is_evaluated_on_all_images() -> None:
    run = measured(PlainSquaresVAE(), Squares(60), Reconstruction(importance=2))
    assert run.find("reconstruction.mse").estimate.n == 60
    assert not [v for v in run.measurement("reconstruction").values if v.characteristic]


def test_one_image_with_missing_labels_has_a_value_without_interval() -> None:
    run = measured(SquaresVAE(), Squares(1, missing=0.999), Reconstruction(importance=2))
    value = run.find("reconstruction.mse")
    assert value.estimate.n == 1
    assert np.isnan(value.estimate.low)


@pytest.mark.parametrize(
    "settings", [{"window": 4}, {"importance": -1}, {"draws": 0}, {"code": "both"}, {"likelihood": "l2"}]
)
def test_invalid_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"reconstruction\."):
        Reconstruction(**settings)


class Burgess:
    """The network of Burgess et al. (2018) with the weights of a state_dict."""

    def __init__(self, weights: Any) -> None:
        self.weights = weights

    def layer(self, kind: Any, name: str, x: Tensor, **more: Any) -> Tensor:
        out: Tensor = kind(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"], **more)
        return out

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for i in (1, 2, 3):
            x = self.layer(functional.conv2d, f"encoder.conv{i}", x, stride=2, padding=1).relu()
        x = x.flatten(1)
        for i in (1, 2):
            x = self.layer(functional.linear, f"encoder.lin{i}", x).relu()
        loc, log_variance = self.layer(functional.linear, "encoder.mu_logvar_gen", x).reshape(len(x), -1, 2).unbind(2)
        return loc, (log_variance / 2).exp()

    def decode(self, z: Tensor) -> Tensor:
        for i in (1, 2, 3):
            z = self.layer(functional.linear, f"decoder.lin{i}", z).relu()
        x = z.reshape(len(z), 32, 4, 4)
        for i in (1, 2, 3):
            x = self.layer(functional.conv_transpose2d, f"decoder.convT{i}", x, stride=2, padding=1)
            x = x.relu() if i < 3 else x.sigmoid()
        return x


@pytest.mark.skipif(not (CHECKPOINT.is_file() and DIGITS.is_file()), reason="shared/checkpoints is missing")
def test_published_losses_of_a_public_checkpoint_are_reproduced(tmp_path: Path) -> None:
    network = Burgess(read_bundle(CHECKPOINT).tensors)
    model = ccvae_eval.wrap(encode=network.encode, decode=network.decode, dim=10)
    run = ccvae_eval.evaluate(
        model,
        f"mnist:{DIGITS},size=32",
        ["reconstruction"],
        options={"reconstruction": {"importance": 0}},
        limit=1000,
        cache_dir=tmp_path,
    )
    assert run.header.data["n"] == 1000
    assert run.header.judge is None, "no metric needs a judge"
    assert run["reconstruction.kl"] == pytest.approx(PUBLISHED_KL, abs=1e-3)
    assert run["reconstruction.reconstruction"] == pytest.approx(PUBLISHED_RECONSTRUCTION, abs=0.01)
    assert run.find("reconstruction.reconstruction").at == {"likelihood": "bernoulli"}


def test_gap_is_the_difference_between_test_and_training_error() -> None:
    class OverfittedVAE(SquaresVAE):
        """Reconstructs bright first squares too dark."""

        def decode(self, codes: Tensor) -> Tensor:
            images = super().decode(codes)
            return torch.where((codes[:, :1] > 0)[..., None, None], 0.9 * images, images)

    data = Squares(300)
    subject = prepare(OverfittedVAE(), data, data.split("test"))
    run = measure(replace(subject, trained_on=data.split("train")), [Reconstruction(importance=0, gap_images=64)])
    gap = next(v for v in run.measurement("reconstruction").values if v.name == "gap" and v.at == {"of": "mse"})
    every = {name: data.batch(data.split(name)).images for name in ("train", "test")}
    model = OverfittedVAE()
    errors = {k: (x - model.decode(model.encode(x).loc)).square().mean((1, 2, 3)) for k, x in every.items()}
    assert gap.estimate.low <= float(errors["test"].mean() - errors["train"].mean()) <= gap.estimate.high
    expected = ttest_ind(errors["test"], errors["train"][:64], equal_var=False).confidence_interval()
    assert gap.estimate.high - gap.estimate.low == pytest.approx(expected.high - expected.low, rel=0.3)
    plain = measure(subject, [Reconstruction(importance=0)]).measurement("reconstruction")
    assert "gap" not in {v.name for v in plain.values}
