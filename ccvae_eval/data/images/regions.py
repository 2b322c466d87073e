"""Regions of labels in photographs of faces, from one of three sources.

* Boxes of CelebA's local attributes in an aligned face, in units of the distance between the eyes.
* Part masks of CelebAMask-HQ.
* Masks supplied by the user.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError
from ccvae_eval.core.files import read_regular_file
from ccvae_eval.core.types import Bools
from ccvae_eval.data.images.decode import (
    JPEG,
    MAX_IMAGE_BYTES,
    PNG,
    central_square,
    other_format,
    png_size,
    require_size,
)

Box = tuple[float, float, float, float]
"""Left, right, top, bottom. In ``FACE_BOXES`` the origin is midway between the eyes, the unit their distance, and y
points downwards."""

FACE_BOXES: Mapping[str, tuple[Box, ...]] = MappingProxyType(
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

_LABELS_OF_BOX = {
    "jaw": ("5_o_Clock_Shadow", "No_Beard"),
    "brows": ("Arched_Eyebrows", "Bushy_Eyebrows"),
    "below the eyes": ("Bags_Under_Eyes",),
    "crown": ("Bald", "Wearing_Hat"),
    "forehead": ("Bangs",),
    "mouth": ("Big_Lips", "Mouth_Slightly_Open", "Smiling", "Wearing_Lipstick"),
    "nose": ("Big_Nose", "Pointy_Nose"),
    "hair": ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Straight_Hair", "Wavy_Hair"),
    "below the chin": ("Double_Chin",),
    "eyes": ("Eyeglasses",),
    "chin": ("Goatee",),
    "upper lip": ("Mustache",),
    "lids": ("Narrow_Eyes",),
    "hairline": ("Receding_Hairline",),
    "cheeks": ("Rosy_Cheeks",),
    "temples": ("Sideburns",),
    "ears": ("Wearing_Earrings",),
    "neck": ("Wearing_Necklace",),
    "collar": ("Wearing_Necktie",),
}
FACE_BOX_OF: Mapping[str, str] = MappingProxyType(
    {label: name for name, labels in _LABELS_OF_BOX.items() for label in labels}
)
"""Box of each local attribute of CelebA. The global attributes have none: Attractive, Blurry, Chubby, Heavy_Makeup,
High_Cheekbones, Male, Oval_Face, Pale_Skin and Young."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Alignment of the faces, in pixels of the original image.

    Args:
        name: name of the alignment, for reports.
        width: width of the image.
        height: height of the image.
        eyes: the point midway between the eyes.
        unit: the distance between the eyes.
    """

    name: str
    width: float
    height: float
    eyes: tuple[float, float]
    unit: float

    def middle(self, edge: float | None = None) -> Box:
        """The central square as (left, right, top, bottom); ``edge`` = its side, by default the image's shorter one."""
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
"""CelebA's alignment puts the eyes at (69.5, 111.5) and (107.5, 111.5); CelebA-HQ's positions are averages over part
masks."""


def box_region(label: str, frame: Frame, view: Box, height: int, width: int) -> Bools | None:
    """Mask of a label's boxes, shape (height, width); None for a global label.

    Args:
        label: name of a CelebA attribute.
        frame: alignment of the faces.
        view: the cropped part of the original image, (left, right, top, bottom) in its pixels.
        height: height of the data set's images, to which the view is resized.
        width: their width.

    >>> region = box_region("Eyeglasses", FRAMES["celeba"], FRAMES["celeba"].middle(), 64, 64)
    >>> rows, columns = np.nonzero(region)
    >>> rows.min(), rows.max(), columns.min(), columns.max()
    (np.int64(27), np.int64(38), np.int64(15), np.int64(47))
    """
    place = FACE_BOX_OF.get(label)
    if place is None:
        return None
    left, right, top, bottom = view
    x = (left + (np.arange(width) + 0.5) / width * (right - left) - frame.eyes[0]) / frame.unit
    y = (top + (np.arange(height) + 0.5) / height * (bottom - top) - frame.eyes[1]) / frame.unit
    region = np.zeros((height, width), np.bool_)
    for first, last, high, low in FACE_BOXES[place]:
        region |= ((y >= high) & (y <= low))[:, None] & ((x >= first) & (x <= last))
    return region


