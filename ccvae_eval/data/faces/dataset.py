"""``faces``: a procedural face, drawn from parameters."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from hashlib import blake2b
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.data.contract import Split
from ccvae_eval.data.faces.parameters import (
    COLUMNS,
    PARAMETERS,
    SCHEMA,
    VARIETY,
    VARIETY_COLUMNS,
    Scenes,
    draw_variety,
    draw_vectors,
    labels_of,
)
from ccvae_eval.data.faces.raster import Easel
from ccvae_eval.data.faces.regions import packed, regions, unpacked
from ccvae_eval.data.lattice import on_lattice
from ccvae_eval.data.memory import checked
from ccvae_eval.data.options import Options, refuse_path
from ccvae_eval.errors import UsageError
from ccvae_eval.model import Batch, LabelSchema
from ccvae_eval.types import Bools, Floats, Ids, Images

SIZES = (32, 64, 128)
MOST_IMAGES = 2_000_000
"""A spec may come from an untrusted checkpoint: it cannot ask for a list of ids that fills the memory."""
DRAWING = 1
"""Version of the drawing: another number, other pictures."""
REGIONS_KEPT = 20_000
"""Drawing a region costs 1 to 5 ms and several metrics ask for the same ones; each keeps 512 bytes at 64 pixels."""
TRAIN_SHARE, JUDGE_SHARE = 0.6, 0.2


class Faces:
    """Drawn faces with eight binary attributes and a hair colour, each with a variety of its own.

    Image i is a function of (seed, i) alone, whatever ``n`` is. The ids are cut into train, judge and test
    (60/20/20). Everything about a picture is known: exact counterfactuals, re-draws of one attribute's variety, and
    the region where an attribute lives.

    A bald head with bangs wears a dark forelock, and hair shows below a hat, so that no label hides another.

    Args:
        size: edge of the square image: 32, 64 or 128.
        seed: of the whole data set.
        n: number of images.
        correlation: latent correlation between any two labels, from 0 to below 1 (Gaussian copula, one factor).
        strict: regions from the one rendering instead of 16 re-draws of the attribute's variety.
    """

    needs_no_path: ClassVar[bool] = True

    def __init__(
        self, size: int = 64, seed: int = 0, n: int = 60_000, correlation: float = 0.0, strict: bool = False
    ) -> None:
        if size not in SIZES:
            raise UsageError(f"faces are not drawn at {size} pixels", hint=f"One of {', '.join(map(str, SIZES))}.")
        if n < 1 or not 0 <= correlation < 1:
            raise UsageError("faces need n of at least 1 and a correlation from 0 to below 1")
        self.size, self.seed, self.n, self.correlation, self.strict = size, seed, n, correlation, strict
        self._easel = Easel(size)
        self._regions: dict[tuple[str, int], NDArray[np.uint8]] = {}

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        refuse_path("faces", path)
        read = Options("faces", options)
        faces = cls(
            read.integer("size", 64, choices=SIZES),
            read.integer("seed", 0),
            read.integer("n", 60_000, low=1, high=MOST_IMAGES),
            read.share("correlation", 0.0),
            read.text("region", "redraws", ("redraws", "strict")) == "strict",
        )
        read.finish()
        return faces

    @property
    def spec(self) -> str:
        text = f"faces,size={self.size},seed={self.seed},n={self.n}"
        text += f",correlation={self.correlation}" if self.correlation else ""
        return text + (",region=strict" if self.strict else "")

    @property
    def schema(self) -> LabelSchema:
        return SCHEMA

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size)

    @cached_property
    def digest(self) -> str:
        """Of the parameters and of a few pictures, in case another OpenCV draws otherwise."""
        parameters = f"{DRAWING}/{self.size}/{self.seed}/{self.n}/{self.correlation}"
        probe = self.pixels(np.arange(min(self.n, 16)))
        return blake2b(parameters.encode() + probe.tobytes(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return self.n

    def scenes(self, ids: Ids) -> Scenes:
        """The parameters and labels behind some images."""
        vectors = draw_vectors(self.seed, checked(ids, self.n, self.spec))
        return Scenes(vectors, labels_of(vectors, self.correlation))

    def pixels(self, ids: Ids) -> NDArray[np.uint8]:
        """Some images as bytes, RGB, shape (N, H, W, 3)."""
        return self._easel.draw(self.scenes(ids))

    def batch(self, ids: Ids) -> Batch:
        scenes = self.scenes(ids)
        return Batch(self._draw(scenes), torch.from_numpy(scenes.labels), np.asarray(ids, np.int64))

    def labels_of(self, ids: Ids) -> NDArray[np.float32]:
        return self.scenes(ids).labels

    def split(self, name: Split) -> Ids:
        train = int(self.n * TRAIN_SHARE)
        judge = train + int(self.n * JUDGE_SHARE)
        first, last = {"train": (0, train), "judge": (train, judge), "test": (judge, self.n)}[name]
        return np.arange(first, last)

    @property
    def region_source(self) -> str:
        return "renderer, strict" if self.strict else "renderer"

    def region(self, ids: Ids, label: str) -> Bools:
        """Where an attribute lives; see :func:`ccvae_eval.data.faces.regions.regions`. Every label has one."""
        SCHEMA.index(label)
        ids = np.asarray(ids, np.int64)
        new = np.array([i for i in dict.fromkeys(ids.tolist()) if (label, i) not in self._regions], np.int64)
        if len(new):
            drawn = regions(self._easel, self.scenes(new), self.seed, new, label, self.strict)
            self._regions |= {(label, int(i)): packed(region) for i, region in zip(new, drawn, strict=True)}
        answer = [unpacked(self._regions[label, i], self.size) for i in ids.tolist()]
        for oldest in list(self._regions)[: max(0, len(self._regions) - REGIONS_KEPT)]:
            del self._regions[oldest]
        return np.stack(answer) if answer else np.empty((0, self.size, self.size), np.bool_)

    def with_attribute(self, ids: Ids, label: str, value: NDArray[np.float32]) -> Images:
        return self.with_variety(ids, {label: value}, {})

    def redraw(self, ids: Ids, label: str, value: NDArray[np.float32], draw: int) -> Images:
        fresh = draw_variety(self.seed, np.asarray(ids, np.int64), label, draw)
        return self.with_variety(ids, {label: value}, {label: fresh})

    def variety_names(self, label: str) -> tuple[str, ...]:
        return VARIETY[SCHEMA[label].name]

    def variety(self, ids: Ids, label: str) -> Floats:
        """Uniform in [0, 1), shape (N, V); drawn whether or not the attribute shows."""
        SCHEMA.index(label)
        return self.scenes(ids).vectors[:, VARIETY_COLUMNS[label]]

    def with_variety(
        self, ids: Ids, values: Mapping[str, NDArray[np.float32]], variety: Mapping[str, Floats]
    ) -> Images:
        """The images with other labels (NaN leaves one as it is) and other variety (clipped to [0, 1])."""
        scenes = self.scenes(ids)
        for label, value in values.items():
            scenes = scenes.with_label(label, value)
        SCHEMA.validate(torch.from_numpy(scenes.labels), "faces")
        for label, parameters in variety.items():
            SCHEMA.index(label)
            scenes = scenes.with_variety(label, np.clip(parameters, 0.0, 1.0))
        return self._draw(scenes)

    @property
    def factor_names(self) -> tuple[str, ...]:
        """Every style and variety parameter; the variety as ``attribute.parameter``."""
        return PARAMETERS

    def factors(self, ids: Ids) -> Floats:
        """Uniform in [0, 1), shape (N, F)."""
        return self.scenes(ids).vectors[:, [COLUMNS[name] for name in PARAMETERS]]

    @property
    def renderer(self) -> str:
        return f"faces {DRAWING}, {self.size} px"

    def render(self, factors: Floats, labels: NDArray[np.float32]) -> Images:
        SCHEMA.validate(torch.from_numpy(labels), "faces")
        vectors = np.zeros((len(factors), len(COLUMNS)))
        vectors[:, [COLUMNS[name] for name in PARAMETERS]] = on_lattice(factors)
        return self._draw(Scenes(vectors, labels))

    def _draw(self, scenes: Scenes) -> Images:
        pixels = torch.from_numpy(self._easel.draw(scenes))
        return pixels.permute(0, 3, 1, 2).contiguous().float() / 255
