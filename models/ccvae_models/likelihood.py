"""p(x|z): how far an image lies from what the decoder says, in nats."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Images, Points

LikelihoodName = Literal["auto", "laplace", "gaussian", "bernoulli"]
GREY = 1


class Likelihood:
    """log p(x|z), its constants included, summed over pixels and channels.

    Args:
        name: "laplace" (Joy et al.), "gaussian", "bernoulli" (the cross-entropy of pixels in [0, 1]), or "auto":
            "bernoulli" for images of one channel, else "laplace". A Laplace's best guess is the median, and of pen
            strokes that is black: on MNIST a decoder that says so and forgets its code is where training ends.
        scale: the Laplace's scale or the Gaussian's standard deviation; unused by "bernoulli".
        input_shape: images (C, H, W), whose mean is a sigmoid, or points (D,), whose mean is free.
    """

    def __init__(self, name: LikelihoodName, scale: float, input_shape: tuple[int, ...]) -> None:
        if name not in get_args(LikelihoodName):
            raise UsageError(f"likelihood {name!r} is unknown", hint=f"One of {', '.join(get_args(LikelihoodName))}.")
        if not scale > 0 or math.isinf(scale):
            raise UsageError(f"likelihood_scale {scale} is not a positive number")
        self.images = len(input_shape) == 3
        if name == "auto":
            name = "bernoulli" if self.images and input_shape[0] == GREY else "laplace"
        if name == "bernoulli" and not self.images:
            raise UsageError("a bernoulli likelihood is for images", hint="For points: likelihood=gaussian.")
        self.name, self.scale = name, scale

    def mean(self, raw: Tensor) -> Images | Points:
        """The mean of p(x|z) from the decoder's raw output."""
        return torch.sigmoid(raw) if self.images else raw

    def log_prob(self, x: Images | Points, raw: Tensor) -> Tensor:
        """log p(x|z) of each row, shape (N,)."""
        if self.name == "bernoulli":
            return -_sum(functional.binary_cross_entropy_with_logits(raw, x, reduction="none"))
        distance = self.mean(raw) - x
        values = distance.shape[1:].numel()
        if self.name == "laplace":
            return -_sum(distance.abs()) / self.scale - values * math.log(2 * self.scale)
        squares = _sum((distance / self.scale).square())
        return -0.5 * squares - values * math.log(self.scale * math.sqrt(2 * math.pi))


def _sum(each: Tensor) -> Tensor:
    """Over all but the rows; not flattened first, which copies images that have their channels last."""
    return each.sum(tuple(range(1, each.ndim)))
