"""SVHN in its released structure, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from ccvae_eval.core.errors import DataError, UsageError
from ccvae_eval.data.images.decode import resized
from ccvae_eval.data.sets import matlab
from ccvae_eval.data.spec import open_data
from ccvae_eval.testing.data import check_data_set
from tests.support import grid_files
from tests.support.grid_files import noise


def test_svhn(tmp_path: Path) -> None:
    data = open_data(f"svhn:{grid_files.svhn(tmp_path)}")
    check_data_set(data)
    assert data.input_shape == (3, 32, 32)
    assert data.split("test").tolist() == list(range(30, 40))
    assert 0 < len(data.split("judge")) < len(data.split("train"))
    assert data.labels_of(np.arange(11))[:, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    shown = (data.batch(np.arange(40)).images * 255).round().numpy().astype(np.uint8)
    wanted = np.concatenate([noise(30, 32, 32, 3), noise(10, 32, 32, 3, seed=1)])
    assert np.array_equal(shown.transpose(0, 2, 3, 1), wanted)
    smaller = open_data(f"svhn:{tmp_path},size=16").batch(np.array([3])).images[0].numpy().transpose(1, 2, 0)
    assert np.array_equal(np.rint(smaller * 255), resized(wanted[3], 16))
    alone = open_data(f"svhn:{tmp_path / 'train_32x32.mat'}")
    assert (len(alone), len(alone.split("test")) > 0) == (30, True)
    assert open_data(data.spec).digest == data.digest != alone.digest


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": np.ones((3, 1))}, "the array 'X' is missing .the file contains y"),
        ({"X": np.zeros((8, 8, 3, 3), np.uint8)}, "the array 'y' is missing"),
        ({"X": np.zeros((8, 8, 3, 3), np.uint8), "y": np.ones((4, 1))}, "do not match 4 labels"),
        ({"X": np.zeros((8, 8, 1, 3), np.uint8), "y": np.ones((3, 1))}, "do not match 3 labels"),
        ({"X": np.zeros((8, 8, 3, 3)), "y": np.ones((3, 1))}, "type float64"),
        ({"X": np.zeros((8, 8, 3, 3), np.uint8), "y": np.full((3, 1), 11)}, "digits must be from 1 to 10"),
        ({"X": np.array([[1, "a"]], object), "y": np.ones((3, 1))}, "expected numbers on 4 axes"),
    ],
)
def test_unexpected_arrays_are_named(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    savemat(tmp_path / "test_32x32.mat", arrays)
    with pytest.raises(DataError, match=message) as caught:
        open_data(f"svhn:{tmp_path}")
    assert "test_32x32.mat" in str(caught.value)


def test_damaged_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="no files of SVHN"):
        open_data(f"svhn:{tmp_path}")
    path = grid_files.svhn(tmp_path) / "train_32x32.mat"
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[:200], whole[: len(whole) // 2], b"<html>" + bytes(200)):
        path.write_bytes(content)
        with pytest.raises(DataError, match="train_32x32.mat"):
            open_data(f"svhn:{tmp_path}")
    path.write_bytes(whole)
    monkeypatch.setattr(matlab, "MAX_ARRAY_BYTES", 1000)
    with pytest.raises(DataError, match="X: the array is too large"):
        open_data(f"svhn:{tmp_path}")
    monkeypatch.setattr(matlab, "MAX_ARRAY_BYTES", whole_bytes := 32 * 32 * 3 * 30)
    open_data(f"svhn:{tmp_path}")
    savemat(path, {"X": np.zeros((32, 32, 3, whole_bytes // (32 * 32 * 3 * 4)), np.float64), "y": np.ones((7, 1))})
    with pytest.raises(DataError, match="X: the array is too large"):
        open_data(f"svhn:{tmp_path}")
    for spec in ("svhn", f"svhn:{tmp_path},size=x", f"svhn:{tmp_path},labels=a"):
        with pytest.raises(UsageError):
            open_data(spec)
