"""Where CelebA's local attributes live in an aligned face: boxes in units of the distance between the eyes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from ccvae_eval.types import Bools

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
