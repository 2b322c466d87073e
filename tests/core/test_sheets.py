"""Sheets keep the order and the shape of their pictures."""

from __future__ import annotations

import numpy as np
import pytest

from ccvae_eval.core import sheets


@pytest.mark.parametrize("shape", [(3, 8, 8, 1), (20, 8, 16, 3), (2, 5, 16, 8, 3), (1, 2, 3, 8, 8, 1)])
def test_a_decoded_sheet_is_close_to_its_pictures(shape: tuple[int, ...]) -> None:
    count = int(np.prod(shape[:-3]))
    shades = np.linspace(0, 255, count).astype(np.uint8).reshape(*shape[:-3], 1, 1, 1)
    pictures = np.broadcast_to(shades, shape)
    assert sheets.fits(pictures)
    back = sheets.decoded(sheets.encoded(pictures, 90), shape)
    assert back.shape == shape
    assert np.abs(back.astype(int) - pictures).max() <= 12


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 4, 4, 3), np.float32),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 2), np.uint8),
        np.zeros((0, 4, 4, 3), np.uint8),
        np.zeros((1, 5000, 4, 1, 3), np.uint8),
    ],
)
def test_what_is_no_row_of_pictures_or_too_large_does_not_fit(array: np.ndarray) -> None:  # type: ignore[type-arg]
    assert sheets.fits(array) == (array.shape[1] == 5000)
    assert not sheets.fits(np.zeros((1, 20_000, 4, 1, 3), np.uint8))


def test_a_sheet_of_another_size_is_refused() -> None:
    content = sheets.encoded(np.zeros((2, 8, 8, 3), np.uint8), 90)
    with pytest.raises(ValueError, match="is not one of pictures"):
        sheets.decoded(content, (3, 8, 8, 3))
