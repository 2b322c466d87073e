"""Where an attribute lives in a face: asked of the renderer itself."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from ccvae_eval.data.faces.parameters import SCHEMA, Scenes, draw_variety
from ccvae_eval.data.faces.parts import LAYERS, LOWEST_LAYER
from ccvae_eval.data.faces.raster import Canvas, Easel
from ccvae_eval.types import Bools, Ids

REDRAWS = 16
THRESHOLD = 8
"""A pixel belongs to the region if a channel differs by more than this, of 255."""
BLOCK = 32
"""Faces whose polygons are held in memory at a time."""


def regions(easel: Easel, scenes: Scenes, seed: int, ids: Ids, label: str, strict: bool = False) -> Bools:
    r"""The region of one attribute in each face, shape (N, H, W).

    A binary attribute: the pixels where one of 16 re-draws of its variety differs between present and absent by
    more than 8/255 in any channel, all else fixed. Hair colour: the same between the face's own class and another
    one, both with the re-draw's variety; the re-draws take the other four classes in turn.

    Args:
        easel: draws the faces.
        scenes: the faces.
        seed: of the data set; keys the re-draws.
        ids: of the faces; key the re-draws.
        label: name of the attribute.
        strict: the face's own variety is the only re-draw (for hair colour, against each of the other classes).
    """
    blocks = [
        _block(easel, scenes.rows(rows), seed, ids[rows], label, strict)
        for rows in np.array_split(np.arange(len(scenes)), max(1, -(-len(scenes) // BLOCK)))
    ]
    return np.concatenate(blocks)


def _block(easel: Easel, scenes: Scenes, seed: int, ids: Ids, label: str, strict: bool) -> Bools:
    n, binary = len(scenes), SCHEMA[label].kind == "binary"
    variants = _against_absent(scenes, seed, ids, label, strict)
    if not binary:
        variants = _against_other_classes(scenes, seed, ids, label, strict)
    each = len(variants) // n
    low = LOWEST_LAYER[label]
    below = easel.painted(scenes, range(low), easel.backdrops(scenes))
    copies = (canvas.copy() for canvas in below for _ in range(each))
    above = easel.painted(variants, range(low, len(LAYERS)), copies)
    lights = easel.lights(scenes)
    found = np.empty((n, easel.size, easel.size), np.bool_)
    for index, light in enumerate(lights):
        pictures = [easel.finished(next(above), light) for _ in range(each)]
        pairs = ((pictures[0], other) for other in pictures[1:]) if binary else _twos(pictures)
        found[index] = _changed(pairs)
    return found


def _twos(pictures: list[Canvas]) -> Iterator[tuple[Canvas, Canvas]]:
    yield from zip(pictures[::2], pictures[1::2], strict=True)


def _changed(pairs: Iterator[tuple[Canvas, Canvas]]) -> Bools:
    first, second = next(pairs)
    change = cv2.absdiff(first, second)
    for one, other in pairs:
        np.maximum(change, cv2.absdiff(one, other), out=change)
    return np.asarray(change.max(axis=2) > THRESHOLD)


def _against_absent(scenes: Scenes, seed: int, ids: Ids, label: str, strict: bool) -> Scenes:
    """For each face one row without the attribute, then one row for each re-draw with it."""
    present = scenes.with_label(label, 1.0)
    draws = (
        [present]
        if strict
        else [present.with_variety(label, draw_variety(seed, ids, label, draw)) for draw in range(REDRAWS)]
    )
    return _interleaved([scenes.with_label(label, 0.0), *draws])


def _against_other_classes(scenes: Scenes, seed: int, ids: Ids, label: str, strict: bool) -> Scenes:
    """For each face pairs of rows: its own class and another one, with the same variety."""
    classes = SCHEMA[label].cardinality
    own = scenes.labels[:, SCHEMA.index(label)]
    rows = []
    for draw in range(classes - 1 if strict else REDRAWS):
        drawn = scenes if strict else scenes.with_variety(label, draw_variety(seed, ids, label, draw))
        rows += [drawn, drawn.with_label(label, (own + 1 + draw % (classes - 1)) % classes)]
    return _interleaved(rows)


def _interleaved(variants: list[Scenes]) -> Scenes:
    n = len(variants[0])
    order = np.arange(n * len(variants)).reshape(len(variants), n).T.ravel()
    return Scenes(
        np.concatenate([v.vectors for v in variants])[order], np.concatenate([v.labels for v in variants])[order]
    )


def packed(region: Bools) -> NDArray[np.uint8]:
    """A region in an eighth of its memory, for keeping."""
    return np.packbits(region)


def unpacked(bits: NDArray[np.uint8], size: int) -> Bools:
    """The inverse of :func:`packed`."""
    return np.unpackbits(bits, count=size * size).reshape(size, size).astype(np.bool_)
