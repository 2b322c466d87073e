"""The parameters of a face: one uniform number for each, and the labels made of some of them.

Image i owns one random vector. Its entries never depend on each other, so that changing some of them changes
nothing else of the picture: a counterfactual, a re-draw and a region are changes of a few entries.

Where the factors of drawn data lie, so that they survive the way through float32 codes exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from ccvae_eval.core.random_streams import uniforms
from ccvae_eval.core.types import Bools, Floats, Ids
from ccvae_eval.data.quantize import on_lattice
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
"""How often each binary attribute is present; the five hair colours are equally frequent."""

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
"""What differs among the pictures that share an attribute; it shows only where the attribute does."""

STYLE = (
    "shift_x",
    "shift_y",
    "tilt",
    "face_width",
    "face_height",
    "jaw",
    "skin_tone",
    "eye_size",
    "eye_distance",
    "eye_color",
    "gaze",
    "nose",
    "brow_color",
    "lips",
    "background_color",
    "background_light",
    "background_gradient",
    "shirt_color",
    "shirt_light",
    "light_side",
    "light_height",
)
"""The nuisances: everything that no label speaks of."""

_COMMON = "common"
PARAMETERS = (
    *STYLE,
    *(f"{label}.{name}" for label, names in VARIETY.items() for name in names),
)
COLUMNS = MappingProxyType(
    {name: column for column, name in enumerate((*PARAMETERS, *(f"label {n}" for n in SCHEMA.names), _COMMON))}
)
LABEL_COLUMNS = slice(len(PARAMETERS), len(PARAMETERS) + len(SCHEMA))
VARIETY_COLUMNS = MappingProxyType(
    {label: np.array([COLUMNS[f"{label}.{name}"] for name in names]) for label, names in VARIETY.items()}
)


@dataclass(frozen=True, slots=True)
class Scenes:
    r"""What is to be drawn: N faces.

    Args:
        vectors: the uniform parameters, shape :math:`(N, D)`, columns as in ``COLUMNS``.
        labels: which attributes show, shape :math:`(N, L)` in the order of ``SCHEMA``, nothing missing.
    """

    vectors: Floats
    labels: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.vectors)

    def between(self, name: str, low: float, high: float) -> Floats:
        """A parameter on its own scale, shape (N,)."""
        column = self.vectors[:, COLUMNS[name]]
        return np.asarray(low + (high - low) * column)

    def has(self, label: str) -> Bools:
        """Which faces have a binary attribute."""
        return np.asarray(self.labels[:, SCHEMA.index(label)] > 0.5)

    @property
    def hair(self) -> NDArray[np.int64]:
        """The index of each face's hair colour."""
        return self.labels[:, SCHEMA.index("Hair_Color")].astype(np.int64)

    def with_label(self, label: str, value: NDArray[np.float32] | float) -> Scenes:
        """The same faces with one label set; NaN leaves it as it is."""
        column = SCHEMA.index(label)
        wanted = np.broadcast_to(np.asarray(value, np.float32), (len(self),))
        labels = self.labels.copy()
        labels[:, column] = np.where(np.isnan(wanted), labels[:, column], wanted)
        return Scenes(self.vectors, labels)

    def with_variety(self, label: str, values: Floats) -> Scenes:
        """The same faces with another variety of one attribute, shape (N, V), each in [0, 1]."""
        vectors = self.vectors.copy()
        vectors[:, VARIETY_COLUMNS[label]] = values
        return Scenes(vectors, self.labels)

    def rows(self, index: NDArray[np.int64]) -> Scenes:
        """Some of the faces, in any order, repeated or not."""
        return Scenes(self.vectors[index], self.labels[index])


def draw_vectors(seed: int, ids: Ids) -> Floats:
    """The random vector of each image: a function of the seed and the image's id, and of nothing else."""
    return on_lattice(uniforms(seed, "faces", ids, len(COLUMNS)))


def draw_variety(seed: int, ids: Ids, label: str, draw: int) -> Floats:
    """Another variety of one attribute for each image, shape (N, V); each draw number is a draw of its own."""
    return on_lattice(uniforms(seed, f"faces/redraw/{label}/{draw}", ids, len(VARIETY[label])))


def labels_of(vectors: Floats, correlation: float = 0.0) -> NDArray[np.float32]:
    r"""The labels of each random vector, shape :math:`(N, L)`.

    Attribute l is present where :math:`\Phi(\sqrt{\rho} f + \sqrt{1 - \rho} e_l)` lies below its prevalence, with f
    common to all attributes and e_l its own, both standard normal (a Gaussian copula with one factor): the latent
    correlation of any two attributes is rho, and their prevalence does not depend on it. Hair takes its class from
    the same quantile, cut in five equal parts in the order of its classes.
    """
    own = vectors[:, LABEL_COLUMNS]
    if correlation:
        shared = ndtri(vectors[:, COLUMNS[_COMMON], None])  # on the lattice no parameter is 0 or 1
        own = ndtr(np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * ndtri(own))
    binary = own[:, :-1] < np.array(list(PREVALENCE.values()))
    hair = np.minimum(own[:, -1] * len(HAIR_COLORS), len(HAIR_COLORS) - 1).astype(np.int64)
    return np.column_stack([binary, hair]).astype(np.float32)
