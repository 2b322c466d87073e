"""Regions of photographs: boxes of an aligned face, part masks of CelebAMask-HQ, or masks of one's own.

Where CelebA's local attributes live in an aligned face: boxes in units of the distance between the eyes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError
from ccvae_eval.core.types import Bools
from ccvae_eval.data.images.decode import MOST_BYTES

Box = tuple[float, float, float, float]
"""Left, right, top, bottom from the middle between the eyes, in distances between the eyes, y downwards."""

PLACES: Mapping[str, tuple[Box, ...]] = MappingProxyType(
    {
        "crown": ((-1.7, 1.7, -3.0, -0.75),),
        "hair": ((-1.7, 1.7, -3.0, -0.75), (-2.3, -1.1, -0.75, 1.8), (1.1, 2.3, -0.75, 1.8)),
        "forehead": ((-1.15, 1.15, -1.7, -0.4),),
        "hairline": ((-1.1, 1.1, -1.9, -0.75),),
        "brows": ((-1.1, 1.1, -0.6, -0.05),),
        "eyes": ((-1.2, 1.2, -0.4, 0.45),),
        "lids": ((-0.9, 0.9, -0.2, 0.2),),
        "below the eyes": ((-0.9, -0.15, 0.1, 0.5), (0.15, 0.9, 0.1, 0.5)),
        "nose": ((-0.45, 0.45, -0.1, 0.85),),
        "cheeks": ((-1.15, -0.35, 0.3, 1.1), (0.35, 1.15, 0.3, 1.1)),
        "temples": ((-1.4, -0.85, -0.3, 1.0), (0.85, 1.4, -0.3, 1.0)),
        "ears": ((-1.65, -1.05, -0.1, 1.5), (1.05, 1.65, -0.1, 1.5)),
        "upper lip": ((-0.65, 0.65, 0.6, 1.1),),
        "mouth": ((-0.75, 0.75, 0.7, 1.5),),
        "chin": ((-0.6, 0.6, 1.05, 2.0),),
        "jaw": ((-1.2, 1.2, 0.6, 2.0),),
        "below the chin": ((-0.95, 0.95, 1.5, 2.4),),
        "neck": ((-1.4, 1.4, 1.8, 3.3),),
        "collar": ((-0.6, 0.6, 1.9, 3.4),),
    }
)

PLACE_OF: Mapping[str, str] = MappingProxyType(
    {
        "5_o_Clock_Shadow": "jaw",
        "Arched_Eyebrows": "brows",
        "Bags_Under_Eyes": "below the eyes",
        "Bald": "crown",
        "Bangs": "forehead",
        "Big_Lips": "mouth",
        "Big_Nose": "nose",
        "Black_Hair": "hair",
        "Blond_Hair": "hair",
        "Brown_Hair": "hair",
        "Bushy_Eyebrows": "brows",
        "Double_Chin": "below the chin",
        "Eyeglasses": "eyes",
        "Goatee": "chin",
        "Gray_Hair": "hair",
        "Mouth_Slightly_Open": "mouth",
        "Mustache": "upper lip",
        "Narrow_Eyes": "lids",
        "No_Beard": "jaw",
        "Pointy_Nose": "nose",
        "Receding_Hairline": "hairline",
        "Rosy_Cheeks": "cheeks",
        "Sideburns": "temples",
        "Smiling": "mouth",
        "Straight_Hair": "hair",
        "Wavy_Hair": "hair",
        "Wearing_Earrings": "ears",
        "Wearing_Hat": "crown",
        "Wearing_Lipstick": "mouth",
        "Wearing_Necklace": "neck",
        "Wearing_Necktie": "collar",
    }
)
"""The local attributes of CelebA. The others are of the whole face and have no box: Attractive, Blurry, Chubby,
Heavy_Makeup, High_Cheekbones, Male, Oval_Face, Pale_Skin and Young."""


@dataclass(frozen=True, slots=True)
class Frame:
    """How faces are aligned, all in pixels of the original picture.

    Args:
        name: for reports.
        width, height: of the picture.
        eyes: the middle between the eyes.
        unit: the distance between the eyes.
    """

    name: str
    width: float
    height: float
    eyes: tuple[float, float]
    unit: float

    def middle(self, edge: float | None = None) -> Box:
        """The middle square as (left, right, top, bottom) in pixels of the picture; ``edge`` = its side."""
        side = min(self.width, self.height) if edge is None else edge
        left, top = (self.width - side) / 2, (self.height - side) / 2
        return left, left + side, top, top + side

    @property
    def whole(self) -> Box:
        return 0.0, self.width, 0.0, self.height


FRAMES: Mapping[str, Frame] = MappingProxyType(
    {
        "celeba": Frame("the aligned CelebA frame", 178.0, 218.0, (88.5, 111.5), 38.0),
        "celebahq": Frame("the CelebA-HQ frame", 512.0, 512.0, (256.0, 245.5), 127.0),
    }
)
"""CelebA: eyes at (69.5, 111.5) and (107.5, 111.5), where its alignment puts them; CelebA-HQ: measured on the eyes of
part masks of 512 pixels, three faces (x within 1 pixel, y within 1, distance 124 to 129)."""


def box_region(label: str, frame: Frame, view: Box, height: int, width: int) -> Bools | None:
    """The boxes of a label in the picture that a data set shows, shape (height, width); None for a global label.

    Args:
        label: a name of CelebA's.
        frame: how the faces are aligned.
        view: the part of the original picture that is shown, (left, right, top, bottom) in its pixels.
        height, width: of the picture that is shown.

    >>> region = box_region("Eyeglasses", FRAMES["celeba"], FRAMES["celeba"].middle(), 64, 64)
    >>> rows, columns = np.nonzero(region)
    >>> rows.min(), rows.max(), columns.min(), columns.max()
    (np.int64(27), np.int64(38), np.int64(15), np.int64(47))
    """
    place = PLACE_OF.get(label)
    if place is None:
        return None
    left, right, top, bottom = view
    x = (left + (np.arange(width) + 0.5) / width * (right - left) - frame.eyes[0]) / frame.unit
    y = (top + (np.arange(height) + 0.5) / height * (bottom - top) - frame.eyes[1]) / frame.unit
    region = np.zeros((height, width), np.bool_)
    for first, last, high, low in PLACES[place]:
        region |= ((y >= high) & (y <= low))[:, None] & ((x >= first) & (x <= last))
    return region


PARTS = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip",
    "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip
"""The numbers in a label map of CelebAMask-HQ."""
RELEASED = "CelebAMask-HQ-mask-anno"
"""The folder of the released CelebAMask-HQ with its part files, ``N/00001_mouth.png``."""
PICTURES_IN_FOLDER = 2000
"""So many pictures have their part files in one of its numbered folders."""
_PART_FILE = re.compile(rf"[0-9]{{5}}_({'|'.join(PARTS[1:])})\.png")

_HAIR, _BROWS, _MOUTH = ("hair", "hat"), ("l_brow", "r_brow"), ("mouth", "u_lip", "l_lip")
PARTS_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "Arched_Eyebrows": _BROWS,
        "Bald": _HAIR,
        "Bangs": _HAIR,
        "Big_Lips": _MOUTH,
        "Big_Nose": ("nose",),
        "Black_Hair": _HAIR,
        "Blond_Hair": _HAIR,
        "Brown_Hair": _HAIR,
        "Bushy_Eyebrows": _BROWS,
        "Eyeglasses": ("eye_g", "l_eye", "r_eye"),
        "Gray_Hair": _HAIR,
        "Mouth_Slightly_Open": _MOUTH,
        "Narrow_Eyes": ("l_eye", "r_eye"),
        "Pointy_Nose": ("nose",),
        "Receding_Hairline": _HAIR,
        "Smiling": _MOUTH,
        "Straight_Hair": _HAIR,
        "Wavy_Hair": _HAIR,
        "Wearing_Earrings": ("l_ear", "r_ear", "ear_r"),
        "Wearing_Hat": _HAIR,
        "Wearing_Lipstick": _MOUTH,
        "Wearing_Necklace": ("neck", "neck_l"),
        "Wearing_Necktie": ("neck", "cloth"),
    }
)
"""The parts that a local attribute changes; a face without glasses has eyes where they would be."""

MARGIN = 0.03
"""Parts are widened by this share of the picture's width: an open mouth is larger than a closed one."""
GLASSES_MARGIN = 0.09
"""And eyes by this, for the glasses that are not there."""


