"""Worse copies of an image: what the judge must still read, since it will look at a model's blurry pictures."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

from ccvae_eval.types import Images

REFERENCE_EDGE = 64
BLUR = (0.4, 2.0)
"""Deviations of the blur, in pixels of an image of 64."""
SHRINKAGE = (1.5, 4.0)
GAIN, OFFSET, NOISE = 0.12, 0.06, 0.03


def blurred(images: Images, deviation: float) -> Images:
    """A Gaussian blur; the edge is continued by its own pixels.

    >>> blurred(torch.ones(1, 1, 4, 4), 1.0).allclose(torch.ones(1, 1, 4, 4))
    True
    """
    reach = min(math.ceil(2.5 * deviation), min(images.shape[-2:]) - 1)
    channels = images.shape[1]
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1, dtype=images.dtype) / deviation).square())
    kernel = (kernel / kernel.sum()).to(images.device).expand(channels, 1, -1)
    wide = functional.pad(images, (reach, reach, reach, reach), mode="replicate")
    across = functional.conv2d(wide, kernel[:, :, None, :], groups=channels)
    return functional.conv2d(across, kernel[:, :, :, None], groups=channels)


def rescaled(images: Images, factor: float) -> Images:
    """The images, scaled down by a factor and up again."""
    size = [max(2, round(edge / factor)) for edge in images.shape[-2:]]
    small = functional.interpolate(images, size, mode="bilinear", antialias=True)
    return functional.interpolate(small, images.shape[-2:], mode="bilinear")


def degraded(images: Images, generator: Generator) -> Images:
    """A third of the rows blurred and a third scaled down and up (the same for all rows of the call), the rest sharp;
    then brightness and contrast of each image changed a little and slight noise added.

    Args:
        images: shape :math:`(N, C, H, W)`, not changed.
        generator: what every choice is drawn from.
    """
    third = len(images) // 3
    blur, shrinkage = (low + (high - low) * _uniform(generator) for low, high in (BLUR, SHRINKAGE))
    unit = min(images.shape[-2:]) / REFERENCE_EDGE
    parts = [
        blurred(images[:third], max(blur * unit, 0.1)),
        rescaled(images[third : 2 * third], 1 + (shrinkage - 1) * min(unit, 1)),
        images[2 * third :],
    ]
    degree = torch.rand(2, len(images), 1, 1, 1, generator=generator) * 2 - 1
    noise = torch.randn(images.shape, generator=generator)
    worse = torch.cat(parts).mul_(1 + GAIN * degree[0]).add_(OFFSET * degree[1])
    return worse.add_(noise, alpha=NOISE * _uniform(generator)).clamp_(0, 1)


def _uniform(generator: Generator) -> float:
    return float(torch.rand((), generator=generator))


def softened(images: Images) -> Tensor:
    """One fixed, strong degradation for the record: a blur of 1.5 pixels in 64."""
    return blurred(images, 1.5 * min(images.shape[-2:]) / REFERENCE_EDGE)
