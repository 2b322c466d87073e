"""Regions of photographs from boxes, part masks and user masks, on synthetic masks and, if available, real ones."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from ccvae_eval.core.errors import DataError
from ccvae_eval.data.images.regions import (
    FACE_BOX_OF,
    FACE_BOXES,
    FRAMES,
    PARTS,
    PARTS_OF,
    RELEASED_FOLDER,
    Boxes,
    PartMaps,
    box_region,
    regions_in,
)
from ccvae_eval.data.interface import HasRegions
from ccvae_eval.data.spec import open_data
from ccvae_eval.model.interface import supports
from ccvae_eval.testing.data import check_data_set
from tests.data.conftest import Write
from tests.support.paths import SHARED

MASKS = SHARED / "data/celebahq_masks"
TABLE = "file,Eyeglasses,Young\n0.png,0,1\n1.png,1,0\n2.png,0,1\n3.png,1,1\n"
GLOBAL = {
    "Attractive", "Blurry", "Chubby", "Heavy_Makeup", "High_Cheekbones", "Male", "Oval_Face", "Pale_Skin", "Young",
}  # fmt: skip


def test_local_attributes_have_boxes_and_global_ones_do_not() -> None:
    assert set(FACE_BOX_OF.values()) == set(FACE_BOXES)
    assert len(FACE_BOX_OF) + len(GLOBAL) == 40
    assert not GLOBAL & set(FACE_BOX_OF)
    assert set(PARTS_OF) <= set(FACE_BOX_OF)
    assert all(box_region(label, FRAMES["celeba"], FRAMES["celeba"].middle(), 64, 64) is None for label in GLOBAL)


@pytest.mark.parametrize("frame", FRAMES.values(), ids=list(FRAMES))
def test_boxes_cover_eyes_and_mouth_and_are_small_enough_for_a_region(frame) -> None:
    for label in FACE_BOX_OF:
        region = box_region(label, frame, frame.middle(), 64, 64)
        assert region is not None
        assert 0 < region.mean() < 0.6, label
    eyes = box_region("Eyeglasses", frame, frame.middle(), 512, 512)
    mouth = box_region("Smiling", frame, frame.middle(), 512, 512)
    left, _, top, _ = frame.middle()
    scale = 512 / (frame.middle()[1] - left)
    for side in (-0.5, 0.5):
        x = (frame.eyes[0] + side * frame.unit - left) * scale
        assert eyes[round((frame.eyes[1] - top) * scale), round(x)]
    assert mouth[round((frame.eyes[1] + 1.08 * frame.unit - top) * scale), 256]
    assert not (eyes & mouth).any()


def test_boxes_follow_the_crop() -> None:
    frame = FRAMES["celeba"]
    whole = box_region("Eyeglasses", frame, frame.whole, 218, 178)
    square = box_region("Eyeglasses", frame, frame.middle(), 178, 178)
    closer = box_region("Eyeglasses", frame, frame.middle(128), 128, 128)
    np.testing.assert_array_equal(whole[20:198], square)
    np.testing.assert_array_equal(square[25:153, 25:153], closer)


def test_boxes_for_a_folder_of_aligned_faces(photos: Write) -> None:
    place = photos(TABLE)
    assert not supports(open_data(f"folder:{place}"), HasRegions)
    data = open_data(f"folder:{place},regions=celebahq")
    check_data_set(data)
    assert supports(data, HasRegions)
    assert data.region_source == "boxes of the CelebA-HQ frame"
    eyes = data.region(np.arange(3), "Eyeglasses")
    assert eyes is not None
    assert eyes.shape == (3, 8, 8)
    assert data.region(np.arange(3), "Young") is None
    assert data.digest == open_data(f"folder:{place}").digest, "the images are the same"
    assert open_data(data.spec).region_source == data.region_source


def test_masks_of_the_user(photos: Write) -> None:
    place = photos(TABLE)
    (place / "masks/Eyeglasses").mkdir(parents=True)
    white = np.zeros((16, 16), np.uint8)
    white[:4, :8] = 255
    cv2.imwrite(str(place / "masks/Eyeglasses/1.png"), white)
    data = open_data(f"folder:{place},regions=masks")
    check_data_set(data)
    assert supports(data, HasRegions)
    assert data.region_source == "masks of the user, masks"
    region = data.region(np.arange(4), "Eyeglasses")
    assert region is not None
    assert region.sum((1, 2)).tolist() == [0, 8, 0, 0], "a picture without a mask has an empty region"
    assert region[1, :2, :4].all()
    assert data.region(np.arange(4), "Young") is None


def test_label_maps_of_celebamask(tmp_path: Path) -> None:
    numbers = np.zeros((100, 100), np.uint8)
    numbers[40:44, 30:40] = PARTS.index("l_eye")
    numbers[70:75, 40:60] = PARTS.index("u_lip")
    cv2.imwrite(str(tmp_path / "00007.png"), numbers)
    maps = regions_in(tmp_path)
    assert isinstance(maps, PartMaps)
    mouth = maps.of("00007.jpg", "Smiling", 100, 100)
    assert mouth is not None
    np.testing.assert_array_equal(np.nonzero(mouth.any(1))[0], np.arange(67, 78))
    eyes = maps.of("00007.jpg", "Eyeglasses", 100, 100)
    assert eyes is not None
    np.testing.assert_array_equal(np.nonzero(eyes.any(0))[0], np.arange(21, 49))
    assert maps.of("00007.jpg", "Male", 100, 100) is None
    unknown = maps.of("00008.jpg", "Smiling", 100, 100)
    assert unknown is not None
    assert not unknown.any()


SPOTS = {
    "skin": np.s_[10:90, 10:90],
    "nose": np.s_[45:65, 45:55],
    "l_eye": np.s_[40:44, 30:40],
    "mouth": np.s_[68:80, 35:65],
    "u_lip": np.s_[66:70, 35:65],
    "hair": np.s_[5:42, 5:35],
}
"""Overlapping parts of a synthetic face: hair over an eye, a lip over the mouth, all over skin."""


def _release(folder: Path, picture: int, *parts: str) -> None:
    """Writes part files of one image in the layout of CelebAMask-HQ, with three channels."""
    place = folder / RELEASED_FOLDER / str(picture // 2000)
    place.mkdir(parents=True, exist_ok=True)
    for part in parts:
        white = np.zeros((100, 100, 3), np.uint8)
        white[SPOTS[part]] = 255
        cv2.imwrite(str(place / f"{picture:05d}_{part}.png"), white)


@pytest.mark.parametrize("inside", ["", RELEASED_FOLDER], ids=["parent", "folder"])
@pytest.mark.parametrize(("picture", "file"), [(1, "1.jpg"), (1, "images/00001.jpg"), (2001, "2001.png")])
def test_released_part_files_equal_their_label_map(tmp_path: Path, inside: str, picture: int, file: str) -> None:
    numbers = np.zeros((100, 100), np.uint8)
    for part, spot in SPOTS.items():
        numbers[spot] = PARTS.index(part)
    (tmp_path / "maps").mkdir()
    cv2.imwrite(str(tmp_path / f"maps/{Path(file).stem}.png"), numbers)
    _release(tmp_path / "released", picture, *SPOTS)
    (tmp_path / "released/CelebA-HQ-img").mkdir()
    maps, released = regions_in(tmp_path / "maps"), regions_in(tmp_path / "released" / inside)
    assert released.source == maps.source
    for label in PARTS_OF:
        expected, found = maps.of(file, label, 64, 64), released.of(file, label, 64, 64)
        assert expected is not None
        assert found is not None
        np.testing.assert_array_equal(found, expected, err_msg=label)
    assert released.of(file, "Smiling", 64, 64).any()
    assert not released.of(file, "Wearing_Earrings", 64, 64).any(), "an absent part has no file"
    assert released.of(file, "Male", 64, 64) is None


@pytest.mark.parametrize("file", ["2.jpg", "4000.jpg", "face.jpg", "1_mouth.jpg"])
def test_an_image_without_released_part_files_has_empty_regions(tmp_path: Path, file: str) -> None:
    _release(tmp_path, 1, *SPOTS)
    region = regions_in(tmp_path).of(file, "Smiling", 64, 64)
    assert region is not None
    assert not region.any()


def test_released_part_files_for_a_folder_of_photos(photos: Write) -> None:
    place = photos(TABLE)
    _release(place / "masks", 1, "l_eye")
    data = open_data(f"folder:{place},regions=masks")
    check_data_set(data)
    assert data.region(np.arange(4), "Eyeglasses").any((1, 2)).tolist() == [False, True, False, False]


def test_label_folders_with_numeric_names_are_user_masks(tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    cv2.imwrite(str(tmp_path / "3/00001.png"), np.full((8, 8), 255, np.uint8))
    assert regions_in(tmp_path).of("00001.jpg", "3", 8, 8).all()


def test_folders_in_other_layouts_are_rejected(tmp_path: Path) -> None:
    _release(tmp_path, 1, "mouth")
    with pytest.raises(DataError, match=rf"no masks.*'00001_mouth.png' is a part file.*folder {RELEASED_FOLDER}"):
        regions_in(tmp_path / RELEASED_FOLDER / "0")
    (tmp_path / RELEASED_FOLDER / "0/00001_mouth.png").unlink()
    expected = rf"no masks(.|\n)*LABEL/NAME.png, label maps NAME.png, or {RELEASED_FOLDER} with"
    for folder in (tmp_path, tmp_path / RELEASED_FOLDER):
        with pytest.raises(DataError, match=expected):
            regions_in(folder)
    (tmp_path / "photos/train").mkdir(parents=True)
    (tmp_path / "photos/train/1.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=expected):
        regions_in(tmp_path / "photos")


def test_parts_of_different_sizes_are_rejected(tmp_path: Path) -> None:
    _release(tmp_path, 1, "skin")
    cv2.imwrite(str(tmp_path / RELEASED_FOLDER / "0/00001_mouth.png"), np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match=r"00001_mouth.png: the mask differs in size"):
        regions_in(tmp_path).of("1.jpg", "Smiling", 64, 64)


def test_unreadable_masks_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the folder of masks does not exist"):
        regions_in(tmp_path / "nowhere")
    with pytest.raises(DataError, match="has no masks in a supported layout"):
        regions_in(tmp_path)
    (tmp_path / "00001.png").write_bytes(b"no png")
    with pytest.raises(DataError, match="00001.png: the file is not a mask .it is an unknown format"):
        regions_in(tmp_path).of("00001.jpg", "Smiling", 64, 64)
    cv2.imwrite(str(tmp_path / "00002.png"), np.full((8, 8), 99, np.uint8))
    with pytest.raises(DataError, match="part numbers run from 0 to 18, it contains 99"):
        regions_in(tmp_path).of("00002.jpg", "Smiling", 64, 64)


def test_a_lossy_mask_would_enlarge_the_region_and_is_rejected(tmp_path: Path) -> None:
    mask = cv2.ellipse(np.zeros((64, 64), np.uint8), ((32, 32), (40, 20), 0), 255, -1)
    content = cv2.imencode(".jpg", mask)[1]
    assert np.count_nonzero(cv2.imdecode(content, cv2.IMREAD_UNCHANGED)) > 1.1 * np.count_nonzero(mask)
    (tmp_path / "Smiling").mkdir()
    (tmp_path / "Smiling/1.png").write_bytes(content.tobytes())
    with pytest.raises(DataError, match=r"it is a JPEG.*\n.*8 bits per pixel"):
        regions_in(tmp_path).of("1.jpg", "Smiling", 64, 64)


@pytest.mark.skipif(not MASKS.is_dir(), reason="shared/data/celebahq_masks is missing")
@pytest.mark.parametrize("label", ["Eyeglasses", "Smiling", "Arched_Eyebrows", "Big_Nose"])
def test_boxes_contain_the_parts_of_real_faces(label: str) -> None:
    frame = FRAMES["celebahq"]
    box = Boxes(frame, frame.middle()).of("", label, 512, 512)
    assert box is not None
    for path in sorted(MASKS.glob("*.png")):
        numbers = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        part = np.isin(numbers, [PARTS.index(name) for name in PARTS_OF[label]])
        assert (part & box).sum() / part.sum() > 0.8, path.name
