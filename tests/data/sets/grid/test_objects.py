"""Cars3D, small NORB, Falcor3D and Isaac3D in their released structure, whole and damaged."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from ccvae_eval.core.errors import DataError, UsageError
from ccvae_eval.data.images.decode import resized
from ccvae_eval.data.sets.grid import objects, rows
from ccvae_eval.data.spec import open_data
from ccvae_eval.data.summary import describe
from ccvae_eval.testing.data import check_data_set
from tests.support import grid_files
from tests.support.grid_files import AZIMUTHS, CARS, ELEVATIONS, noise


def test_cars3d(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "HELD_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = grid_files.cars3d(tmp_path)
    data = open_data(f"cars3d:{place}")
    check_data_set(data)
    assert data.schema.names == ("elevation", "azimuth", "object_type")
    assert data.sizes == (ELEVATIONS, AZIMUTHS, CARS)
    for i, (elevation, azimuth, kind) in enumerate(np.ndindex(data.sizes)):
        car = (2, 1, 3)[kind]  # the order of the list
        assert np.array_equal(data.pixels(np.array([i]))[0], grid_files.car(car)[..., azimuth, elevation])
    for inner in ("data", "data/cars"):
        assert open_data(f"cars3d:{place / inner}").digest == data.digest
    np.savez(tmp_path / "cars3d.npz", images=data.pixels(np.arange(len(data))).reshape(*data.sizes, 128, 128, 3))
    assert open_data(f"cars3d:{tmp_path / 'cars3d.npz'}").digest == data.digest
    smaller = open_data(f"cars3d:{place},size=64")
    assert np.array_equal(smaller.pixels(np.array([5]))[0], resized(data.pixels(np.array([5]))[0], 64))


def test_an_npz_of_cars_has_four_elevations_and_24_azimuths(tmp_path: Path) -> None:
    np.savez(tmp_path / "cars3d.npz", images=noise(4 * 24 * 2, 8, 8, 3))
    assert open_data(f"cars3d:{tmp_path}").sizes == (4, 24, 2)
    np.savez(tmp_path / "cars3d.npz", images=noise(100, 8, 8, 3))
    with pytest.raises(DataError, match="100 images, the factors have 96 combinations"):
        open_data(f"cars3d:{tmp_path}")


def test_damaged_cars_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the cars are missing"):
        open_data(f"cars3d:{tmp_path}")
    folder = grid_files.cars3d(tmp_path) / "data" / "cars"
    path, whole = folder / "car_001_mesh.mat", (folder / "car_001_mesh.mat").read_bytes()
    for part in (0, 4, 127, 200, len(whole) // 2):
        path.write_bytes(whole[:part])
        with pytest.raises(DataError, match="car_001_mesh.mat"):
            open_data(f"cars3d:{tmp_path}")
    for arrays, message in (
        ({"mask": np.zeros(3)}, "the array 'im' is missing"),
        ({"im": np.zeros((8, 8, 3, 4, 2), np.uint8)}, r"images have the shape \(8, 8, 3, 4, 2\)"),
        ({"im": grid_files.car(1) / 2}, "type float64"),
        ({"im": grid_files.car(1)[..., 0]}, "expected numbers on 5 axes"),
        ({"im": {"a": 1}}, "expected numbers on 5 axes"),
    ):
        savemat(path, arrays)
        with pytest.raises(DataError, match=message):
            open_data(f"cars3d:{tmp_path}")
    path.unlink()
    with pytest.raises(DataError, match=r"car_001_mesh.mat: cannot be opened"):
        open_data(f"cars3d:{tmp_path}")
    for text in ("", "../../secret\n"):
        (folder / "list.txt").write_text(text)
        with pytest.raises(DataError, match="the file is not a list of cars"):
            open_data(f"cars3d:{tmp_path}")


@pytest.mark.parametrize("packed", [False, True])
def test_smallnorb(tmp_path: Path, packed: bool) -> None:
    data = open_data(f"smallnorb:{grid_files.smallnorb(tmp_path, packed)}")
    check_data_set(data)
    assert data.input_shape == (1, 96, 96)
    assert data.schema.names == objects.NORB_FACTORS
    assert data.schema["elevation"].classes == ("30", "70")
    assert data.schema["azimuth"].classes == ("0", "20", "340")
    tables = {part: grid_files.norb_table(part) for part in ("training", "testing")}
    known = {label.name: np.array(label.classes) for label in data.schema} | {"category": np.array([0, 4])}
    levels = data.labels_of(np.arange(len(data))).astype(int)
    values = np.column_stack([known[n][column].astype(float) for n, column in zip(known, levels.T, strict=True)])
    for i, row in enumerate(values):
        stored = [row[0], row[1], (row[2] - 30) / 5, row[3] / 10, row[4]]
        part = "testing" if row[1] < 2 else "training"
        (place,) = np.flatnonzero((tables[part] == stored).all(1))
        assert np.array_equal(data.pixels(np.array([i]))[0, ..., 0], grid_files.norb_images(part)[place, 0])
    assert set(values[data.split("test"), 1]) == {0, 1}
    assert set(values[np.concatenate([data.split("train"), data.split("judge")]), 1]) == {4, 6}
    assert len(data.split("judge"))
    files = describe(data)["files"]  # the checksums are those of the compressed files
    assert (files is None) != packed
    if packed:
        assert len(files) == 6
        assert set(files.values()) == {"not the official file"}


def test_one_part_of_smallnorb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "HELD_BYTES", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    grid_files.smallnorb(tmp_path, packed=True, parts=["training"])
    data = open_data(f"smallnorb:{tmp_path},labels=category|azimuth:continuous")
    check_data_set(data)
    assert data.schema["azimuth"].kind == "continuous"
    assert data.schema["category"].classes == ("0", "4")


def test_damaged_matrices_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no files of small NORB"):
        open_data(f"smallnorb:{tmp_path}")
    grid_files.smallnorb(tmp_path, parts=["training"])
    for kind in ("dat", "cat", "info"):
        path = tmp_path / f"{grid_files.NORB_START['training']}-{kind}.mat"
        whole = path.read_bytes()
        for content in (
            b"", whole[:6], whole[:19], whole[:-1], b"<html>" + whole, struct.pack("<ii", 0x1E3D4C55, 99) + whole,
            struct.pack("<ii3i", 0x1E3D4C54, 1, 5, 1, 1) + whole[20:], struct.pack("<ii3i", 0x1E3D4C55, 1, 5, 1, 1),
            struct.pack("<ii4i", 0x1E3D4C55, 4, 2**31 - 1, 2, 96, 96),
            struct.pack("<ii4i", 0x1E3D4C55, 4, -1, 2, 96, 96),
        ):  # fmt: skip
            path.write_bytes(content)
            with pytest.raises(DataError, match=f"-{kind}.mat"):
                open_data(f"smallnorb:{tmp_path}")
            path.unlink()
            (tmp_path / f"{path.name}.gz").write_bytes(gzip.compress(content))
            with pytest.raises(DataError, match=f"-{kind}.mat.gz"):
                open_data(f"smallnorb:{tmp_path}")
            (tmp_path / f"{path.name}.gz").unlink()
        for content in (gzip.compress(whole)[:-9], gzip.compress(whole)[:20], b"\x1f\x8b" + bytes(30)):
            (tmp_path / f"{path.name}.gz").write_bytes(content)
            with pytest.raises(DataError, match=f"-{kind}.mat.gz"):
                open_data(f"smallnorb:{tmp_path}")
            (tmp_path / f"{path.name}.gz").unlink()
        with pytest.raises(DataError, match=f"training-{kind}.mat is missing|no files of small NORB"):
            open_data(f"smallnorb:{tmp_path}")
        path.write_bytes(whole)
    assert len(open_data(f"smallnorb:{tmp_path}")) == len(grid_files.norb_table("training"))


@pytest.mark.parametrize("packed", [False, True])
def test_the_header_of_a_matrix_must_fit_its_content(tmp_path: Path, packed: bool) -> None:
    grid_files.smallnorb(tmp_path, packed, parts=["training"])
    (path,) = tmp_path.glob("*-dat.mat*")
    whole, pair = gzip.decompress(path.read_bytes()) if packed else path.read_bytes(), 2 * 96 * 96
    for content in (whole[:-pair], whole + bytes(pair)) if packed else (whole[:-pair],):
        path.write_bytes(gzip.compress(content, 1) if packed else content)
        with pytest.raises(DataError, match="the file is damaged .*its header gives"):
            open_data(f"smallnorb:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "sizes"), [("falcor3d", (2, 1, 2, 2, 2, 1, 2)), ("isaac3d", (3, 2, 1, 2, 1, 2, 1, 2, 1))]
)
def test_numbered_images(tmp_path: Path, name: str, sizes: tuple[int, ...]) -> None:
    count = int(np.prod(sizes))
    place, option = grid_files.numbered(tmp_path, count), f"sizes={'|'.join(map(str, sizes))}"
    data = open_data(f"{name}:{place},{option}")
    check_data_set(data)
    assert data.sizes == sizes
    assert np.array_equal(data.pixels(np.arange(count)), noise(count, 16, 16, 3))
    assert open_data(f"{name}:{place / 'images'},{option}").digest == data.digest
    with pytest.raises(DataError, match=f"images are missing .the first is {count:06d}.png"):
        open_data(f"{name}:{place}")
    (place / "images" / "000003.png").write_bytes(grid_files.png(noise(1, 8, 8, 3)[0]))
    with pytest.raises(DataError, match=r"000003.png: the image has the shape \(8, 8, 3\), the first one"):
        data.batch(np.arange(5))
    (place / "images" / "000003.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"000003.png"):
        data.batch(np.arange(5))
    (place / "images" / "000003.png").unlink()
    with pytest.raises(DataError, match=r"1 of .* images are missing .the first is 000003.png"):
        open_data(f"{name}:{place},{option}")
    with pytest.raises(UsageError, match="1,000,000,000,000,000,000,000 combinations"):
        open_data(f"falcor3d:{place},sizes=1000|1000|1000|1000|1000|1000|1000")
    with pytest.raises(DataError, match="no numbered images"):
        open_data(f"{name}:{tmp_path.parent}")
