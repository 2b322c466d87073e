"""The parameters of a face, each uniform in [0, 1], and the labels computed from some of them.

Each image has one random vector with independent entries. Changing some entries leaves the rest of the image
unchanged, which gives exact counterfactuals, redraws and regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from ccvae_eval.core.random_streams import uniforms
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.data.interface import quantize
from ccvae_eval.model.interface import Label, LabelSchema

HAIR_COLORS = ("Bald", "Black", "Blond", "Brown", "Gray")
BALD = HAIR_COLORS.index("Bald")

PREVALENCE = MappingProxyType(
    {
        "Eyeglasses": 0.4,
        "Smiling": 0.5,
        "Arched_Eyebrows": 0.4,
        "Bangs": 0.4,
        "Wearing_Hat": 0.35,
        "Wearing_Necktie": 0.4,
        "Mustache": 0.35,
        "Pale_Skin": 0.4,
    }
)
"""Prevalence of each binary attribute; the five hair colours are equally frequent."""

SCHEMA = LabelSchema((*(Label(name) for name in PREVALENCE), Label("Hair_Color", "categorical", HAIR_COLORS)))

VARIETY = MappingProxyType(
    {
        "Eyeglasses": ("shape", "size", "thickness", "color", "tint"),
        "Smiling": ("width", "openness", "teeth"),
        "Arched_Eyebrows": ("height", "thickness"),
        "Bangs": ("length", "asymmetry"),
        "Wearing_Hat": ("shape", "height", "color"),
        "Wearing_Necktie": ("width", "color", "stripes"),
        "Mustache": ("shape", "thickness", "color"),
        "Pale_Skin": ("degree",),
        "Hair_Color": ("shade", "length", "volume"),
    }
)
"""Variety parameters: what differs among the images that share an attribute; visible only if it is present."""

STYLE = (
    "shift_x", "shift_y", "tilt", "face_width", "face_height", "jaw", "skin_tone", "eye_size", "eye_distance",
    "eye_color", "gaze", "nose", "brow_color", "lips", "background_color", "background_light", "background_gradient",
    "shirt_color", "shirt_light", "light_side", "light_height",
)  # fmt: skip
"""Style parameters, which no label depends on."""

_COMMON = "common"
PARAMETERS = (*STYLE, *(f"{label}.{name}" for label, names in VARIETY.items() for name in names))
COLUMNS = MappingProxyType(
    {name: column for column, name in enumerate((*PARAMETERS, *(f"label {n}" for n in SCHEMA.names), _COMMON))}
)
LABEL_COLUMNS = slice(len(PARAMETERS), len(PARAMETERS) + len(SCHEMA))
VARIETY_COLUMNS = MappingProxyType(
    {label: np.array([COLUMNS[f"{label}.{name}"] for name in names]) for label, names in VARIETY.items()}
)


@dataclass(frozen=True, slots=True)
class Scenes:
    r"""Parameters and labels of N faces to draw.

    Args:
        vectors: the uniform parameters, shape :math:`(N, D)`, columns as in ``COLUMNS``.
        labels: the labels, shape :math:`(N, L)` in the order of ``SCHEMA``, without missing values.
    """

    vectors: Floats
    labels: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.vectors)

    def between(self, name: str, low: float, high: float) -> Floats:
        """A parameter, mapped linearly from [0, 1] to [low, high], shape (N,)."""
        column = self.vectors[:, COLUMNS[name]]
        return np.asarray(low + (high - low) * column)

    def has(self, label: str) -> Bools:
        """True for the faces with a binary attribute, shape (N,)."""
        return np.asarray(self.labels[:, SCHEMA.index(label)] > 0.5)

    @property
    def hair(self) -> NDArray[np.int64]:
        """Class index of each face's hair colour."""
        return self.labels[:, SCHEMA.index("Hair_Color")].astype(np.int64)

    def with_label(self, label: str, value: NDArray[np.float32] | float) -> Scenes:
        """The same faces with one label set; NaN leaves it unchanged."""
        column = SCHEMA.index(label)
        new = np.broadcast_to(np.asarray(value, np.float32), (len(self),))
        labels = self.labels.copy()
        labels[:, column] = np.where(np.isnan(new), labels[:, column], new)
        return Scenes(self.vectors, labels)

    def with_variety(self, label: str, values: Floats) -> Scenes:
        """The same faces with the variety of one attribute set to values in [0, 1], shape (N, V)."""
        vectors = self.vectors.copy()
        vectors[:, VARIETY_COLUMNS[label]] = values
        return Scenes(vectors, self.labels)

    def rows(self, index: NDArray[np.int64]) -> Scenes:
        """Some of the faces, in any order, possibly repeated."""
        return Scenes(self.vectors[index], self.labels[index])


def draw_vectors(seed: int, ids: Ids) -> Floats:
    """The random vector of each image, which depends only on the seed and the image's id."""
    return quantize(uniforms(seed, "faces", ids, len(COLUMNS)))


def draw_variety(seed: int, ids: Ids, label: str, draw: int) -> Floats:
    """Sample number ``draw`` of the variety of one attribute for each image, shape (N, V)."""
    return quantize(uniforms(seed, f"faces/redraw/{label}/{draw}", ids, len(VARIETY[label])))


def labels_of(vectors: Floats, correlation: float = 0.0) -> NDArray[np.float32]:
    r"""The labels of each random vector, shape :math:`(N, L)`.

    A Gaussian copula with one factor: attribute l is present where
    :math:`\Phi(\sqrt{\rho} f + \sqrt{1 - \rho} e_l)` is below its prevalence. f is common to all attributes, e_l
    is the attribute's own, and both are standard normal. The latent correlation of any two attributes is rho and does
    not change their prevalence. For hair colour, the same quantile is cut into five equal parts, one for each class.
    """
    own = vectors[:, LABEL_COLUMNS]
    if correlation:
        shared = ndtri(vectors[:, COLUMNS[_COMMON], None])  # finite: a quantised parameter is never 0 or 1
        own = ndtr(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * ndtri(own))
    binary = own[:, :-1] < np.array(list(PREVALENCE.values()))
    hair = np.minimum(own[:, -1] * len(HAIR_COLORS), len(HAIR_COLORS) - 1).astype(np.int64)
    return np.column_stack([binary, hair]).astype(np.float32)
