"""Structural similarity (SSIM) of two images, with the local moments of each image computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.core.types import Floats, Images

SIGMA = 1.5
"""Standard deviation of the Gaussian window, in pixels."""
C1, C2 = 0.01**2, 0.03**2
"""Constants of Wang et al. (2004), for images in [0, 1]."""

MID_GREY = 0.5

NEGLIGIBLE = 1e-4
"""Mean dissimilarity below which two images count as equal: float32 rounding may produce this much on flat images."""

ROUNDING = (1 / 255) ** 2 / 12
"""Mean squared error of rounding a pixel to 8 bits; smaller errors are treated as this one."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Grey images minus .5, mirrored at the borders, with their local means and mean squares of shape (N, H, W).

    Subtracting .5 reduces rounding errors: a variance is a difference of two mean squares.
    """

    mirrored: Tensor
    mean: Tensor
    square: Tensor
    window: int


def moments(grey: Tensor, window: int = 7) -> Moments:
    """Return the local moments of images for :func:`dissimilarity`.

    Args:
        grey: shape (N, H, W), in [0, 1].
        window: side of the Gaussian window in pixels, odd.
    """
    mirrored = _mirrored(grey - MID_GREY, window // 2)
    mean, square = _blurred(torch.stack([mirrored, mirrored.square()]), window)
    return Moments(mirrored, mean, square, window)


def dissimilarity(one: Moments, other: Moments) -> Tensor:
    r"""Return 1 - SSIM at every pixel, exactly 0 where both images are equal throughout the window.

    .. math:: SSIM = \frac{(2 \mu_x \mu_y + C_1)(2 \sigma_{xy} + C_2)}
        {(\mu_x^2 + \mu_y^2 + C_1)(\sigma_x^2 + \sigma_y^2 + C_2)}

    Wang, Bovik, Sheikh and Simoncelli (2004), with a Gaussian window of standard deviation 1.5 and mirrored borders, as
    in ``kornia.metrics.ssim``.

    Returns:
        Shape (N, H, W), in [0, 2].

    >>> flat = moments(torch.zeros(1, 8, 8))
    >>> float(dissimilarity(flat, flat).max())
    0.0
    """
    product = one.mean * other.mean
    covariance = _blurred((one.mirrored * other.mirrored)[None], one.window)[0].sub_(product)
    squares = one.mean.square().add_(other.mean.square())
    variances = (one.square + other.square).sub_(squares)
    # (m + 1/2) (n + 1/2) = m n + (m + n + 1/2) / 2
    shift = (one.mean + other.mean).add_(2 * MID_GREY**2 + C1)
    above = product.mul_(2).add_(shift).mul_(covariance.mul_(2).add_(C2))
    below = squares.add_(shift).mul_(variances.add_(C2))
    return above.div_(below).neg_().add_(1).clamp_min_(0)  # rounding could make it negative


def similarity_scores(images: Images, rebuilt: Images, window: int) -> dict[str, Floats]:
    r"""Return ``mse``, ``psnr`` and ``ssim`` of images and their reconstructions, pair by pair.

    Args:
        images, rebuilt: shape :math:`(N, C, H, W)`, in [0, 1]; or points, shape :math:`(N, D)`.
        window: side of the SSIM window in pixels.

    Returns:
        Each of shape :math:`(N,)`. ``psnr`` is in dB and limited by the error of rounding to 8 bits; ``ssim`` is the
        mean over pixels and channels. Points have ``mse`` only; images not larger than half a window have no ``ssim``.
    """
    mse: Floats = (images.double() - rebuilt.double()).square().flatten(1).mean(1).cpu().numpy()
    found = {"mse": mse}
    if images.ndim == 4:
        found["psnr"] = -10 * np.log10(np.maximum(mse, ROUNDING))
        if min(images.shape[2:]) > window // 2:
            # one channel at a time, to stay in the processor's cache
            similar = [
                1 - dissimilarity(moments(x, window), moments(r, window)).double().mean((1, 2))
                for x, r in zip(images.unbind(1), rebuilt.unbind(1), strict=True)
            ]
            # rounding could exceed 1
            found["ssim"] = torch.stack(similar, 1).mean(1).clamp_max(1).cpu().numpy()
    return found


def _blurred(maps: Tensor, window: int) -> Tensor:
    """Return weighted means over the windows that lie inside, shape (M, N, H, W), by one grouped convolution."""
    count = maps.shape[1]
    return functional.conv2d(maps, _filters(count, window, maps.device), groups=count)


@lru_cache(maxsize=16)
def _filters(count: int, window: int, device: torch.device) -> Tensor:
    """Return the Gaussian window, repeated for each image, shape (count, 1, window, window)."""
    taps = np.exp(-0.5 * ((np.arange(window) - window // 2) / SIGMA) ** 2)
    taps /= taps.sum()
    return torch.from_numpy(np.outer(taps, taps)).float().repeat(count, 1, 1, 1).to(device)


def _mirrored(maps: Tensor, margin: int) -> Tensor:
    """Return maps with mirrored borders, shape (N, H + 2 margin, W + 2 margin); the margin may exceed their size."""
    height, width = maps.shape[1:]
    index = _mirror_index(height, width, margin, maps.device)
    return maps.flatten(1).index_select(1, index).reshape(-1, height + 2 * margin, width + 2 * margin)


@lru_cache(maxsize=16)
def _mirror_index(height: int, width: int, margin: int, device: torch.device) -> Tensor:
    """Return the source pixel of each pixel of a mirrored map."""
    down, across = (np.pad(np.arange(side), margin, mode="reflect") for side in (height, width))
    return torch.from_numpy((down[:, None] * width + across).ravel()).to(device)
