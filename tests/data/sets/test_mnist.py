from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from ccvae_eval.core.errors import DataError, UsageError
from ccvae_eval.data.images.decode import bilinear
from ccvae_eval.data.sets import mnist
from ccvae_eval.data.sets.mnist import IMAGES_MAGIC, LABELS_MAGIC, read_idx
from ccvae_eval.data.spec import open_data
from ccvae_eval.testing.data import check_data_set
from tests.support.paths import SHARED as SHARED_ROOT

RANDOM = np.random.default_rng(0)
TRAIN = RANDOM.integers(0, 256, (40, 28, 28), dtype=np.uint8), RANDOM.integers(0, 10, 40).astype(np.uint8)
TEST = RANDOM.integers(0, 256, (20, 28, 28), dtype=np.uint8), RANDOM.integers(0, 10, 20).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def folder(place: Path, packed: bool = False, mark: str = "-idx", test: bool = True) -> Path:
    for name, (images, labels) in (("train", TRAIN), ("t10k", TEST))[: 2 if test else 1]:
        for kind, array in (("images", images), ("labels", labels)):
            path = place / f"{name}-{kind}{mark}{array.ndim}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(idx(array)) if packed else idx(array))
    return place


@pytest.mark.parametrize(("packed", "mark"), [(False, "-idx"), (True, "-idx"), (False, ".idx")])
def test_official_files(tmp_path: Path, packed: bool, mark: str) -> None:
    data = open_data(f"mnist:{folder(tmp_path, packed, mark)}")
    check_data_set(data)
    assert data.input_shape == (1, 28, 28)
    assert data.schema["digit"].classes == tuple("0123456789")
    assert data.split("test").tolist() == list(range(40, 60))
    assert len(data.split("judge")) + len(data.split("train")) == 40
    assert 0 < len(data.split("judge")) < 20
    every = np.arange(60)
    assert np.array_equal(data.labels_of(every)[:, 0], np.concatenate([TRAIN[1], TEST[1]]))
    images = np.concatenate([TRAIN[0], TEST[0]])
    assert np.array_equal((data.batch(every).images * 255).round().numpy()[:, 0], images)


def test_training_files_alone_are_split_by_hash(tmp_path: Path) -> None:
    data = open_data(f"mnist:{folder(tmp_path, test=False)}")
    assert len(data) == 40
    assert len(data.split("test"))


def test_a_folder_with_one_archive_equals_the_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "digits.npz", images=TRAIN[0], labels=TRAIN[1])
    assert open_data(f"mnist:{tmp_path}").digest == open_data(f"mnist:{tmp_path / 'digits.npz'}").digest


def test_both_forms_of_archives(tmp_path: Path) -> None:
    np.savez(tmp_path / "plain.npz", images=TRAIN[0], labels=TRAIN[1])
    np.savez(tmp_path / "keras.npz", x_train=TRAIN[0], y_train=TRAIN[1], x_test=TEST[0], y_test=TEST[1])
    with pytest.raises(DataError, match="the folder contains no MNIST files"):
        open_data(f"mnist:{tmp_path}")
    plain, keras = open_data(f"mnist:{tmp_path / 'plain.npz'}"), open_data(f"mnist:{tmp_path / 'keras.npz'}")
    assert len(plain) == 40
    assert keras.digest == open_data(f"mnist:{folder(tmp_path)}").digest


def test_an_archive_beyond_the_limit_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "x.npz", images=TRAIN[0], labels=TRAIN[1])
    monkeypatch.setattr(mnist, "MAX_BYTES", 100)
    with pytest.raises(DataError, match="arrays that are too large .images, labels: .*the limit is 100"):
        open_data(f"mnist:{tmp_path / 'x.npz'}")


def test_resizing(tmp_path: Path) -> None:
    data = open_data(f"mnist:{folder(tmp_path)},size=32")
    assert data.input_shape == (1, 32, 32)
    assert np.array_equal((data.batch(np.arange(40)).images * 255).round().numpy()[:, 0], bilinear(TRAIN[0], 32))
    assert open_data(data.spec).digest == data.digest != open_data(f"mnist:{tmp_path}").digest


