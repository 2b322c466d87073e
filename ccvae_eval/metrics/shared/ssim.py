"""Structural similarity of two images, with what belongs to one image computed once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ccvae_eval.core.types import Floats, Images

SIGMA = 1.5
C1, C2 = 0.01**2, 0.03**2
"""The window's deviation and the constants of Wang et al. (2004), for images in [0, 1]."""

MIDDLE = 0.5
"""Of what a pixel can be."""

NOTHING = 1e-4
"""What float32 may make of two flat images that differ in no grey level: a mean dissimilarity below it is none."""

ROUNDING = (1 / 255) ** 2 / 12
"""Mean squared error of rounding a pixel to 8 bits: below it, no error can be told from it."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Grey images less .5, mirrored at the borders, with their local means and mean squares, of shape (N, H, W).

    Less .5, because a variance is a difference of both: rounding grows with the square of what is squared.
    """

    mirrored: Tensor
    mean: Tensor
    square: Tensor
    window: int


def moments(grey: Tensor, window: int = 7) -> Moments:
    """What one side of an SSIM needs: once for each image, however many it is compared with.

    Args:
        grey: shape (N, H, W), in [0, 1].
        window: taps of the Gaussian window on a side, odd.
    """
    mirrored = _mirrored(grey - MIDDLE, window // 2)
    mean, square = _blurred(torch.stack([mirrored, mirrored.square()]), window)
    return Moments(mirrored, mean, square, window)


def dissimilarity(one: Moments, other: Moments) -> Tensor:
    r"""1 - SSIM at every pixel, exactly 0 where both images are equal throughout the window.

    .. math:: SSIM = \frac{(2 \mu_x \mu_y + C_1)(2 \sigma_{xy} + C_2)}
        {(\mu_x^2 + \mu_y^2 + C_1)(\sigma_x^2 + \sigma_y^2 + C_2)}

    Wang, Bovik, Sheikh and Simoncelli (2004), with a Gaussian window of deviation 1.5 and mirrored borders, as in
    ``kornia.metrics.ssim``; the images are the channels of one grouped convolution (measured at 64 pixels: half of the
    time of two matrix products for each map, a fifth at 128).

    Returns:
        shape (N, H, W), in [0, 2].

    >>> flat = moments(torch.zeros(1, 8, 8))
    >>> float(dissimilarity(flat, flat).max())
    0.0
    """
    product = one.mean * other.mean
    covariance = _blurred((one.mirrored * other.mirrored)[None], one.window)[0].sub_(product)
    squares = one.mean.square().add_(other.mean.square())
    variances = (one.square + other.square).sub_(squares)
    # (m + 1/2) (n + 1/2) = m n + (m + n + 1/2) / 2
    shift = (one.mean + other.mean).add_(2 * MIDDLE**2 + C1)
    above = product.mul_(2).add_(shift).mul_(covariance.mul_(2).add_(C2))
    below = squares.add_(shift).mul_(variances.add_(C2))
    return above.div_(below).neg_().add_(1).clamp_min_(0)  # rounding may carry it below


def likeness(images: Images, rebuilt: Images, window: int) -> dict[str, Floats]:
    r"""How like an image another one is, pair by pair.

    Args:
        images, rebuilt: shape :math:`(N, C, H, W)`, in [0, 1]; or points, shape :math:`(N, D)`.
        window: the side of the window of SSIM, in pixels.

    Returns:
        ``mse``; for images ``psnr`` in dB, an error below that of rounding to 8 bits counting as that, and, where they
        are larger than half a window, ``ssim``, mean over pixels and channels; shape :math:`(N,)` each.
    """
    mse: Floats = (images.double() - rebuilt.double()).square().flatten(1).mean(1).cpu().numpy()
    found = {"mse": mse}
    if images.ndim == 4:
        found["psnr"] = -10 * np.log10(np.maximum(mse, ROUNDING))
        if min(images.shape[2:]) > window // 2:
            # a channel at a time: all at once leave the processor's cache (twice the time)
            similar = [
                1 - dissimilarity(moments(x, window), moments(r, window)).double().mean((1, 2))
                for x, r in zip(images.unbind(1), rebuilt.unbind(1), strict=True)
            ]
            # rounding may carry it above 1
            found["ssim"] = torch.stack(similar, 1).mean(1).clamp_max(1).cpu().numpy()
    return found


def _blurred(maps: Tensor, window: int) -> Tensor:
    """Weighted means over the windows that lie inside, shape (M, N, H, W)."""
    count = maps.shape[1]
    return functional.conv2d(maps, _filters(count, window, maps.device), groups=count)


@lru_cache(maxsize=16)
def _filters(count: int, window: int, device: torch.device) -> Tensor:
    """The window for each of some images, shape (count, 1, window, window)."""
    taps = np.exp(-0.5 * ((np.arange(window) - window // 2) / SIGMA) ** 2)
    taps /= taps.sum()
    return torch.from_numpy(np.outer(taps, taps)).float().repeat(count, 1, 1, 1).to(device)


def _mirrored(maps: Tensor, margin: int) -> Tensor:
    """Maps with their borders mirrored, however small they are, shape (N, H + 2 margin, W + 2 margin)."""
    height, width = maps.shape[1:]
    place = _mirrors(height, width, margin, maps.device)
    return maps.flatten(1).index_select(1, place).reshape(-1, height + 2 * margin, width + 2 * margin)


@lru_cache(maxsize=16)
def _mirrors(height: int, width: int, margin: int, device: torch.device) -> Tensor:
    """Which pixel each one of a mirrored map shows."""
    down, across = (np.pad(np.arange(side), margin, mode="reflect") for side in (height, width))
    return torch.from_numpy((down[:, None] * width + across).ravel()).to(device)
