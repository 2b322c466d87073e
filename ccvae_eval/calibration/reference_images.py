"""Reference images of the oracle, and the changes that a code makes to the image it was derived from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.types import Bools, Codes, Floats, Ids, Images
from ccvae_eval.data.interface import Renders, quantize
from ccvae_eval.model.latents import class_path
from ccvae_eval.oracle.model import BYTE, Block, Classes, Oracle

CACHE_BYTES = 1 << 28
"""Capacity for rendered images: 20,000 of 64 x 64 pixels."""
HIDDEN_FACTOR = float(quantize(np.array([0.5]))[0])
"""Value of the factors of a variety that is not visible."""


class ImageRenderer:
    """Renders images and caches them, because the steps of a perturbation show the same images many times.

    Args:
        data: the renderer.
        capacity: bytes of cached images; the oldest are dropped first.
    """

    def __init__(self, data: Renders, capacity: int = CACHE_BYTES) -> None:
        self.data, self.capacity = data, capacity
        self._kept: dict[bytes, Tensor] = {}
        self._bytes = 0

    def draw(self, factors: Floats, classes: Classes) -> Images:
        """The image of each row, bit by bit equal to that of ``data.render``."""
        table = np.concatenate([factors, classes.astype(np.float64)], axis=1)
        keys = [row.tobytes() for row in np.ascontiguousarray(table)]
        places = {key: place for place, key in enumerate(keys) if key not in self._kept}
        fresh: dict[bytes, Tensor] = {}
        if places:
            new = list(places.values())
            drawn = self.data.render(factors[new], classes[new].astype(np.float32))
            fresh = dict(zip(places, drawn, strict=True))
            self._keep(fresh)
        return torch.stack([fresh[key] if key in fresh else self._kept[key].float() / BYTE for key in keys])

    def _keep(self, fresh: dict[bytes, Tensor]) -> None:
        for key, image in fresh.items():
            steps = (image * BYTE).round().to(torch.uint8)
            if not torch.equal(steps.float() / BYTE, image):
                return  # the renderer does not draw in bytes: caching would lose precision
            self._kept[key] = steps
            self._bytes += steps.numel()
        while self._bytes > self.capacity and len(self._kept) > len(fresh):
            self._bytes -= self._kept.pop(next(iter(self._kept))).numel()


@dataclass(frozen=True, slots=True)
class Scene:
    """Factors and classes of some codes, and those of their originals: the reference images with the same style.

    Args:
        codes: shape (N, D).
        factors, classes: those of the codes, shapes (N, F) and (N, L).
        rows: row of each code's original among the reference images; -1 without an original.
        original_factors, original_classes: those of the original; those of the code where there is no original.
        encoded: True for codes that are the encoding of an image, not an edit of one.
    """

    codes: Codes
    factors: Floats
    classes: Classes
    rows: Ids
    original_factors: Floats
    original_classes: Classes
    encoded: Bools

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def class_changed(self) -> Bools:
        """True where the class of a label differs from the original's, shape (N, L)."""
        return np.asarray(self.classes != self.original_classes)


class ReferenceImages:
    """Some images of a rendered data set, with their oracle.

    Args:
        oracle: the oracle of the images.
        ids: ids of the images, ascending.
    """

    def __init__(self, oracle: Oracle, ids: Ids) -> None:
        self.oracle, self.data, self.ids = oracle, oracle.data, ids
        self.coding = oracle.coding
        self.renderer = ImageRenderer(oracle.data)
        images = self.data.batch(ids).images
        self.codes = oracle.encode(images).loc
        self.mean_image = images.mean(0)
        self.factors, self.classes = self.coding.factors(self.codes), self.coding.classes(self.codes)
        self._paths: dict[int, tuple[float, float]] = {}
        self._row_of = {key: row for row, key in enumerate(self._styles(self.factors))}

    def __len__(self) -> int:
        return len(self.ids)

    def _styles(self, factors: Floats) -> list[bytes]:
        return [row.tobytes() for row in np.ascontiguousarray(factors[:, list(self.coding.style_factors)])]

    def scene(self, codes: Codes) -> Scene:
        """Factors and classes of the codes and of their originals."""
        factors, classes = self.coding.factors(codes), self.coding.classes(codes)
        rows = np.array([self._row_of.get(key, -1) for key in self._styles(factors)])
        known = rows >= 0
        original_factors = np.where(known[:, None], self.factors[rows], factors)
        original_classes = np.where(known[:, None], self.classes[rows], classes)
        encoded = np.zeros(len(rows), np.bool_)
        return Scene(codes.cpu(), factors, classes, rows, original_factors, original_classes, encoded)

    def original_ids(self, scene: Scene) -> Ids:
        """The id of each code's original, shape (N,); -1 without an original."""
        return np.where(scene.rows >= 0, self.ids[scene.rows], -1)

    def draw(self, factors: Floats, classes: Classes) -> Images:
        """Render images; factors that are not visible do not enter the cache's key."""
        shown = factors.copy()
        for block, hidden in zip(self.coding.blocks, self.oracle.hidden, strict=True):
            rows = np.flatnonzero(hidden[classes[:, block.place]])
            shown[rows[:, None], np.array(block.factors)] = HIDDEN_FACTOR
        return self.renderer.draw(shown, classes)

    def absent_and_present(self, block: Block, factors: Floats, classes: Classes) -> tuple[Images, Images]:
        """Render the images with a binary label absent, and with it present."""
        absent, present = classes.copy(), classes.copy()
        absent[:, block.place], present[:, block.place] = 0, 1
        return self.draw(factors, absent), self.draw(factors, present)

    def visibly_changed(self, scene: Scene) -> Bools:
        """True where a label looks different from the original, by class or by visible variety, shape (N, L)."""
        found = scene.class_changed.copy()
        for block, hidden in zip(self.coding.blocks, self.oracle.hidden, strict=True):
            places = list(block.factors)
            other = (scene.factors[:, places] != scene.original_factors[:, places]).any(1)
            found[:, block.place] |= other & ~hidden[scene.classes[:, block.place]]
        return found

    def path_ends(self, block: Block) -> tuple[float, float]:
        """u at both ends of the traversal from absent to present."""
        if block.place not in self._paths:
            own, classes = self.codes[:, list(block.columns)], self.classes[:, block.place]
            path = class_path(*(own[torch.from_numpy(classes == value)] for value in (0, 1)))
            self._paths[block.place] = float(path.start[0]), float(path.end[0])
        return self._paths[block.place]

    def block(self, name: str) -> Block:
        """The latent dimensions and factors of one label."""
        return next(block for block in self.coding.blocks if block.label.name == name)
