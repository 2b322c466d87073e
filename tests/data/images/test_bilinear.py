"""Bilinear resizing."""

import numpy as np
import pytest

from ccvae_eval.data.images.decode import bilinear


@pytest.mark.parametrize("size", [5, 14, 28, 32, 64])
def test_it_is_a_triangle_filter_that_widens_when_shrinking(size: int) -> None:
    images = np.random.default_rng(size).integers(0, 256, (4, 28, 28), dtype=np.uint8)
    scale = 28 / size
    centers = (np.arange(size)[:, None] + 0.5) * scale
    weights = np.clip(1 - np.abs(np.arange(28) + 0.5 - centers) / max(scale, 1.0), 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    found = bilinear(images, size)
    assert (found.shape, found.dtype) == ((4, size, size), np.uint8)
    assert np.abs(found - weights @ images @ weights.T).max() <= 1  # rounded to bytes twice


def test_no_images() -> None:
    assert bilinear(np.empty((0, 28, 28), np.uint8), 32).shape == (0, 32, 32)
