from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import cv2
import numpy as np
import pytest

from ccvae_eval.core.errors import CcvaeEvalError, DataError, UsageError
from ccvae_eval.data.labels.relabel import remarks
from ccvae_eval.data.sets.folder import Folder
from ccvae_eval.data.spec import open_data
from ccvae_eval.data.splits import split_by_name
from ccvae_eval.data.summary import describe
from ccvae_eval.testing.data import check_data_set
from tests.support.paths import SHARED as SHARED_ROOT

Write = Callable[..., Path]
TABLE = "file,On,Hair\n0.png,1,x\n1.png,0,y\n2.png,,x\n3.png,1,\n"


def rgb(data: Folder, index: int) -> np.ndarray:
    return (data.batch(np.array([index])).images[0] * 255).round().permute(1, 2, 0).numpy()


def picture(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def many(photos: Write, count: int = 30, **where: str) -> Path:
    return photos("file,On\n" + "".join(f"{i}.png,{i % 2}\n" for i in range(count)), count, **where)


def test_a_folder_is_a_valid_data_set(photos: Write) -> None:
    data = open_data(f"folder:{many(photos)}")
    check_data_set(data)
    assert data.input_shape == (3, 8, 8)
    assert np.array_equal(data.split("test"), split_by_name([f"{i}.png" for i in range(30)]).ids("test"))
    assert open_data(data.spec).digest == data.digest


def test_images_are_matched_with_their_labels(photos: Write) -> None:
    data = open_data(f"folder:{photos(TABLE)}")
    for index in range(4):
        assert np.array_equal(rgb(data, index), picture(index))
    assert np.array_equal(data.labels_of(np.arange(4)), [[1, 0], [0, 1], [np.nan, 0], [1, np.nan]], equal_nan=True)


@pytest.mark.parametrize("where", [{}, {"inside": "images/"}, {"zipped": "x.zip"}, {"zipped": "x.zip", "inside": "d/"}])
def test_images_in_subfolders_and_zips(photos: Write, where: dict[str, str]) -> None:
    data = open_data(f"folder:{photos(TABLE, **where)}")
    assert np.array_equal(rgb(data, 2), picture(2))


def test_a_zip_with_its_table_inside_or_beside_it(photos: Write) -> None:
    place = photos(TABLE, zipped="x.zip")
    beside = open_data(f"folder:{place / 'x.zip'}")
    assert np.array_equal(rgb(beside, 3), picture(3))
    with ZipFile(place / "x.zip", "a") as archive:
        archive.writestr("attributes.csv", TABLE.replace("On", "Off"))
    assert open_data(f"folder:{place / 'x.zip'}").schema.names[0] == "Off"


def test_of_two_zips_the_one_with_every_row_is_used(photos: Write) -> None:
    place = photos(TABLE, zipped="small.zip")
    photos(TABLE, {"1.png": picture(1, 16, 16)}, zipped="large.zip")
    assert (len(data := open_data(f"folder:{place}")), data.input_shape) == (4, (3, 8, 8))
    large = open_data(f"folder:{place},images=large.zip")
    assert (len(large), large.input_shape, large.rows_without_image) == (1, (3, 16, 16), 3)


@pytest.mark.parametrize("rows", [1, 4])
def test_two_equal_zips_are_ambiguous(photos: Write, rows: int) -> None:
    files = {f"{i}.png": picture(i) for i in range(rows)}
    place = photos(TABLE, files, zipped="small.zip")
    photos(TABLE, files, zipped="large.zip")
    with pytest.raises(DataError, match=r"2 zips of images\n.*images=large\.zip \(or small\.zip\)"):
        open_data(f"folder:{place}")
    assert len(open_data(f"folder:{place},images=small.zip")) == rows


def test_rows_without_image_and_images_without_row_are_counted(photos: Write) -> None:
    place = photos("file,On\n1.png,1\nnone.png,0\n3.png,0\n")
    data = open_data(f"folder:{place}")
    assert len(data) == 2
    assert (data.rows_without_image, data.images_without_row) == (1, 2)
    assert np.array_equal(rgb(data, 1), picture(3))
    assert data.labels_of(np.arange(2))[:, 0].tolist() == [1, 0]


@pytest.mark.parametrize(("files", "what"), [((), "is empty"), (("a.txt", "b.txt"), "contains 2 .txt")])
def test_the_content_of_a_folder_without_a_table_is_named(tmp_path: Path, files: tuple[str, ...], what: str) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=rf"table of labels does not exist \(the folder {re.escape(what)}\)"):
        open_data(f"folder:{tmp_path}")


