from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ccvae_eval.core import array_files
from ccvae_eval.core.errors import CcvaeEvalError, DataError, UsageError
from ccvae_eval.data.sets import npz
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


LAYOUTS = {
    "bytes": IMAGES,
    "channels first": np.moveaxis(IMAGES, 3, 1),
    "grey": IMAGES[..., 0],
    "floats": np.moveaxis(IMAGES, 3, 1) / 255,
    "floats of another byte order": (np.moveaxis(IMAGES, 3, 1) / 255).astype(">f4"),
    "half precision": (np.moveaxis(IMAGES, 3, 1) / 255).astype(np.float16),
    "Fortran order": np.asfortranarray(IMAGES),
    "points in Fortran order": np.asfortranarray(np.random.default_rng(0).normal(size=(30, 3))),
    "booleans": IMAGES[..., :1] > 128,
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("block", [1, 1000, 1 << 24])
def test_images_on_disk_equal_images_in_memory(
    layout: str, save: Any, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "x.npz", other=np.zeros(3), images=LAYOUTS[layout], labels=np.arange(30) % 2)
    spec = f"npz:{tmp_path / 'x.npz'}"
    held = open_data(spec)
    monkeypatch.setattr(npz, "MAX_HELD_BYTES", 0)
    monkeypatch.setattr(array_files, "BLOCK_BYTES", block)
    on_disk = open_data(spec)
    assert isinstance(on_disk.images, array_files.DiskArray)  # type: ignore[attr-defined]
    check_data_set(on_disk)
    assert on_disk.digest == held.digest
    assert on_disk.input_shape == held.input_shape
    for ids in (np.arange(30), np.array([7, 3, 3, 29]), np.arange(0)):
        assert torch.equal(on_disk.batch(ids).images, held.batch(ids).images)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(npz, "MAX_HELD_BYTES", 0)
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=np.arange(30) % 2)
    return tmp_path / "x.npz"


def test_a_file_that_changes_is_noticed(on_disk: Path) -> None:
    data = open_data(f"npz:{on_disk}")
    content = on_disk.read_bytes()
    on_disk.write_bytes(content[:500])
    with pytest.raises(DataError, match=r"x.npz: images: has changed since it was opened"):
        data.batch(np.arange(30))
    on_disk.unlink()
    on_disk.write_bytes(content)
    data = open_data(f"npz:{on_disk}")
    on_disk.unlink()
    assert data.batch(np.arange(30)).images.shape == (30, 3, 8, 8), "the opened file remains"


def test_a_damaged_array_on_disk_is_refused(on_disk: Path) -> None:
    content = bytearray(on_disk.read_bytes())
    content[1000] ^= 1
    on_disk.write_bytes(content)
    with pytest.raises(DataError, match=r"images: contains an unreadable array .*CRC"):
        open_data(f"npz:{on_disk}")


@pytest.mark.parametrize(
    ("limit", "message"),
    [("MAX_UNPACKED_BYTES", "too large to be unpacked"), ("MAX_ROW_BYTES", "for each of its 30 rows, the limit is 10")],
)
def test_arrays_on_disk_have_limits(limit: str, message: str, on_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(on_disk, images=IMAGES, labels=np.arange(30) % 2)
    monkeypatch.setattr(array_files, limit, 10)
    with pytest.raises(DataError, match=message):
        open_data(f"npz:{on_disk}")


def test_an_array_is_not_unpacked_onto_a_disk_without_space(on_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_files.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    assert len(open_data(f"npz:{on_disk}")) == 30, "without compression it needs no space"
    np.savez_compressed(on_disk, images=IMAGES, labels=np.arange(30) % 2)
    with pytest.raises(DataError, match=r"(?s)10 free.*numpy\.savez"):
        open_data(f"npz:{on_disk}")


@pytest.mark.parametrize("limit", ["MAX_IMAGES", "MAX_LABELS", "MAX_NAMES"])
def test_labels_have_limits(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = saved(tmp_path, images=IMAGES, labels=np.arange(30) % 2, names=["on"])
    monkeypatch.setattr(npz, limit, 29 if limit != "MAX_NAMES" else 0)
    with pytest.raises(DataError, match=r"too large|at most 0 elements"):
        open_data(spec)


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
