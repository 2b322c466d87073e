from __future__ import annotations

import numpy as np
import pytest

from ccvae_eval.core.errors import DataError
from ccvae_eval.data.memory import Arrays, checked_ids, standard_layout


@pytest.mark.parametrize(
    ("given", "dtype", "expected"),
    [
        ((5, 9, 8), np.uint8, (5, 1, 9, 8)),
        ((5, 9, 8, 3), np.uint8, (5, 3, 9, 8)),
        ((5, 3, 9, 8), np.uint8, (5, 3, 9, 8)),
        ((5, 1, 9, 8), np.float32, (5, 1, 9, 8)),
        ((5, 9, 8, 1), np.float64, (5, 1, 9, 8)),
        ((5, 3, 9, 3), np.uint8, (5, 3, 3, 9)),
        ((5, 3, 9, 3), np.float32, (5, 3, 9, 3)),
        ((5, 7), np.float32, (5, 7)),
        ((5, 9, 8), np.bool_, (5, 1, 9, 8)),
    ],
)
def test_supported_layouts(given: tuple[int, ...], dtype: type, expected: tuple[int, ...]) -> None:
    found = standard_layout(np.zeros(given, dtype), "x")
    assert found.shape == expected
    assert found.dtype in (np.uint8, np.float32)


def test_channels_are_moved_to_the_front() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    found = standard_layout(image, "x")
    for channel in range(3):
        assert np.array_equal(found[0, channel], image[0, :, :, channel])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((5, 8, 8, 4), np.uint8), "1 or 3 channels"),
        (np.zeros((5, 8, 8, 2), np.float32), "1 or 3 channels"),
        (np.zeros((0, 8, 8), np.uint8), "shape"),
        (np.zeros((5, 0, 8), np.uint8), "shape"),
        (np.zeros(5, np.uint8), "shape"),
        (np.zeros((1, 1, 1, 1, 1), np.uint8), "shape"),
        (np.zeros((5, 8, 8), np.uint16), "type uint16"),
        (np.zeros((5, 8, 8), np.int64), "type int64"),
        (np.full((5, 8, 8), np.nan), "NaN"),
        (np.full((5, 8, 8), np.inf), "infinite"),
        (np.full((5, 8, 8), -1.0), "range from -1 to -1.*\n.*from 0 to 1"),
        (np.full((5, 8, 8), 255.0), "from 255"),
        (np.array([["a"]]), "type"),
    ],
)
def test_unsupported_arrays_are_rejected(images: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        standard_layout(images, "x")


def test_points_may_have_any_finite_value() -> None:
    assert standard_layout(np.array([[-5.0, 300.0]]), "x").tolist() == [[-5, 300]]


def test_bytes_are_scaled_to_one() -> None:
    data = Arrays(np.array([[[0, 51], [255, 102]]], np.uint8), [1])
    assert np.allclose(data.batch(np.array([0])).images[0, 0], [[0, 0.2], [1, 0.4]])


def test_ids_are_checked() -> None:
    assert checked_ids([2, 0], 3, "x").dtype == np.int64
    for ids, wrong in (([-1], -1), ([0, 3], 3)):
        with pytest.raises(DataError, match=f"image ids must be from 0 to 2, got {wrong}"):
            checked_ids(np.array(ids), 3, "x")


def test_the_digest_covers_images_labels_names_and_splits() -> None:
    images, labels = np.zeros((4, 2, 2), np.uint8), np.array([0, 1, 0, 1])
    other = images.copy()
    other[3, 1, 1] = 1
    made = [
        Arrays(images, labels, ["a"]),
        Arrays(other, labels, ["a"]),
        Arrays(images, 1 - labels, ["a"]),
        Arrays(images, labels, ["b"]),
        Arrays(images, labels, ["a"], ["test"] * 4),
        Arrays(images.reshape(4, 1, 4), labels, ["a"]),
    ]
    assert len({data.digest for data in made}) == len(made)
    assert Arrays(images.copy(), labels.copy(), ["a"]).digest == made[0].digest


def test_images_and_labels_must_be_equally_many() -> None:
    with pytest.raises(DataError, match="3 images, but 4 rows of labels"):
        Arrays(np.zeros((3, 2, 2), np.uint8), np.zeros(4))