def test_what_is_left_out_and_unusual_labels_are_remarked_on(photos: Write) -> None:
    table = "file,On,Maybe,Real\n0.png,1,no,1\n1.png,1,yes,0\n2.png,1,maybe,1\nnone.png,,no,0\n"
    data = open_data(f"folder:{photos(table)}")
    left, constant, classes = remarks(data)
    assert left == "Left out: rows of the table without an image (1), images without a row (1)."
    assert constant == "On has one value, present, in all images, so its values are undefined."
    assert classes.startswith("Maybe is read as a label of 3 classes: maybe, no, yes.")
    assert describe(data)["remarks"] == [left, constant, classes]
    assert remarks(data, ["Real"]) == [left]
    assert remarks(open_data("digits")) == []


def test_images_without_a_mask_are_counted(photos: Write, tmp_path: Path) -> None:
    table = "file,A,B\n0.png,1,1\n1.png,0,1\n2.png,1,0\n"
    place = photos(table, 3)
    for label, count in (("A", 1), ("B", 3)):
        (tmp_path / "masks" / label).mkdir(parents=True)
        for index in range(count):
            cv2.imwrite(str(tmp_path / "masks" / label / f"{index}.png"), np.full((8, 8), 255, np.uint8))
    found = remarks(open_data(f"folder:{place},regions={tmp_path / 'masks'}"))
    assert found == ["Of 3 images only these have a mask, and the others no region: A 1."]


def test_the_split_column_and_chosen_labels(photos: Write) -> None:
    table = "file,A,split,B\n0.png,1,train,0\n1.png,0,test,1\n2.png,1,val,0\n3.png,0,test,1\n"
    data = open_data(f"folder:{photos(table)},labels=B")
    assert data.schema.names == ("B",)
    assert [data.split(name).tolist() for name in ("train", "judge", "test")] == [[0], [2], [1, 3]]


def test_resizing_and_grey_images(photos: Write) -> None:
    place = photos("file,On\n0.png,1\n1.png,0\n", {"0.png": picture(0, 8, 12), "1.png": picture(1, 30, 20)})
    with pytest.raises(DataError, match=r"1\.png: the image has 20 x 30 pixels, the first image 12 x 8\n.*size=64"):
        open_data(f"folder:{place}").batch(np.array([0, 1]))
    data = open_data(f"folder:{place},size=4")
    assert data.input_shape == (3, 4, 4)
    expected = picture(0, 8, 12)[:, 2:10].reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    assert np.abs(rgb(data, 0) - expected).max() <= 0.5
    grey = open_data(f"folder:{place},size=4,channels=1")
    assert grey.input_shape == (1, 4, 4)
    luma = rgb(data, 0) @ np.array([0.299, 0.587, 0.114])
    assert np.abs(rgb(grey, 0)[..., 0] - luma).max() <= 0.5 + 1e-3


def test_the_digest_depends_on_images_labels_and_options(photos: Write) -> None:
    place = many(photos)
    digests = {open_data(f"folder:{place}{option}").digest for option in ("", ",size=8", ",size=4", ",channels=1")}
    assert len(digests) == 3  # 8 is the original size
    (place / "attributes.csv").write_text((place / "attributes.csv").read_text().replace("5.png,1", "5.png,0"))
    digests.add(open_data(f"folder:{place}").digest)
    (place / "7.png").write_bytes((place / "8.png").read_bytes())
    digests.add(open_data(f"folder:{place}").digest)
    assert len(digests) == 5


@pytest.mark.parametrize("files", [["run.json", "values.csv"], ["training.pt", "history.csv"]], ids=["run", "training"])
def test_results_in_the_folder_do_not_belong_to_the_data(photos: Write, files: list[str]) -> None:
    place = many(photos)
    digest = open_data(f"folder:{place}").digest
    results = place / "runs" / "ckpt-1"
    (results / "figures").mkdir(parents=True)
    for picture in (results / "history.png", results / "figures" / "5.png"):
        picture.write_bytes((place / "7.png").read_bytes())
    assert open_data(f"folder:{place}").digest != digest, "any other folder belongs to the data"
    for name in files:
        (results / name).write_text("")
    data = open_data(f"folder:{place}")
    assert (data.digest, data.remarks()) == (digest, [])


def test_a_damaged_image_is_named_when_it_is_read(photos: Write) -> None:
    place = photos(TABLE)
    whole = (place / "2.png").read_bytes()
    (place / "2.png").write_bytes(whole[:-10])
    data = open_data(f"folder:{place}")
    assert len(data.batch(np.array([0, 1, 3]))) == 3
    with pytest.raises(DataError, match=r"2\.png: the image is truncated") as caught:
        data.batch(np.arange(4))
    assert caught.value.exit_code == 3


