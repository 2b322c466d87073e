"""``sprites``: a renderer of dSprites, white squares, ellipses and hearts on black."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property
from hashlib import blake2b
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.core.types import Bools, Floats, Ids, Images
from ccvae_eval.data.interface import Split
from ccvae_eval.data.memory import checked_ids
from ccvae_eval.data.spec import Options, refuse_path
from ccvae_eval.data.splits import split_by_id
from ccvae_eval.model.interface import Batch, Label, LabelSchema

SHAPES = ("square", "ellipse", "heart")
SCHEMA = LabelSchema(
    (
        Label("shape", "categorical", SHAPES),
        *(Label(name, "continuous") for name in ("scale", "orientation", "position_x", "position_y")),
    )
)
FACTOR_SIZES = (3, 6, 40, 32, 32)
"""Number of values of each factor. Ids enumerate the combinations, the last factor fastest, as the original does."""

FACTOR_VALUES: tuple[Floats, ...] = (
    np.arange(3.0),
    np.linspace(0.5, 1.0, 6),
    np.linspace(0.0, 2 * np.pi, 40),
    np.linspace(0.0, 1.0, 32),
    np.linspace(0.0, 1.0, 32),
)

EDGE = 64
SIZES = (32, 64, 128)
ORIGIN, TRAVEL = 15.5, 32.0
"""Centre of a sprite, in pixels of 64: from 15.5 at position 0 to 47.5 at position 1."""
HALF_SIDE, HALF_AXES = 9.6, (12.76, 7.204)
"""Half-side of the square and half-axes of the ellipse at scale 1, in pixels of 64."""
HEART = (0.6028, 0.6610, -1.4749)
"""Width, height and downward shift of the curve x = 16 sin^3 t, y = 13 cos t - 5 cos 2t - 2 cos 3t - cos 4t, fitted to
original images."""
OUTLINE = 4096

DRAWING_VERSION = 1


class Sprites:
    """``sprites[,size=64]``: all 737,280 images of dSprites (Matthey et al. 2017), rendered on demand.

    One white shape on black. Labels are the categorical ``shape`` (square, ellipse, heart) and the continuous
    ``scale`` (0.5 to 1), ``orientation`` (0 to 2 pi, both included, so its first and last value give equal images),
    ``position_x`` and ``position_y`` (0 to 1). The factors are the same five as numbers. Every combination occurs
    once. Splits (60/20/20) follow from a hash of the id.

    The region of a label is the set of pixels that change if it takes any of its other values, all else fixed.

    Args:
        size: edge of the image; 64 in the original.
    """

    needs_no_path: ClassVar[bool] = True
    region_source = "renderer"
    schema = SCHEMA
    factor_names = SCHEMA.names

    def __init__(self, size: int = EDGE) -> None:
        self.size, self.input_shape = size, (1, size, size)

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        refuse_path("sprites", path)
        read = Options("sprites", options)
        size = read.integer("size", EDGE, choices=SIZES)
        read.finish()
        return cls(size)

    @property
    def spec(self) -> str:
        return "sprites" + (f",size={self.size}" if self.size != EDGE else "")

    @cached_property
    def digest(self) -> str:
        probe = self.batch(np.arange(0, len(self), len(self) // 16)).images
        content = f"sprites {DRAWING_VERSION}/{self.size}".encode() + probe.numpy().tobytes()
        return blake2b(content, digest_size=16).hexdigest()

    def __len__(self) -> int:
        return int(np.prod(FACTOR_SIZES))

    def batch(self, ids: Ids) -> Batch:
        ids = checked_ids(ids, len(self), self.spec)
        return Batch(self.draw(self.factors(ids)), torch.from_numpy(self.labels_of(ids)), ids)

    def labels_of(self, ids: Ids) -> NDArray[np.float32]:
        return self.factors(ids).astype(np.float32)

    def split(self, name: Split) -> Ids:
        return split_by_id(len(self)).ids(name)

    def factors(self, ids: Ids) -> Floats:
        """The factor values, shape (N, 5), columns as in ``factor_names``; a shape is given by its class index."""
        levels = np.unravel_index(checked_ids(ids, len(self), self.spec), FACTOR_SIZES)
        return np.stack([values[level] for values, level in zip(FACTOR_VALUES, levels, strict=True)], axis=1)

    def with_attribute(self, ids: Ids, label: str, value: NDArray[np.float32]) -> Images:
        """The images with one factor set to any value in its range; NaN leaves it unchanged."""
        factors = self.factors(ids)
        column = SCHEMA.index(label)
        factors[:, column] = np.where(np.isnan(value), factors[:, column], value)
        return self.draw(factors)

    def region(self, ids: Ids, label: str) -> Bools:
        """The pixels that change if the label takes any of its other values, shape (N, H, W)."""
        factors, column = self.factors(ids), SCHEMA.index(label)
        own = self.inside(factors)
        region = np.zeros_like(own)
        for value in FACTOR_VALUES[column]:
            factors[:, column] = value
            region |= self.inside(factors) != own
        return region

    def draw(self, factors: Floats) -> Images:
        """The image of each row of factors, with pixels 0 or 1, shape (N, 1, size, size)."""
        return torch.from_numpy(self.inside(factors)[:, None].astype(np.float32))

    def inside(self, factors: Floats) -> Bools:
        """Mask of the pixels whose centres lie inside the shape, shape (N, size, size)."""
        shape, scale, turn, x, y = (column[:, None, None] for column in np.asarray(factors, np.float64).T)
        place = (np.arange(self.size) + 0.5) * EDGE / self.size - 0.5
        across = (place[None, None, :] - ORIGIN - TRAVEL * x) / scale
        down = (place[None, :, None] - ORIGIN - TRAVEL * y) / scale
        u = np.cos(turn) * across - np.sin(turn) * down
        v = np.sin(turn) * across + np.cos(turn) * down
        found = np.empty(u.shape, np.bool_)
        for kind, within in enumerate((_in_square, _in_ellipse, _in_heart)):
            rows = shape[:, 0, 0] == kind
            found[rows] = within(u[rows], v[rows])
        return found


def _in_square(u: Floats, v: Floats) -> Bools:
    return np.maximum(np.abs(u), np.abs(v)) <= HALF_SIDE


def _in_ellipse(u: Floats, v: Floats) -> Bools:
    return np.asarray((u / HALF_AXES[0]) ** 2 + (v / HALF_AXES[1]) ** 2 <= 1)


def _in_heart(u: Floats, v: Floats) -> Bools:
    angle, radius = _outline()
    return np.asarray(np.hypot(u, v) <= np.interp(np.arctan2(np.abs(u), -v), angle, radius))


@cache
def _outline() -> tuple[Floats, Floats]:
    """Angle from the cusp (0) to the tip (pi) and radius of the heart, which is star-shaped about its centre."""
    t = np.linspace(0, np.pi, OUTLINE)
    width, height, shift = HEART
    x = width * 16 * np.sin(t) ** 3
    y = shift - height * (13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    angle = np.arctan2(x, -y)
    order = np.argsort(angle, kind="stable")
    return angle[order], np.hypot(x, y)[order]
