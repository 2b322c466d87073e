"""Bilinear resizing to the bit as Pillow does it, on which published results for resized digits rest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FRACTION_BITS = 22
"""Of Pillow's fixed-point weights (its PRECISION_BITS for 8-bit images)."""
BLOCK = 2048
"""Images resized at a time."""


def bilinear(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Square images of another size, the triangle filter of Pillow's ``BILINEAR`` (it widens when shrinking).

    Args:
        images: shape :math:`(N, H, W)`.
        size: edge of the result.

    Returns:
        Shape :math:`(N, size, size)`. Rows are rounded to bytes before columns, as Pillow does.

    >>> bilinear(np.array([[[0, 100], [0, 100]]], np.uint8), 4)[0, 0]
    array([  0,  25,  75, 100], dtype=uint8)
    """
    resized = np.empty((len(images), size, size), np.uint8)
    for first in range(0, len(images), BLOCK):
        across = _along_rows(images[first : first + BLOCK], size)
        resized[first : first + BLOCK] = _along_rows(across.swapaxes(1, 2), size).swapaxes(1, 2)
    return resized


def _along_rows(images: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Every row at another length, rounded to bytes, shape (N, H, size)."""
    count, height, width = images.shape
    sums = images.reshape(count * height, width).astype(np.float64) @ _weights(width, size).T
    rounded = np.clip(np.floor(sums / 2**FRACTION_BITS + 0.5), 0, 255).astype(np.uint8)
    return np.asarray(rounded.reshape(count, height, size))


def _weights(old: int, new: int) -> NDArray[np.float64]:
    """How much each old pixel gives to each new one, in whole units of 2^-22, shape (new, old)."""
    scale = old / new
    reach = max(scale, 1.0)
    centers = (np.arange(new)[:, None] + 0.5) * scale
    low = np.maximum(np.floor(centers - reach + 0.5), 0)
    high = np.minimum(np.floor(centers + reach + 0.5), old)
    pixels = np.arange(old)[None, :]
    weights = np.clip(1 - np.abs(pixels - centers + 0.5) / reach, 0, None) * ((pixels >= low) & (pixels < high))
    return np.asarray(np.floor(weights / weights.sum(axis=1, keepdims=True) * 2**FRACTION_BITS + 0.5))
