from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ccvae_eval.core.errors import CcvaeEvalError, DataError, UsageError
from ccvae_eval.data.spec import open_data
from ccvae_eval.data.splits import split_by_name
from ccvae_eval.testing.data import check_data_set

IMAGES = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)


def saved(folder: Path, **arrays: object) -> str:
    np.savez(folder / "x.npz", **arrays)
    return f"npz:{folder / 'x.npz'}"


def test_bytes_and_floats_give_the_same_images(tmp_path: Path) -> None:
    labels = np.arange(30) % 2
    data = open_data(saved(tmp_path, images=IMAGES, labels=labels, names=["on"]))
    check_data_set(data)
    first = data.batch(np.arange(30)).images
    floats = open_data(saved(tmp_path, images=np.moveaxis(IMAGES, 3, 1) / 255, labels=labels, names=["on"]))
    assert np.allclose(first, floats.batch(np.arange(30)).images, atol=1e-7)
    assert data.schema == floats.schema
    assert np.array_equal(data.split("test"), split_by_name([str(i) for i in range(30)]).ids("test"))
    assert open_data(floats.spec).digest == floats.digest


def test_split_arrays_and_label_kinds(tmp_path: Path) -> None:
    labels = np.stack([np.arange(30) % 4, np.arange(30) % 2], axis=1)
    data = open_data(saved(tmp_path, images=IMAGES, labels=labels, split=np.arange(30) % 3))
    assert [label.kind for label in data.schema] == ["categorical", "binary"]
    assert data.split("judge").tolist() == list(range(1, 30, 3))


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": IMAGES},
        {"labels": np.zeros(30)},
        {"images": IMAGES, "labels": np.zeros(29)},
        {"images": IMAGES, "labels": np.zeros(30), "names": ["a", "b"]},
        {"images": IMAGES, "labels": np.zeros(30), "split": ["test"] * 29},
        {"images": IMAGES, "labels": np.zeros(30), "split": ["nowhere"] * 30},
        {"images": IMAGES[:0], "labels": np.zeros(0)},
        {"images": IMAGES.astype(np.uint16), "labels": np.zeros(30)},
        {"images": IMAGES, "labels": np.array(["a"] * 30)},
        {"images": np.array([None] * 30, object), "labels": np.zeros(30)},
    ],
)
def test_inconsistent_archives_are_rejected(tmp_path: Path, arrays: dict[str, object]) -> None:
    with pytest.raises(DataError) as caught:
        open_data(saved(tmp_path, **arrays))
    assert caught.value.exit_code == 3
    assert "x.npz" in caught.value.where


def test_missing_paths_files_and_unknown_options_are_rejected(tmp_path: Path) -> None:
    for spec in ("npz", f"npz:{tmp_path},size=3"):
        with pytest.raises(UsageError):
            open_data(spec)
    with pytest.raises(CcvaeEvalError, match="No such file"):
        open_data(f"npz:{tmp_path / 'none.npz'}")