PARTS = (
    "background", "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip",
    "l_lip", "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip
"""The part that each number in a label map of CelebAMask-HQ stands for."""
RELEASED_FOLDER = "CelebAMask-HQ-mask-anno"
"""Folder of part files, ``N/00001_mouth.png``, in the released CelebAMask-HQ."""
IMAGES_PER_FOLDER = 2000
"""Number of images in each numbered folder of the release."""
_PART_FILE = re.compile(rf"[0-9]{{5}}_({'|'.join(PARTS[1:])})\.png")

_LABELS_OF_PARTS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ("l_brow", "r_brow"): ("Arched_Eyebrows", "Bushy_Eyebrows"),
    ("hair", "hat"): (
        "Bald", "Bangs", "Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair", "Receding_Hairline", "Straight_Hair",
        "Wavy_Hair", "Wearing_Hat",
    ),
    ("mouth", "u_lip", "l_lip"): ("Big_Lips", "Mouth_Slightly_Open", "Smiling", "Wearing_Lipstick"),
    ("nose",): ("Big_Nose", "Pointy_Nose"),
    ("eye_g", "l_eye", "r_eye"): ("Eyeglasses",),
    ("l_eye", "r_eye"): ("Narrow_Eyes",),
    ("l_ear", "r_ear", "ear_r"): ("Wearing_Earrings",),
    ("neck", "neck_l"): ("Wearing_Necklace",),
    ("neck", "cloth"): ("Wearing_Necktie",),
}  # fmt: skip
PARTS_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {label: parts for parts, labels in _LABELS_OF_PARTS.items() for label in labels}
)
"""The parts that a local attribute changes. For glasses they include the eyes, where absent glasses would be."""

PNG_HINT = "Expected a grey PNG with 8 bits per pixel."
MARGIN = 0.03
"""Dilation of the parts as a fraction of the image width, because an open mouth is larger than a closed one."""
GLASSES_MARGIN = 0.09
"""Dilation of the eyes for Eyeglasses on a face without glasses."""


class Regions(Protocol):
    """Regions of the labels in the images of one data set."""

    source: str

    def of(self, file: str, label: str, height: int, width: int) -> Bools | None:
        """Mask of a label in one image, shape (height, width); None for a label without a region."""
        ...

    def lacking(self, files: Sequence[str], label: str) -> int:
        """Number of images without a file for a label that has a region."""
        ...


class Boxes:
    """The same boxes in every image.

    Args:
        frame: alignment of the faces.
        view: the cropped part of the original image.
    """

    def __init__(self, frame: Frame, view: Box) -> None:
        self.frame, self.view, self.source = frame, view, f"boxes of {frame.name}"

    def of(self, file: str, label: str, height: int, width: int) -> Bools | None:
        del file
        return box_region(label, self.frame, self.view, height, width)

    def lacking(self, files: Sequence[str], label: str) -> int:
        del files, label
        return 0


class Masks:
    """One mask for each label and image: ``LABEL/NAME.png``, nonzero inside the region.

    An image without a mask has an empty region.

    Args:
        folder: contains a folder for each label that has a region.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.source = folder, f"masks of the user, {folder.name}"
        self.labels = frozenset(path.name for path in folder.iterdir() if path.is_dir())

    def of(self, file: str, label: str, height: int, width: int) -> Bools | None:
        if label not in self.labels:
            return None
        path = self.folder / label / f"{PurePosixPath(file).stem}.png"
        if not path.is_file():
            return np.zeros((height, width), np.bool_)
        return _resized(_read(path) > 0, height, width)

    def lacking(self, files: Sequence[str], label: str) -> int:
        return _lacking(files, self.folder / label) if label in self.labels else 0


class PartMaps:
    """Label maps of CelebAMask-HQ, which hold the number of a part in each pixel.

    An image without a label map has empty regions.

    Args:
        folder: contains the label maps or part files.
        map_of: returns the label map of an image from the folder and the image's file name without suffix; None if
            the image has no label map.
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
        return _resized(_dilated(found, margin), height, width)

    def lacking(self, files: Sequence[str], label: str) -> int:
        return _lacking(files, self.folder) if label in PARTS_OF and self._map_of is _label_map else 0


