"""Likelihoods, compared with SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ccvae_models.likelihood import Likelihood
from scipy import special, stats

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.random_streams import torch_stream


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch_stream(0, "likelihood")
    x = torch.rand(4, 3, 5, 5, generator=generator, dtype=torch.float64)
    return x, 3 * torch.randn(4, 3, 5, 5, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("scale", [1.0, 0.2])
def test_log_prob_equals_scipy(scale: float) -> None:
    x, raw = inputs()
    mean = special.expit(raw.numpy())
    expected = {
        "laplace": stats.laplace.logpdf(x.numpy(), mean, scale),
        "gaussian": stats.norm.logpdf(x.numpy(), mean, scale),
        "bernoulli": special.xlogy(x.numpy(), mean) + special.xlog1py(1 - x.numpy(), -mean),
    }
    for name, density in expected.items():
        got = Likelihood(name, scale, (3, 5, 5)).log_prob(x, raw)  # type: ignore[arg-type]
        np.testing.assert_allclose(got.numpy(), density.sum((1, 2, 3)), rtol=1e-12)


def test_the_mean_of_points_is_unconstrained() -> None:
    x, raw = torch.randn(3, 2), torch.randn(3, 2)
    likelihood = Likelihood("gaussian", 0.5, (2,))
    assert torch.equal(likelihood.mean(raw), raw)
    expected = stats.norm.logpdf(x.numpy(), raw.numpy(), 0.5).sum(1)
    np.testing.assert_allclose(likelihood.log_prob(x, raw).numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "scale", "shape"),
    [
        ("cauchy", 1.0, (3, 4, 4)),
        ("laplace", 0.0, (3, 4, 4)),
        ("gaussian", float("nan"), (3, 4, 4)),
        ("bernoulli", 1.0, (3,)),
    ],
)
def test_invalid_likelihoods_are_refused(name: str, scale: float, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError):
        Likelihood(name, scale, shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("shape", "name"), [((1, 28, 28), "bernoulli"), ((3, 64, 64), "laplace"), ((1,), "laplace"), ((2,), "laplace")]
)
def test_auto_depends_on_the_input_shape(shape: tuple[int, ...], name: str) -> None:
    assert Likelihood("auto", 1.0, shape).name == name
