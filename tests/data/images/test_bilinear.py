from __future__ import annotations

import numpy as np
import pytest

from ccvae_eval.data.images.decode import BLOCK, bilinear

Image = pytest.importorskip("PIL.Image", reason="Pillow comes with matplotlib")


@pytest.mark.parametrize("size", [1, 7, 14, 27, 28, 29, 32, 64, 100])
def test_it_equals_pillow_in_every_bit(size: int) -> None:
    images = np.random.default_rng(size).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    expected = [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)) for image in images]
    assert np.array_equal(bilinear(images, size), expected)


def test_the_result_does_not_depend_on_blocks() -> None:
    images = np.random.default_rng(0).integers(0, 256, (BLOCK + 3, 4, 4), dtype=np.uint8)
    assert np.array_equal(bilinear(images, 6)[-4:], bilinear(images[-4:], 6))
