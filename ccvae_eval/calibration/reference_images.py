"""The images that a saboteur is shown, and what each code has changed about the one that it came from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.types import Bools, Codes, Floats, Ids, Images
from ccvae_eval.data.interface import Renders
from ccvae_eval.data.quantize import on_lattice
from ccvae_eval.model.latents import class_path
from ccvae_eval.oracle.code import Block, Classes
from ccvae_eval.oracle.model import Oracle

KEPT_BYTES = 1 << 28
"""Drawn pictures that are kept, as bytes: 20,000 of 64 pixels."""
BYTE = 255
MIDDLE = float(on_lattice(np.array([0.5]))[0])
"""The factor that stands for a variety that does not show."""


class ImageRenderer:
    """Draws pictures, and those that it has drawn only once: a dial's steps show the same ones again and again.

    Args:
        data: what draws.
        capacity: bytes of pictures that are kept; the oldest go first.
    """

    def __init__(self, data: Renders, capacity: int = KEPT_BYTES) -> None:
        self.data, self.capacity = data, capacity
        self._kept: dict[bytes, Tensor] = {}
        self._bytes = 0

    def draw(self, factors: Floats, classes: Classes) -> Images:
        """The picture of each row, equal in every bit to ``data.render``."""
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
        for key, picture in fresh.items():
            steps = (picture * BYTE).round().to(torch.uint8)
            if not torch.equal(steps.float() / BYTE, picture):
                return  # not drawn in bytes: nothing can be kept without loss
            self._kept[key] = steps
            self._bytes += steps.numel()
        while self._bytes > self.capacity and len(self._kept) > len(fresh):
            self._bytes -= self._kept.pop(next(iter(self._kept))).numel()


@dataclass(frozen=True, slots=True)
class Scene:
    """What some codes say, beside what was said of the images that they came from.

    Args:
        codes: shape (N, D).
        factors, classes: what they say, shapes (N, F) and (N, L).
        rows: the place of each one's original, the image with the same style; -1 = none is known.
        own_factors, own_classes: what is true of the original; where none is known, what the code says.
        shown: which codes are those of pictures that were read, and no edits of them: nothing is changed about these.
    """

    codes: Codes
    factors: Floats
    classes: Classes
    rows: Ids
    own_factors: Floats
    own_classes: Classes
    shown: Bools

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def turned(self) -> Bools:
        """Which labels say another class than the original's, shape (N, L)."""
        return np.asarray(self.classes != self.own_classes)


class ReferenceImages:
    """Some images of a drawn data set, with the oracle that reads them.

    Args:
        oracle: bound to the images.
        ids: the images, ascending.
    """

    def __init__(self, oracle: Oracle, ids: Ids) -> None:
        self.oracle, self.data, self.ids = oracle, oracle.data, ids
        self.coding = oracle.coding
        self.studio = ImageRenderer(oracle.data)
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
        """What the codes say and what they have changed."""
        factors, classes = self.coding.factors(codes), self.coding.classes(codes)
        rows = np.array([self._row_of.get(key, -1) for key in self._styles(factors)])
        known = rows >= 0
        own_factors = np.where(known[:, None], self.factors[rows], factors)
        own_classes = np.where(known[:, None], self.classes[rows], classes)
        return Scene(codes.cpu(), factors, classes, rows, own_factors, own_classes, np.zeros(len(rows), np.bool_))

    def keys(self, scene: Scene) -> Ids:
        """The id of each one's original; -1 where none is known."""
        return np.where(scene.rows >= 0, self.ids[scene.rows], -1)

    def draw(self, factors: Floats, classes: Classes) -> Images:
        """The pictures; a variety that does not show takes no part in what is kept."""
        shown = factors.copy()
        for block, hidden in zip(self.coding.blocks, self.oracle.hidden, strict=True):
            rows = np.flatnonzero(hidden[classes[:, block.place]])
            shown[rows[:, None], np.array(block.factors)] = MIDDLE
        return self.studio.draw(shown, classes)

    def both(self, block: Block, factors: Floats, classes: Classes) -> tuple[Images, Images]:
        """The pictures with a binary label absent, and with it present."""
        pictures = []
        for value in (0, 1):
            chosen = classes.copy()
            chosen[:, block.place] = value
            pictures.append(self.draw(factors, chosen))
        return pictures[0], pictures[1]

    def touched(self, scene: Scene) -> Bools:
        """Which labels look different than in the original: by class, or by a variety that shows, shape (N, L)."""
        found = scene.turned.copy()
        for block, hidden in zip(self.coding.blocks, self.oracle.hidden, strict=True):
            places = list(block.factors)
            other = (scene.factors[:, places] != scene.own_factors[:, places]).any(1)
            found[:, block.place] |= other & ~hidden[scene.classes[:, block.place]]
        return found

    def path_ends(self, block: Block) -> tuple[float, float]:
        """Where u starts and ends on the path from absent to present."""
        if block.place not in self._paths:
            own, classes = self.codes[:, list(block.columns)], self.classes[:, block.place]
            path = class_path(*(own[torch.from_numpy(classes == value)] for value in (0, 1)))
            self._paths[block.place] = float(path.start[0]), float(path.end[0])
        return self._paths[block.place]

    def block(self, name: str) -> Block:
        """The columns of one label."""
        return next(block for block in self.coding.blocks if block.label.name == name)