def test_files_outside_the_folder_are_not_opened(photos: Write, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    place = photos(f"file,On\n../secret.png,1\n{tmp_path}/secret.png,0\n")
    with pytest.raises(DataError, match="no row of the table matches an image"):
        open_data(f"folder:{place}")


@pytest.mark.parametrize(
    ("table", "pictures", "message"),
    [
        ("", 2, r"attributes\.csv: the table of labels does not exist \(the folder contains 2 \.png\)\nExpected a CSV"),
        (TABLE, 0, r"the folder contains no images \(it contains 1 \.csv\)\nExpected PNG or JPEG"),
        (
            "file,On\na.png,1\n",
            2,
            r"the first of 1 rows is 'a\.png', the first of 2 images '0\.png'\)\nThe first column",
        ),
        ("file;On\n0.png;1\n", 2, r"separated by semicolons, not by commas \(the first line begins with 'file;On'\)"),
        ("file\tOn\n0.png\t1\n", 2, r"separated by tabs, not by commas \(the first line begins with 'file On'\)"),
        (
            "On,file\n1,0.png\n0,1.png\n",
            2,
            "'On', has '1' in its first row.*\n.*in column 'file': move it to the front",
        ),
        ("file,On\n0.png,1\n0.png,1\n", 2, "'0.png' is listed twice"),
    ],
)
def test_unusable_folders_are_rejected(photos: Write, table: str, pictures: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_data(f"folder:{photos(table, pictures)}")


def test_a_table_of_another_name_is_suggested(photos: Write) -> None:
    place = photos("", 2)
    (place / "labels.csv").write_text(TABLE)
    with pytest.raises(DataError, match="If it is 'labels.csv', write attributes=labels.csv"):
        open_data(f"folder:{place}")


def test_a_zip_without_images_is_rejected(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("attributes.csv", TABLE)
    with pytest.raises(DataError, match=r"x\.zip: it contains no PNG or JPEG images"):
        open_data(f"folder:{tmp_path / 'x.zip'}")


def test_invalid_paths_and_options_are_rejected(photos: Write, tmp_path: Path) -> None:
    place = photos(TABLE)
    for spec, kind in (
        ("folder", UsageError),
        (f"folder:{tmp_path / 'nowhere'}", DataError),
        (f"folder:{place / 'attributes.csv'}", DataError),
        (f"folder:{place},images=none.zip", DataError),
        (f"folder:{place},attributes=none.csv", DataError),
        (f"folder:{place},size=-1", UsageError),
        (f"folder:{place},channels=4", UsageError),
        (f"folder:{place},labels=Onn", UsageError),
        (f"folder:{place},label=x", UsageError),
        (f"folder:{place},colour=1", UsageError),
    ):
        with pytest.raises(CcvaeEvalError) as caught:
            open_data(spec)
        assert type(caught.value) is kind, spec


SHARED = SHARED_ROOT / "data/celebahq64"


@pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data/celebahq64 is missing")
def test_real_photographs() -> None:
    labels = "Hair=Bald|Black_Hair|Blond_Hair|Brown_Hair|Gray_Hair"
    data = open_data(f"folder:{SHARED},images=images64.zip", [labels])
    assert (len(data), data.input_shape, len(data.schema)) == (20000, (3, 64, 64), 36)
    images = data.batch(np.arange(0, 20000, 500)).images
    assert 0.3 < float(images.mean()) < 0.6
    assert float(images[:, 0].mean()) > float(images[:, 2].mean()) + 0.05  # skin is more red than blue
    large = open_data(f"folder:{SHARED},images=images256.zip,size=64,labels=Male|Smiling")
    files = {name: i for i, name in enumerate(data.inner._attributes.files)}
    same = np.array([files[name] for name in large._attributes.files[:20]])
    change = (large.batch(np.arange(20)).images - data.batch(same).images).abs().mean()
    assert float(change) < 0.03


def test_crop_and_pad_select_what_is_resized(photos: Write) -> None:
    place = photos("file,On\n0.png,1\n", {"0.png": picture(0, 10, 8)})
    assert np.array_equal(rgb(open_data(f"folder:{place},crop=6"), 0), picture(0, 10, 8)[2:8, 1:7])
    assert open_data(f"folder:{place},pad=2,crop=12").input_shape == (3, 12, 12)
    padded = rgb(open_data(f"folder:{place},pad=1"), 0)
    assert np.array_equal(padded[1:-1, 1:-1], picture(0, 10, 8))
    assert not padded[0].any()
    whole, square = (rgb(open_data(f"folder:{place},size=4,crop={crop}"), 0) for crop in ("whole", "square"))
    assert not np.array_equal(whole, square)
    assert len({open_data(f"folder:{place},size=4{crop}").digest for crop in ("", ",crop=whole", ",crop=6")}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("crop=whole", "crop=whole needs size=N"),
        ("crop=0", "crop must be square, whole or a number"),
        ("size=4,crop=9", "crop=9 exceeds the image of 8 x 8"),
        ("crop=4,regions=masks", "crop and pad do not apply to masks"),
        ("on_error=no", "on_error must be one of stop, skip"),
    ],
)
def test_invalid_views_are_rejected(photos: Write, options: str, message: str) -> None:
    with pytest.raises(CcvaeEvalError, match=message):
        open_data(f"folder:{photos(TABLE)},{options}").batch(np.array([0]))


def test_the_boxes_of_cropped_images_follow_the_crop(photos: Write) -> None:
    pictures = {"0.png": picture(0, 218, 178)}
    place = photos("file,Eyeglasses\n0.png,1\n", pictures)
    areas = [
        open_data(f"folder:{place},size=64,crop={crop},regions=celeba").region(np.array([0]), "Eyeglasses").mean()
        for crop in ("100", "square", "whole")
    ]
    assert areas[0] > areas[1] > areas[2] > 0


def test_boxes_of_celeba_on_a_folder_that_is_named_like_celeba_hq_are_remarked(photos: Write, tmp_path: Path) -> None:
    place = photos("file,Eyeglasses\n0.png,1\n", {"0.png": picture(0, 64, 64)})
    named = place.rename(tmp_path / "CelebAMask-HQ64")
    wanted = "those of CelebA-HQ are regions=celebahq"
    assert wanted in " ".join(remarks(open_data(f"folder:{named},regions=celeba")))
    assert wanted not in " ".join(remarks(open_data(f"folder:{named},regions=celebahq")))


def test_images_that_cannot_be_read_are_left_out_on_request(photos: Write) -> None:
    place = many(photos)
    (place / "0.png").write_bytes(b"damaged")
    (place / "7.png").write_bytes(b"damaged")
    data = open_data(f"folder:{place},on_error=skip")
    assert data.unreadable == ("0.png", "7.png")
    assert len(data) == 28
    check_data_set(data)


@pytest.mark.parametrize("zipped", [False, True])
def test_images_in_a_folder_for_each_class(photos: Write, zipped: bool) -> None:
    files = {f"{kind}/{i}.png": picture(i) for i in range(10) for kind in ("cat", "dog")}
    place = photos("", files, zipped="x.zip") if zipped else photos("", {**files, "stray.png": picture(3)})
    data = open_data(f"folder:{place}")
    check_data_set(data)
    assert isinstance(data, Folder)
    assert data.schema["class"].classes == ("cat", "dog")
    assert data.labels_of(np.arange(20))[:, 0].tolist() == [0.0] * 10 + [1.0] * 10
    assert np.array_equal(rgb(data, 13), picture(3))
    assert data.images_without_row == (0 if zipped else 1)
    if zipped:
        assert len(open_data(f"folder:{place / 'x.zip'}")) == 20
    (place / "labels.csv").write_text(TABLE)
    with pytest.raises(DataError, match="attributes=labels.csv"):
        open_data(f"folder:{place}")


def test_class_folders_in_split_folders(photos: Write) -> None:
    files = {f"{part}/{kind}/{i}.png": picture(i) for part in ("train", "test") for kind in "ab" for i in range(9)}
    data = open_data(f"folder:{photos('', files)}")
    check_data_set(data)
    assert data.split("test").tolist() == list(range(18))
    assert 0 < len(data.split("judge")) < 18


def test_labels_in_the_names_of_the_files(photos: Write) -> None:
    files = {f"part/{20 + i}_{i % 2}_{i % 3}_2017.jpg": picture(i) for i in range(24)}
    data = open_data(f"folder:{photos('', files)},names=age_gender_race_*")
    check_data_set(data)
    assert [label.kind for label in data.schema] == ["continuous", "binary", "categorical"]
    assert data.labels_of(np.array([5])).tolist() == [[25, 1, 2]]
    assert remarks(data) == []
    assert open_data(f"folder:{photos('', files)},names=age_gender_race_*,labels=race").schema.names == ("race",)
