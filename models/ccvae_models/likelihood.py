"""The likelihood p(x|z), in nats."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Images, Points

LikelihoodName = Literal["auto", "laplace", "gaussian", "bernoulli"]
GRAYSCALE = 1
"""Number of channels of a grayscale image."""


class Likelihood:
    """log p(x|z) with its normalising constants, summed over pixels and channels.

    Args:
        name: "laplace" (Joy et al. 2021), "gaussian", "bernoulli" (cross-entropy of pixels in [0, 1]), or "auto":
            "bernoulli" for grayscale images, else "laplace". The Laplace's optimal constant prediction is the median
            pixel; on MNIST that is black everywhere, and training collapses to it.
        scale: the Laplace's scale or the Gaussian's standard deviation; unused by "bernoulli".
        input_shape: (C, H, W) for images, whose mean passes through a sigmoid, or (D,) for points, whose mean is
            unconstrained.

    Raises:
        UsageError: an unknown name, a scale that is not positive and finite, or "bernoulli" for points.
    """

    def __init__(self, name: LikelihoodName, scale: float, input_shape: tuple[int, ...]) -> None:
        if name not in get_args(LikelihoodName):
            raise UsageError(f"likelihood {name!r} is unknown", hint=f"One of {', '.join(get_args(LikelihoodName))}.")
        if not scale > 0 or math.isinf(scale):
            raise UsageError(f"likelihood_scale must be positive and finite, got {scale}")
        self.images = len(input_shape) == 3
        if name == "auto":
            name = "bernoulli" if self.images and input_shape[0] == GRAYSCALE else "laplace"
        if name == "bernoulli" and not self.images:
            raise UsageError("likelihood=bernoulli needs images", hint="For points, use likelihood=gaussian.")
        self.name, self.scale = name, scale

    def mean(self, raw: Tensor) -> Images | Points:
        """Mean of p(x|z) from the decoder's raw output."""
        return torch.sigmoid(raw) if self.images else raw

    def log_prob(self, x: Images | Points, raw: Tensor) -> Tensor:
        """log p(x|z) of each row, shape (N,)."""
        if self.name == "bernoulli":
            return -_sum(functional.binary_cross_entropy_with_logits(raw, x, reduction="none"))
        residual = self.mean(raw) - x
        values = residual.shape[1:].numel()
        if self.name == "laplace":
            return -_sum(residual.abs()) / self.scale - values * math.log(2 * self.scale)
        squares = _sum((residual / self.scale).square())
        return -0.5 * squares - values * math.log(self.scale * math.sqrt(2 * math.pi))


def _sum(values: Tensor) -> Tensor:
    """Sum over all but the first dimension; flattening first would copy images in channels-last order."""
    return values.sum(tuple(range(1, values.ndim)))