def damaged(name: str) -> bytes:
    whole = idx(TRAIN[0])
    return {
        "empty": b"",
        "page": b"<html>not found</html>",
        "short": whole[:-1],
        "long": whole + b"\0",
        "labels": idx(TRAIN[1]),
        "bomb": struct.pack(">4I", IMAGES_MAGIC, 2**31, 28, 28),
        "wide": struct.pack(">4I", IMAGES_MAGIC, 1, 2**16, 2**16),
    }[name]


@pytest.mark.parametrize("name", ["empty", "page", "short", "long", "labels", "bomb", "wide"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_damaged_files_are_named(tmp_path: Path, name: str, ending: str) -> None:
    path = tmp_path / f"train-images-idx3-ubyte{ending}"
    path.write_bytes(gzip.compress(damaged(name)) if ending else damaged(name))
    with pytest.raises(DataError, match="train-images"):
        read_idx(path, IMAGES_MAGIC)


def test_damaged_compression_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    whole = gzip.compress(idx(TRAIN[1]))
    for content in (whole[:-9], whole[:20], b"\x1f\x8b" + bytes(40), whole[:12] + b"\xff\xff\xff" + whole[15:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="train-labels"):
            read_idx(path, LABELS_MAGIC)


def test_missing_and_inconsistent_arrays_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the folder contains no MNIST files"):
        open_data(f"mnist:{tmp_path}")
    for arrays in (
        {"images": TRAIN[0], "labels": TRAIN[1][:-1]},
        {"images": TRAIN[0][:, :20], "labels": TRAIN[1]},
        {"images": TRAIN[0] / 255, "labels": TRAIN[1]},
        {"images": TRAIN[0], "labels": TRAIN[1].astype(int) + 10},
        {"images": TRAIN[0][:0], "labels": TRAIN[1][:0]},
        {"images": TRAIN[0]},
        {"x_train": TRAIN[0], "y_train": TRAIN[1]},
    ):
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(DataError):
            open_data(f"mnist:{tmp_path / 'x.npz'}")
    for spec in ("mnist", f"mnist:{tmp_path},size=0", f"mnist:{tmp_path},rotate=1"):
        with pytest.raises(UsageError):
            open_data(spec)


@pytest.mark.parametrize(
    ("name", "label", "seventh"),
    [
        ("FashionMNIST", "class", "Sneaker"),
        ("KMNIST", "class", "ya"),
        ("kuzushiji", "class", "ya"),
        ("x", "digit", "7"),
    ],
)
@pytest.mark.parametrize("raw", ["", "raw"])
def test_the_folder_names_the_classes(tmp_path: Path, name: str, label: str, seventh: str, raw: str) -> None:
    place = tmp_path / name / raw
    place.mkdir(parents=True)
    data = open_data(f"mnist:{folder(place).parent if raw else folder(place)}")
    check_data_set(data)
    assert data.schema[label].class_name(7) == seventh
    assert open_data(f"mnist:{place},classes=digits").schema["digit"].class_name(7) == "7"


def morpho(place: Path, columns: str = "area,length,thickness,slant,width,height", pert: bool = True) -> Path:
    folder(place)
    for name, (_, digits) in (("train", TRAIN), ("t10k", TEST)):
        rows = [f"{i}," + ",".join(f"{d / 7 + k}" for k in range(columns.count(",") + 1)) for i, d in enumerate(digits)]
        (place / f"{name}-morpho.csv").write_text("\n".join([f"index,{columns}", *rows]))
        if pert:
            (place / f"{name}-pert-idx1-ubyte.gz").write_bytes(gzip.compress(idx(digits % 5)))
    return place


def test_morphometrics_are_continuous_labels(tmp_path: Path) -> None:
    data = open_data(f"mnist:{morpho(tmp_path)},morpho=true")
    check_data_set(data)
    assert data.schema.names == ("digit", "area", "length", "thickness", "slant", "width", "height", "perturbation")
    assert [label.kind for label in data.schema][1:] == ["continuous"] * 6 + ["categorical"]
    digits = np.concatenate([TRAIN[1], TEST[1]])
    found = data.labels_of(np.arange(60))
    np.testing.assert_allclose(found[:, 3], digits / 7 + 2, rtol=1e-6)
    np.testing.assert_array_equal(found[:, 7], digits % 5)
    some = open_data(f"mnist:{tmp_path},morpho=true,labels=slant|digit")
    np.testing.assert_array_equal(some.labels_of(np.arange(60)), found[:, [4, 0]])
    assert open_data(some.spec).digest == some.digest != data.digest
    rotated = open_data(f"mnist:{tmp_path},morpho=true,rotations=0|90")
    assert rotated.schema.names[-2:] == ("perturbation", "angle")


def test_the_older_tables_of_morphometrics(tmp_path: Path) -> None:
    data = open_data(f"mnist:{morpho(tmp_path, 'thickness,intensity', pert=False)},morpho=true")
    assert data.schema.names == ("digit", "thickness", "intensity")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a table of morphometrics"),
        ("area\n1\n", "not a table of morphometrics"),
        ("index,area\n0,1,2\n", "line 2: the file is not a table"),
        ("index,area\n0,x\n", "a cell is not a number"),
        ("index,area\n1,2\n", "index must number the images from 0"),
        ("index,area\n0,2\n", "the columns are not those of train-morpho.csv"),
    ],
)
def test_damaged_tables_of_morphometrics_are_named(tmp_path: Path, text: str, message: str) -> None:
    (morpho(tmp_path) / "t10k-morpho.csv").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        open_data(f"mnist:{tmp_path},morpho=true")
    assert "t10k-morpho.csv" in str(caught.value)


def test_morphometrics_fit_the_images(tmp_path: Path) -> None:
    place = morpho(tmp_path)
    (place / "t10k-morpho.csv").write_text("\n".join((place / "t10k-morpho.csv").read_text().splitlines()[:-1]))
    with pytest.raises(DataError, match="the tables have 59 rows, the images are 60"):
        open_data(f"mnist:{place},morpho=true")
    (place / "t10k-morpho.csv").unlink()
    with pytest.raises(DataError, match=r"t10k-morpho.csv: cannot be opened"):
        open_data(f"mnist:{place},morpho=true")
    np.savez(tmp_path / "x.npz", images=TRAIN[0], labels=TRAIN[1])
    with pytest.raises(UsageError, match="morpho=true needs a folder"):
        open_data(f"mnist:{tmp_path / 'x.npz'},morpho=true")
    for option in ("morpho=yes", "classes=letters", "labels=slant"):
        with pytest.raises(UsageError):
            open_data(f"mnist:{place},{option}")


SHARED = SHARED_ROOT / "data/mnist/mnist_train.npz"


@pytest.mark.skipif(not SHARED.is_file(), reason="shared/data/mnist is missing")
def test_real_digits() -> None:
    data = open_data(f"mnist:{SHARED}")
    assert len(data) == 60000
    counts = np.bincount(data.labels_of(np.arange(60000))[:, 0].astype(int))
    assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # published
    mean = data.images.mean(dtype=np.float64) / 255
    assert mean == pytest.approx(0.1307, abs=5e-5)  # published


def test_rotation_adds_the_angle_as_a_label(tmp_path: Path) -> None:
    place = folder(tmp_path)
    plain, data = open_data(f"mnist:{place}"), open_data(f"mnist:{place},rotations=0|90|180")
    check_data_set(data)
    assert data.schema.names == ("digit", "angle")
    assert data.schema["angle"].classes == ("0", "90", "180")
    ids = np.arange(60)
    before, after = plain.batch(ids).images[:, 0].numpy(), data.batch(ids).images[:, 0].numpy()
    quarter = data.labels_of(ids)[:, 1].astype(int)
    assert set(quarter) == {0, 1, 2}
    for i in ids:
        np.testing.assert_allclose(after[i], np.rot90(before[i], quarter[i]), atol=1 / 255)
    assert data.digest != plain.digest
    again = open_data(data.spec)
    assert again.digest == data.digest
    assert open_data(f"{data.spec},seed=1").digest != data.digest


@pytest.mark.parametrize("angles", ["5", "0|x", "0|0", "nan|1"])
def test_invalid_rotations_are_rejected(tmp_path: Path, angles: str) -> None:
    with pytest.raises(UsageError, match="rotations"):
        open_data(f"mnist:{folder(tmp_path)},rotations={angles}")
