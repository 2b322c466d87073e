"""Samples of q(z|x,y), compared with numerical integration."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ccvae_models.label_posterior_sampling import LINE_NODES, label_conditioned_noise, quantile
from scipy import integrate, stats
from torch import Tensor

from ccvae_eval.core.types import Gaussian

pytestmark = pytest.mark.oracle


def _moments(weight: Tensor, bias: Tensor, value: int) -> tuple[float, float, float]:
    """Integrals of e^k q(y|e) phi(e) for k = 0, 1, 2, for a classifier of one latent dimension with m = 0 and s = 1."""

    def class_probability(e: float) -> float:
        logits = (weight[:, 0] * e + bias).double().numpy()
        if len(logits) == 1:
            logits = np.array([-logits[0], logits[0]]) / 2
        shifted = np.exp(logits - logits.max())
        return float(shifted[value] / shifted.sum())

    return tuple(
        integrate.quad(lambda e, k=k: e**k * class_probability(e) * stats.norm.pdf(e), -9, 9, points=[0])[0]
        for k in range(3)
    )  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("weight", "bias", "value"),
    [
        ([[1.0]], [0.0], 1),
        ([[1.0]], [0.0], 0),
        ([[-3.0]], [1.0], 1),
        ([[8.0]], [-6.0], 1),
        ([[1.0], [-0.5], [0.2]], [0.0, 0.3, -1.0], 2),
        ([[4.0], [0.0], [-4.0]], [0.0, 0.0, 0.0], 1),
    ],
)
def test_samples_have_the_moments_of_the_density(weight: list[list[float]], bias: list[float], value: int) -> None:
    w, b, n = torch.tensor(weight), torch.tensor(bias), 8_000
    ranks = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    noise = torch.from_numpy(stats.norm.ppf(ranks.numpy())).float().reshape(n, 1, 1)
    q = Gaussian(torch.zeros(n, 1, 1), torch.ones(n, 1, 1))
    e = label_conditioned_noise(q, w[None], b[None], torch.full((n, 1), value), noise)[:, 0, 0].double()
    total, mean, square = _moments(w, b, value)
    # the ranks are evenly spaced, so the mean is a midpoint sum
    assert e.mean().item() == pytest.approx(mean / total, abs=5e-4)
    assert e.square().mean().item() == pytest.approx(square / total, abs=5e-3)


def test_the_pathwise_gradient_is_the_gradient_of_the_expectation() -> None:
    """d/dtheta E[e^2], compared with a finite difference of integrals."""
    n = 5_000
    noise = torch.from_numpy(stats.norm.ppf((np.arange(n) + 0.5) / n)).float().reshape(n, 1, 1)
    q = Gaussian(torch.zeros(n, 1, 1), torch.ones(n, 1, 1))
    for start_weight, start_bias in ((1.5, 0.5), (-4.0, 1.0)):
        weight = torch.tensor([[[start_weight]]], requires_grad=True)
        bias = torch.tensor([[start_bias]], requires_grad=True)
        e = label_conditioned_noise(q, weight, bias, torch.ones(n, 1, dtype=torch.long), noise)
        e.square().mean().backward()

        def moment(w: float, b: float) -> float:
            total, _, square = _moments(torch.tensor([[w]], dtype=torch.float64), torch.tensor([b]).double(), 1)
            return square / total

        h = 1e-3
        d_weight = (moment(start_weight + h, start_bias) - moment(start_weight - h, start_bias)) / (2 * h)
        d_bias = (moment(start_weight, start_bias + h) - moment(start_weight, start_bias - h)) / (2 * h)
        assert weight.grad is not None
        assert bias.grad is not None
        assert weight.grad.item() == pytest.approx(d_weight, rel=5e-3, abs=1e-3)
        assert bias.grad.item() == pytest.approx(d_bias, rel=5e-3, abs=1e-3)


@pytest.mark.parametrize("classes", [3, 5])
def test_two_dimensions_have_the_moments_of_a_sum_over_a_fine_grid(classes: int) -> None:
    generator = torch.Generator().manual_seed(classes)
    weight = torch.randn(1, classes, 2, generator=generator) * 2
    bias = torch.randn(1, classes, generator=generator)
    n, value = 2_000, 1
    noise = torch.randn(n, 1, 2, generator=generator)
    q = Gaussian(torch.zeros(n, 1, 2), torch.ones(n, 1, 2))
    e = label_conditioned_noise(q, weight, bias, torch.full((n, 1), value), noise)[:, 0].double()
    line = torch.linspace(-8, 8, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    log_q = torch.log_softmax(grid @ weight[0].double().T + bias[0].double(), 1)[:, value]
    mass = torch.softmax(log_q - grid.square().sum(1) / 2, 0)
    for j in (0, 1):
        expected = (mass * grid[:, j]).sum().item()
        error = e[:, j].std().item() / n**0.5
        assert e[:, j].mean().item() == pytest.approx(expected, abs=4 * error)
    product = e[:, 0] * e[:, 1]
    expected = (mass * grid[:, 0] * grid[:, 1]).sum().item()
    assert product.mean().item() == pytest.approx(expected, abs=4 * product.std().item() / n**0.5)


def test_a_binary_label_changes_the_density_along_its_logit_only() -> None:
    generator = torch.Generator().manual_seed(0)
    n = 5_000
    weight, bias = torch.tensor([[[3.0, 4.0]]]), torch.zeros(1, 1)
    q = Gaussian(torch.zeros(n, 1, 2), torch.ones(n, 1, 2))
    e = label_conditioned_noise(
        q, weight, bias, torch.ones(n, 1, dtype=torch.long), torch.randn(n, 1, 2, generator=generator)
    )
    along = e[:, 0] @ torch.tensor([0.6, 0.8])
    across = e[:, 0] @ torch.tensor([-0.8, 0.6])
    total, mean, _ = _moments(torch.tensor([[5.0]]), torch.zeros(1), 1)
    assert along.mean().item() == pytest.approx(mean / total, abs=4 * along.std().item() / n**0.5)
    assert stats.kstest(across.numpy(), "norm").pvalue > 0.001


def test_a_constant_classifier_leaves_the_noise_unchanged() -> None:
    noise = torch.linspace(-3, 3, 41).reshape(41, 1, 1)
    q = Gaussian(torch.zeros(41, 1, 1), torch.ones(41, 1, 1))
    e = label_conditioned_noise(q, torch.zeros(1, 1, 1), torch.zeros(1, 1), torch.ones(41, 1, dtype=torch.long), noise)
    torch.testing.assert_close(e, noise, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("weight", "bias"), [(2.0, -60.0), (-3.0, -300.0), (0.5, -1e4)])
def test_extreme_odds_shift_the_noise_by_the_weight(weight: float, bias: float) -> None:
    """If sigmoid(b + w e) = exp(b + w e) everywhere, phi(e) exp(w e) is a Gaussian with mean w, so e = noise + w."""
    noise = torch.linspace(-3, 3, 41).reshape(41, 1, 1)
    q = Gaussian(torch.zeros(41, 1, 1), torch.ones(41, 1, 1))
    w, b = torch.full((1, 1, 1), weight, requires_grad=True), torch.full((1, 1), bias, requires_grad=True)
    e = label_conditioned_noise(q, w, b, torch.ones(41, 1, dtype=torch.long), noise)
    torch.testing.assert_close(e.detach(), noise + weight, atol=2e-4, rtol=0)
    d_weight, d_bias = torch.autograd.grad(e.mean(), (w, b))
    assert d_weight.item() == pytest.approx(1, abs=1e-3)
    assert d_bias.item() == pytest.approx(0, abs=1e-4)


def test_the_quantile_is_monotone_in_its_rank() -> None:
    line = torch.linspace(-8, 8, LINE_NODES, dtype=torch.float64)
    log_density = (-line.square() / 2 + torch.nn.functional.logsigmoid(30 * (line - 1))).expand(500, -1)
    rank = torch.linspace(0.001, 0.999, 500, dtype=torch.float64)
    found = quantile(log_density.exp(), torch.zeros(500, 1, LINE_NODES, dtype=torch.float64), rank)
    assert bool((found.point.diff() > 0).all())
    differences = torch.gradient(found.point, spacing=(rank,))[0]
    torch.testing.assert_close(found.d_rank[25:-25], differences[25:-25], rtol=0.01, atol=0)


@pytest.mark.parametrize(("classes", "columns"), [(2, 1), (2, 3), (3, 1), (4, 2)])
def test_gradcheck_of_the_samples(classes: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(classes + columns)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rows = 1 if classes == 2 else classes
    loc, scale = normal(4, 2, columns), normal(4, 2, columns).exp()
    weight, bias = normal(2, rows, columns), normal(2, rows)
    value, noise = torch.tensor([[0, 1]] * 4), normal(4, 2, columns)

    def samples(m: Tensor, s: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return label_conditioned_noise(Gaussian(m, s), w, b, value, noise)

    inputs = tuple(tensor.requires_grad_() for tensor in (loc, scale, weight, bias))
    assert torch.autograd.gradcheck(samples, inputs, eps=1e-4, atol=1e-4, rtol=1e-3)