def _lacking(files: Sequence[str], folder: Path) -> int:
    known = {PurePosixPath(name).stem for name in _pngs(folder)}
    return sum(PurePosixPath(file).stem not in known for file in files)


def regions_in(folder: Path) -> Regions:
    """Open a folder of masks in one of three layouts.

    * The released CelebAMask-HQ, or its folder ``CelebAMask-HQ-mask-anno``: part files ``N/00001_mouth.png``, nonzero
      inside the part, named by the number of the image in CelebA-HQ.
    * ``NAME.png``: label maps of CelebAMask-HQ.
    * ``LABEL/NAME.png``: masks, nonzero inside the region of the label.

    Raises:
        DataError: the folder does not exist, or its layout is none of these.
    """
    if not folder.is_dir():
        raise DataError(
            "the folder of masks does not exist",
            where=str(folder),
            hint="Write regions=celeba or regions=celebahq for boxes, or regions=FOLDER for masks.",
        )
    inside = folder / RELEASED_FOLDER
    released = inside if inside.is_dir() else folder
    numbered = [place for place in released.iterdir() if place.name.isdecimal()]
    if any(_PART_FILE.fullmatch(name) for place in numbered for name in _pngs(place)):
        return PartMaps(released, _map_of_part_files)
    why = "it holds no PNG file where one is expected"
    if released is folder:
        maps = _pngs(folder)
        if any(not _PART_FILE.fullmatch(name) for name in maps):
            return PartMaps(folder, _label_map)
        if maps:
            why = f"{maps[0]!r} is a part file of one numbered folder; give the whole folder {RELEASED_FOLDER}"
        elif any(_pngs(place) for place in folder.iterdir()):
            return Masks(folder)
    raise DataError(
        "the folder has no masks in a supported layout",
        where=str(folder),
        why=why,
        hint=f"Expected masks LABEL/NAME.png, label maps NAME.png, or {RELEASED_FOLDER} with N/00001_mouth.png.",
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
            "the image is not a label map of CelebAMask-HQ",
            where=str(path),
            why=f"part numbers run from 0 to {len(PARTS) - 1}, it contains {int(numbers.max())}",
        )
    return numbers


@lru_cache(maxsize=256)
def _map_of_part_files(folder: Path, stem: str) -> NDArray[np.uint8] | None:
    """Merge the part files of an image to its label map.

    Where parts overlap, as skin and hair do, the later one in ``PARTS`` wins, as in the authors' own script.
    """
    if not (stem.isascii() and stem.isdecimal()):
        return None
    image = int(stem)
    numbers: NDArray[np.uint8] | None = None
    for number, part in enumerate(PARTS[1:], start=1):
        path = folder / str(image // IMAGES_PER_FOLDER) / f"{image:05d}_{part}.png"
        if not path.is_file():
            continue
        mask = _decoded(path) > 0
        if numbers is None:
            numbers = np.zeros(mask.shape, np.uint8)
        if mask.shape != numbers.shape:
            raise DataError("the mask differs in size from the other parts of its image", where=str(path))
        numbers[mask] = number
    return numbers


def _decoded(path: Path) -> NDArray[np.uint8]:
    """Decode an 8-bit mask; of several channels the largest value counts, and alpha is ignored."""
    content = read_regular_file(path, MAX_IMAGE_BYTES, DataError)
    if not content.startswith(PNG):
        lossy = "a JPEG, whose losses change the edge of a region"
        why = f"it is {lossy if content.startswith(JPEG) else other_format(content)}"
        raise DataError("the file is not a mask", where=str(path), why=why, hint=PNG_HINT)
    require_size(*png_size(content, str(path)), str(path))
    found = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if found is None or found.dtype != np.uint8:
        raise DataError("the file is not a mask", where=str(path), hint=PNG_HINT)
    return np.asarray(found if found.ndim == 2 else found[..., :3].max(axis=2), np.uint8)


_read = lru_cache(maxsize=256)(_decoded)


def _dilated(mask: Bools, margin: float) -> Bools:
    reach = max(round(margin * mask.shape[1]), 1)
    kernel = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel) > 0)


def _resized(mask: Bools, height: int, width: int) -> Bools:
    """Resize a mask to the size of the image; for a square image only its central square."""
    if height == width:
        mask = central_square(mask, min(mask.shape))
    small = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(small >= 0.5)
