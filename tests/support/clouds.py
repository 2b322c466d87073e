"""Small labelled data sets of points and of noise images, on which a model trains in milliseconds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Ids
from ccvae_eval.model.interface import Batch, Label, LabelSchema

SCHEMA = LabelSchema((Label("Right"), Label("Height", "categorical", ("low", "middle", "high"))))


class Clouds:
    """Points in three dimensions: the first depends on Right, the second on Height, the third on neither.

    Args:
        count: number of points; all but 10 are the train split.
        labels: labels to use instead of the points' own, shape (count, 2).
    """

    spec = "clouds"
    schema = SCHEMA
    input_shape: tuple[int, ...] = (3,)

    def __init__(self, count: int = 110, labels: NDArray[Any] | None = None) -> None:
        random = numpy_stream(0, "clouds")
        truth = np.stack([random.integers(0, 2, count), random.integers(0, 3, count)], 1)
        self.labels = (truth if labels is None else labels).astype(np.float32)
        means = np.stack([4 * truth[:, 0] - 2, 3 * truth[:, 1] - 3, np.zeros(count)], 1)
        self.points = torch.from_numpy(means + 0.3 * random.normal(size=(count, 3))).float()

    @property
    def digest(self) -> str:
        return f"{len(self):08x}"

    def __len__(self) -> int:
        return len(self.points)

    def batch(self, ids: Ids) -> Batch:
        return Batch(self.points[ids], torch.from_numpy(self.labels_of(ids)), ids)

    def labels_of(self, ids: Ids) -> NDArray[np.float32]:
        return self.labels[ids]

    def split(self, name: str) -> Ids:
        last = max(len(self) - 10, 0)
        return {"train": np.arange(last), "judge": np.arange(0), "test": np.arange(last, len(self))}[name]

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Clouds:
        del path, options
        return cls()


class NoiseImages(Clouds):
    """Noise images with the same labels.

    Args:
        count: number of images.
        levels: pixels are multiples of 1/levels.
    """

    spec = "pictures"
    input_shape = (1, 28, 28)

    def __init__(self, count: int = 60, levels: float = 255) -> None:
        super().__init__(count)
        random = numpy_stream(1, "pictures")
        self.points = torch.from_numpy(random.integers(0, math.floor(levels) + 1, (count, 1, 28, 28)) / levels).float()
        self.read: list[int] = []

    def batch(self, ids: Ids) -> Batch:
        self.read += ids.tolist()
        return super().batch(ids)