class Regions(Protocol):
    """Where labels live in the pictures of one data set."""

    @property
    def source(self) -> str: ...

    def of(self, file: str, label: str, height: int, width: int) -> Bools | None:
        """The region of a label in one picture, shape (height, width); None if the label has no region at all."""
        ...


class Boxes:
    """The same boxes in every picture.

    Args:
        frame: how the faces are aligned.
        view: the part of the original picture that is shown.
    """

    def __init__(self, frame: Frame, view: Box) -> None:
        self.frame, self.view = frame, view

    @property
    def source(self) -> str:
        return f"boxes of {self.frame.name}"

    def of(self, file: str, label: str, height: int, width: int) -> Bools | None:
        del file
        return box_region(label, self.frame, self.view, height, width)


class Masks:
    """One file for each label and picture: ``LABEL/NAME.png``, white where the label lives.

    Args:
        folder: with a folder for each label that has a region.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.labels = frozenset(path.name for path in folder.iterdir() if path.is_dir())

    @property
    def source(self) -> str:
        return f"masks of the user, {self.folder.name}"

    def of(self, file: str, label: str, height: int, width: int) -> Bools | None:
        if label not in self.labels:
            return None
        path = self.folder / label / f"{PurePosixPath(file).stem}.png"
        if not path.is_file():
            return np.zeros((height, width), np.bool_)
        return _squeezed(_read(path) > 0, height, width)


class PartMaps:
    """Label maps of CelebAMask-HQ: the number of a part in each pixel.

    Args:
        folder: with the label maps, or what they are made of.
        map_of: the label map in the folder for a picture's name without its ending; None if there is none.
    """

    source = "part masks of CelebAMask-HQ"

    def __init__(self, folder: Path, map_of: Callable[[Path, str], NDArray[np.uint8] | None]) -> None:
        self.folder, self._map_of = folder, map_of

    def of(self, file: str, label: str, height: int, width: int) -> Bools | None:
        parts = PARTS_OF.get(label)
        if parts is None:
            return None
        numbers = self._map_of(self.folder, PurePosixPath(file).stem)
        if numbers is None:
            return np.zeros((height, width), np.bool_)
        found = np.isin(numbers, [PARTS.index(part) for part in parts])
        margin = GLASSES_MARGIN if label == "Eyeglasses" and not (numbers == PARTS.index("eye_g")).any() else MARGIN
        return _squeezed(_widened(found, margin), height, width)


def regions_in(folder: Path) -> Regions:
    """The masks of a folder, by what lies in it.

    * The released CelebAMask-HQ, or its folder ``CelebAMask-HQ-mask-anno``: ``N/00001_mouth.png``, white where the
      part is, the number of the picture in CelebA-HQ first.
    * ``NAME.png``: label maps of CelebAMask-HQ.
    * ``LABEL/NAME.png``: white where the label lives.

    Raises:
        DataError: there is no such folder, or none of these in it.
    """
    if not folder.is_dir():
        raise DataError(
            "there is no such folder of masks", where=str(folder), hint="regions=celeba, celebahq, or a folder."
        )
    inside = folder / RELEASED
    released = inside if inside.is_dir() else folder
    numbered = [place for place in released.iterdir() if place.name.isdecimal()]
    if any(_PART_FILE.fullmatch(name) for place in numbered for name in _pngs(place)):
        return PartMaps(released, _map_of_part_files)
    why = "no mask lies where one is expected"
    if released is folder:
        maps = _pngs(folder)
        if any(not _PART_FILE.fullmatch(name) for name in maps):
            return PartMaps(folder, _label_map)
        if maps:
            why = f"{maps[0]!r} is a part file, and belongs in a numbered folder of {RELEASED}: give that"
        elif any(_pngs(place) for place in folder.iterdir()):
            return Masks(folder)
    raise DataError(
        "there are no masks",
        where=str(folder),
        why=why,
        hint=f"Expected LABEL/NAME.png, label maps NAME.png, or the released {RELEASED} with N/00001_mouth.png in it.",
    )


def _pngs(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix == ".png") if folder.is_dir() else []


def _label_map(folder: Path, stem: str) -> NDArray[np.uint8] | None:
    path = folder / f"{stem}.png"
    if not path.is_file():
        return None
    numbers = _read(path)
    if int(numbers.max()) >= len(PARTS):
        raise DataError(
            "no label map of CelebAMask-HQ", where=str(path), why=f"it has a part number {int(numbers.max())}"
        )
    return numbers


@lru_cache(maxsize=256)
def _map_of_part_files(folder: Path, stem: str) -> NDArray[np.uint8] | None:
    """The label map that a picture's part files make, one part after another.

    Parts overlap (there is skin below the hair); the later one in ``PARTS`` is seen, as in the label maps that the
    authors' own script makes.
    """
    if not (stem.isascii() and stem.isdecimal()):
        return None
    picture = int(stem)
    numbers: NDArray[np.uint8] | None = None
    for number, part in enumerate(PARTS[1:], start=1):
        path = folder / str(picture // PICTURES_IN_FOLDER) / f"{picture:05d}_{part}.png"
        if not path.is_file():
            continue
        white = _decoded(path) > 0
        if numbers is None:
            numbers = np.zeros(white.shape, np.uint8)
        if white.shape != numbers.shape:
            raise DataError("not as large as the other parts of its picture", where=str(path))
        numbers[white] = number
    return numbers


def _decoded(path: Path) -> NDArray[np.uint8]:
    """A grey picture as it is, without colours or alpha."""
    try:
        content = path.read_bytes() if path.stat().st_size <= MOST_BYTES else b""
    except OSError as error:
        raise DataError("unreadable", where=str(path), why=error.strerror or str(error)) from None
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) if content else None
    if found is None or found.dtype != np.uint8:
        raise DataError("no mask", where=str(path), hint="A grey PNG of 8 bits.")
    return np.asarray(found if found.ndim == 2 else found[..., :3].max(axis=2), np.uint8)


_read = lru_cache(maxsize=256)(_decoded)


def _widened(mask: Bools, margin: float) -> Bools:
    reach = max(round(margin * mask.shape[1]), 1)
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel) > 0)


def _squeezed(mask: Bools, height: int, width: int) -> Bools:
    """The middle square of a mask (the whole, where a picture is shown whole) at the size of the picture."""
    if height == width:
        edge = min(mask.shape)
        top, left = (mask.shape[0] - edge) // 2, (mask.shape[1] - edge) // 2
        mask = mask[top : top + edge, left : left + edge]
    small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small >= 0.5)
