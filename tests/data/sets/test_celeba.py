"""The official layout of CelebA, with images of noise and, if available, with 44 real images."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import cv2
import numpy as np
import pytest

from ccvae_eval.core.errors import DataError, UsageError
from ccvae_eval.data.sets import celeba
from ccvae_eval.data.sets.celeba import CelebA
from ccvae_eval.data.spec import open_data
from ccvae_eval.testing.data import check_data_set
from tests.support.paths import SHARED as SHARED_ROOT

SHARED = SHARED_ROOT / "data"
REAL = pytest.mark.skipif(
    not ((SHARED / "celeba_aligned44").is_dir() and (SHARED / "celeba_meta").is_dir()),
    reason="shared/data/celeba_* is missing",
)
Make = Callable[..., Path]


@pytest.fixture
def official(tmp_path: Path) -> Make:
    def make(apart: bool = False, zipped: bool = False, end: str = ".txt", count: int = 9) -> Path:
        folders = {name: tmp_path / (name if apart else "") for name in ("Img", "Anno", "Eval")}
        for folder in folders.values():
            folder.mkdir(exist_ok=True)
        names = [f"{i:06d}.jpg" for i in range(1, count + 1)]
        random = np.random.default_rng(0)
        files = {n: cv2.imencode(".jpg", random.integers(0, 256, (218, 178, 3), np.uint8))[1].tobytes() for n in names}
        if zipped:
            with ZipFile(folders["Img"] / "img_align_celeba.zip", "w") as archive:
                for name, content in files.items():
                    archive.writestr(f"img_align_celeba/{name}", content)
        else:
            (folders["Img"] / "img_align_celeba").mkdir()
            for name, content in files.items():
                (folders["Img"] / "img_align_celeba" / name).write_bytes(content)
        rows = [[n, "1" if i % 2 else "-1", "1" if i % 3 else "-1"] for i, n in enumerate(names)]
        mark, head = (",", ["image_id,Eyeglasses,Male"]) if end == ".csv" else ("  ", [str(count), "Eyeglasses Male "])
        (folders["Anno"] / f"list_attr_celeba{end}").write_text(
            "\n".join([*head, *(mark.join(r) for r in rows)]) + "\n"
        )
        first = ["image_id,partition"] if end == ".csv" else []
        parts = [mark.join([n, str(i % 3)]) for i, n in enumerate(names)]
        (folders["Eval"] / f"list_eval_partition{end}").write_text("\n".join([*first, *parts]))
        return tmp_path

    return make


@pytest.mark.parametrize(
    ("apart", "zipped", "end"), [(False, False, ".txt"), (True, True, ".txt"), (False, True, ".csv")]
)
def test_supported_layouts(official: Make, apart: bool, zipped: bool, end: str) -> None:
    data = open_data(f"celeba:{official(apart, zipped, end)}")
    check_data_set(data)
    assert data.schema.names == ("Eyeglasses", "Male")
    assert data.input_shape == (3, 64, 64)
    assert data.split("judge").tolist() == [1, 4, 7]
    np.testing.assert_array_equal(data.labels_of(np.arange(4)), [[0, 0], [1, 1], [0, 1], [1, 0]])


def test_the_archive_of_kaggle_nests_the_images(official: Make) -> None:
    place = official(end=".csv")
    before = open_data(f"celeba:{place}").digest
    (place / "img_align_celeba").rename(place / "inner")
    (place / "img_align_celeba").mkdir()
    (place / "inner").rename(place / "img_align_celeba" / "img_align_celeba")
    data = open_data(f"celeba:{place}")
    check_data_set(data)
    assert data.digest == before


def test_crops_are_central_squares_or_the_whole_image(official: Make) -> None:
    place = official()
    whole = cv2.imread(str(place / "img_align_celeba/000001.jpg"))[..., ::-1]
    expected = {
        "square": cv2.resize(whole[20:198], (32, 32), interpolation=cv2.INTER_AREA),
        "128": cv2.resize(whole[45:173, 25:153], (32, 32), interpolation=cv2.INTER_AREA),
        "whole": cv2.resize(whole, (32, 32), interpolation=cv2.INTER_AREA),
    }
    digests = set()
    for crop, pixels in expected.items():
        data = open_data(f"celeba:{place},size=32,crop={crop}")
        np.testing.assert_array_equal(data.batch(np.arange(1)).images[0].permute(1, 2, 0).numpy() * 255, pixels)
        digests.add(data.digest)
    assert len(digests) == 3


def test_chosen_labels_and_the_count_of_rows_without_an_image(official: Make) -> None:
    place = official()
    (place / "img_align_celeba/000003.jpg").unlink()
    data = open_data(f"celeba:{place},labels=Male")
    assert isinstance(data, CelebA)
    assert data.schema.names == ("Male",)
    assert (len(data), data.rows_without_image, data.images_without_row) == (8, 1, 0)


def test_the_digest_depends_on_the_images(official: Make) -> None:
    place = official()
    before = open_data(f"celeba:{place}").digest
    path = place / "img_align_celeba/000005.jpg"
    path.write_bytes(cv2.imencode(".jpg", np.zeros((218, 178, 3), np.uint8))[1].tobytes())
    assert open_data(f"celeba:{place}").digest != before


@pytest.mark.parametrize(
    ("option", "error"),
    [(",crop=0", UsageError), (",crop=x", UsageError), (",labels=Mael", UsageError), (",crop=200", DataError)],
)
def test_invalid_options_are_rejected(official: Make, option: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        open_data(f"celeba:{official()}{option}").batch(np.arange(1))


def test_a_table_of_too_many_lines_is_rejected(official: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    place = official()
    monkeypatch.setattr(celeba, "MAX_LINES", 2)
    with pytest.raises(DataError, match=r"list_attr_celeba.*more than 2 lines"):
        open_data(f"celeba:{place}")


def test_missing_and_malformed_files_are_named(official: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the path does not exist\nExpected: the folder with"):
        open_data(f"celeba:{tmp_path / 'nowhere'}")
    place = official()
    table = (place / "list_attr_celeba.txt").read_text()
    (place / "list_attr_celeba.txt").unlink()
    with pytest.raises(DataError, match="the table of attributes is missing"):
        open_data(f"celeba:{place}")
    (place / "list_attr_celeba.txt").write_text(table.replace("000002.jpg  1", "000002.jpg"))
    with pytest.raises(DataError, match="000002.jpg: the row must have 2 numbers, got 1"):
        open_data(f"celeba:{place}")
    (place / "list_attr_celeba.txt").write_text(table.replace("000002.jpg  1", "000002.jpg  yes"))
    with pytest.raises(DataError, match="a cell is not a number"):
        open_data(f"celeba:{place}")
    (place / "list_attr_celeba.txt").write_text(table)
    (place / "list_eval_partition.txt").write_text("000001.jpg 0")
    with pytest.raises(DataError, match="the partition lacks the image '000002.jpg'"):
        open_data(f"celeba:{place}")


@REAL
def test_real_images_with_the_real_tables(tmp_path: Path) -> None:
    (tmp_path / "img_align_celeba.zip").write_bytes((SHARED / "celeba_aligned44/images.zip").read_bytes())
    with ZipFile(SHARED / "celeba_meta/list_attr_celeba.zip") as archive:
        (tmp_path / "list_attr_celeba.txt").write_bytes(archive.read("list_attr_celeba.txt"))
    lines = gzip.decompress((SHARED / "celeba_meta/list_eval_partition.txt.gz").read_bytes()).decode().splitlines()
    moved = [f"{line[:-1]}{2 if i % 4 == 3 else line[-1]}" if i < 328 else line for i, line in enumerate(lines)]
    (tmp_path / "list_eval_partition.txt").write_text("\n".join(moved))
    data = open_data(f"celeba:{tmp_path}")
    check_data_set(data)
    assert isinstance(data, CelebA)
    assert (len(data), data.rows_without_image, len(data.schema)) == (44, 202_599 - 44, 40)
    folder = open_data(f"folder:{SHARED / 'celeba_aligned44'}")
    np.testing.assert_array_equal(data.labels_of(np.arange(44)), folder.labels_of(np.arange(44)))
    with ZipFile(SHARED / "celeba_aligned44/images.zip") as archive:
        assert len(data.split("test")) == sum(int(name[:6]) % 4 == 0 for name in archive.namelist())
