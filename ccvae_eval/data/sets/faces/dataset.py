"""``faces``: the data set of rendered faces, and the exact regions of its attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property, reduce
from hashlib import blake2b
from itertools import starmap
from typing import ClassVar, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.core.errors import UsageError
from ccvae_eval.core.types import Bools, Floats, Ids, Images
from ccvae_eval.data.images.decode import as_images
from ccvae_eval.data.interface import Split, quantize
from ccvae_eval.data.memory import checked_ids
from ccvae_eval.data.sets.faces.parameters import (
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
from ccvae_eval.data.sets.faces.parts import LAYERS, LOWEST_LAYER
from ccvae_eval.data.sets.faces.raster import Canvas, Easel
from ccvae_eval.data.spec import Options, refuse_path
from ccvae_eval.model.interface import Batch

REDRAWS = 16
THRESHOLD = 8
"""A pixel belongs to the region if one of its channels changes by more than this, of 255."""
BLOCK = 32
"""Faces whose polygons are held in memory at a time."""

SIZES = (32, 64, 128)
MAX_IMAGES = 2_000_000
"""Limit of ``n``, because a spec may come from an untrusted checkpoint."""
DRAWING_VERSION = 1
"""Version of the drawing; changes whenever the images do."""
MAX_CACHED_REGIONS = 20_000
"""Regions kept in memory for the other metrics, because drawing one takes milliseconds."""
TRAIN_SHARE, JUDGE_SHARE = 0.6, 0.2


def regions(easel: Easel, scenes: Scenes, seed: int, ids: Ids, label: str, strict: bool = False) -> Bools:
    r"""The region of one attribute in each face, shape (N, H, W).

    For a binary attribute, the pixels in which any of 16 redraws of its variety differs between present and absent by
    more than 8/255 in a channel, all else fixed. For hair colour, the same between the face's own class and another
    one with the same redrawn variety; the redraws cycle through the other four classes.

    Args:
        easel: draws the faces.
        scenes: the faces.
        seed: seed of the data set, which with the ids determines the redraws.
        ids: ids of the faces.
        label: name of the attribute.
        strict: use only the face's own variety (for hair colour, against each of the other classes).
    """
    blocks = [
        _block(easel, scenes.rows(rows), seed, ids[rows], label, strict)
        for rows in np.array_split(np.arange(len(scenes)), max(1, -(-len(scenes) // BLOCK)))
    ]
    return np.concatenate(blocks)


def _block(easel: Easel, scenes: Scenes, seed: int, ids: Ids, label: str, strict: bool) -> Bools:
    n, binary = len(scenes), SCHEMA[label].kind == "binary"
    variants = _variants(scenes, seed, ids, label, strict)
    each = len(variants) // n
    low = LOWEST_LAYER[label]
    below = easel.draw_layers(scenes, range(low), easel.backdrops(scenes))
    copies = (canvas.copy() for canvas in below for _ in range(each))
    above = easel.draw_layers(variants, range(low, len(LAYERS)), copies)
    found = np.empty((n, easel.size, easel.size), np.bool_)
    for index, light in enumerate(easel.light_maps(scenes)):
        images = [easel.finish(next(above), light) for _ in range(each)]
        pairs = ((images[0], other) for other in images[1:]) if binary else zip(images[::2], images[1::2], strict=True)
        found[index] = _changed(pairs)
    return found


def _changed(pairs: Iterator[tuple[Canvas, Canvas]]) -> Bools:
    change = reduce(np.maximum, starmap(cv2.absdiff, pairs))
    return np.asarray(change.max(axis=2) > THRESHOLD)


def _variants(scenes: Scenes, seed: int, ids: Ids, label: str, strict: bool) -> Scenes:
    """The rows to compare, face by face.

    For a binary attribute one row without it, then one row for each redraw with it. For hair colour pairs of rows:
    the face's own class and another one with the same variety.
    """
    binary, classes = SCHEMA[label].kind == "binary", SCHEMA[label].cardinality
    own = scenes.labels[:, SCHEMA.index(label)]
    base = scenes.with_label(label, 1.0) if binary else scenes
    rows = [scenes.with_label(label, 0.0)] if binary else []
    for draw in range(classes - 1 if strict else REDRAWS):
        drawn = base if strict else base.with_variety(label, draw_variety(seed, ids, label, draw))
        rows.append(drawn)
        if not binary:
            rows.append(drawn.with_label(label, (own + 1 + draw % (classes - 1)) % classes))
    vectors, labels = np.stack([v.vectors for v in rows], axis=1), np.stack([v.labels for v in rows], axis=1)
    return Scenes(vectors.reshape(-1, vectors.shape[2]), labels.reshape(-1, labels.shape[2]))


class Faces:
    """Rendered faces with eight binary attributes and a hair colour, each with its own variety.

    Image i depends only on (seed, i), not on ``n``. Train, judge and test (60/20/20) are consecutive ranges of ids. The
    renderer gives exact counterfactuals, redraws of the variety of an attribute, and regions.

    No label hides another: a bald head with bangs has a dark forelock, and hair shows below a hat.

    Args:
        size: edge of the square image: 32, 64 or 128.
        seed: seed of the data set.
        n: number of images.
        correlation: latent correlation between any two labels, in [0, 1) (Gaussian copula with one factor).
        strict: regions from the face's own variety instead of 16 redraws of it.
    """

    needs_no_path: ClassVar[bool] = True
    schema = SCHEMA
    factor_names = PARAMETERS
    """The style and variety parameters; a variety parameter is named ``attribute.parameter``."""

    def __init__(
        self, size: int = 64, seed: int = 0, n: int = 60_000, correlation: float = 0.0, strict: bool = False
    ) -> None:
        if size not in SIZES:
            raise UsageError(f"size must be one of {', '.join(map(str, SIZES))}, got {size}", where="faces")
        if n < 1:
            raise UsageError(f"n must be at least 1, got {n}", where="faces")
        if not 0 <= correlation < 1:
            raise UsageError(f"correlation must be at least 0 and below 1, got {correlation}", where="faces")
        self.size, self.seed, self.n, self.correlation, self.strict = size, seed, n, correlation, strict
        self.input_shape, self._easel = (3, size, size), Easel(size)
        self._regions: dict[tuple[str, int], NDArray[np.uint8]] = {}

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        refuse_path("faces", path)
        read = Options("faces", options)
        faces = cls(
            read.integer("size", 64, choices=SIZES),
            read.integer("seed", 0),
            read.integer("n", 60_000, low=1, high=MAX_IMAGES),
            read.number("correlation", 0.0, below=1),
            read.text("region", "redraws", ("redraws", "strict")) == "strict",
        )
        read.finish()
        return faces

    @property
    def spec(self) -> str:
        text = f"faces,size={self.size},seed={self.seed},n={self.n}"
        text += f",correlation={self.correlation}" if self.correlation else ""
        return text + (",region=strict" if self.strict else "")

    @cached_property
    def digest(self) -> str:
        """Digest of the parameters and of a few images, in case another version of OpenCV draws differently."""
        parameters = f"{DRAWING_VERSION}/{self.size}/{self.seed}/{self.n}/{self.correlation}"
        probe = self.pixels(np.arange(min(self.n, 16)))
        return blake2b(parameters.encode() + probe.tobytes(), digest_size=16).hexdigest()

    def __len__(self) -> int:
        return self.n

    def scenes(self, ids: Ids) -> Scenes:
        """The parameters and labels of some images."""
        vectors = draw_vectors(self.seed, checked_ids(ids, self.n, self.spec))
        return Scenes(vectors, labels_of(vectors, self.correlation))

    def pixels(self, ids: Ids) -> NDArray[np.uint8]:
        """Some images as RGB bytes, shape (N, H, W, 3)."""
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
        """Mask of an attribute, see :func:`regions`; every label has one."""
        SCHEMA.index(label)
        ids = np.asarray(ids, np.int64)
        new = np.array([i for i in dict.fromkeys(ids.tolist()) if (label, i) not in self._regions], np.int64)
        if len(new):
            drawn = regions(self._easel, self.scenes(new), self.seed, new, label, self.strict)
            self._regions |= {(label, int(i)): np.packbits(region) for i, region in zip(new, drawn, strict=True)}
        packed = [self._regions[label, i] for i in ids.tolist()]
        for oldest in list(self._regions)[: max(0, len(self._regions) - MAX_CACHED_REGIONS)]:
            del self._regions[oldest]
        if not packed:
            return np.empty((0, self.size, self.size), np.bool_)
        pixels = np.unpackbits(np.stack(packed), axis=1, count=self.size**2)
        return pixels.reshape(-1, self.size, self.size).astype(np.bool_)

    def with_attribute(self, ids: Ids, label: str, value: NDArray[np.float32]) -> Images:
        return self.with_variety(ids, {label: value}, {})

    def redraw(self, ids: Ids, label: str, value: NDArray[np.float32], draw: int) -> Images:
        fresh = draw_variety(self.seed, np.asarray(ids, np.int64), label, draw)
        return self.with_variety(ids, {label: value}, {label: fresh})

    def variety_names(self, label: str) -> tuple[str, ...]:
        return VARIETY[SCHEMA[label].name]

    def variety(self, ids: Ids, label: str) -> Floats:
        """Variety parameters, uniform in [0, 1), shape (N, V); defined even if the attribute is absent."""
        SCHEMA.index(label)
        return self.scenes(ids).vectors[:, VARIETY_COLUMNS[label]]

    def with_variety(
        self, ids: Ids, values: Mapping[str, NDArray[np.float32]], variety: Mapping[str, Floats]
    ) -> Images:
        """The images with other labels (NaN leaves one unchanged) and other variety (clipped to [0, 1])."""
        scenes = self.scenes(ids)
        for label, value in values.items():
            scenes = scenes.with_label(label, value)
        SCHEMA.validate(torch.from_numpy(scenes.labels), "faces")
        for label, parameters in variety.items():
            SCHEMA.index(label)
            scenes = scenes.with_variety(label, np.clip(parameters, 0.0, 1.0))
        return self._draw(scenes)

    def factors(self, ids: Ids) -> Floats:
        """The factors, uniform in [0, 1), shape (N, F)."""
        return self.scenes(ids).vectors[:, [COLUMNS[name] for name in PARAMETERS]]

    @property
    def renderer(self) -> str:
        return f"faces {DRAWING_VERSION}, {self.size} px"

    def render(self, factors: Floats, labels: NDArray[np.float32]) -> Images:
        SCHEMA.validate(torch.from_numpy(labels), "faces")
        vectors = np.zeros((len(factors), len(COLUMNS)))
        vectors[:, [COLUMNS[name] for name in PARAMETERS]] = quantize(factors)
        return self._draw(Scenes(vectors, labels))

    def _draw(self, scenes: Scenes) -> Images:
        return as_images(self._easel.draw(scenes))
