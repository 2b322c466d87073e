"""Arrays for figures: single images, and means over all images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccvae_eval.core.errors import UndefinedError
from ccvae_eval.core.types import Floats, Images
from ccvae_eval.evaluation.interventions import path_between
from ccvae_eval.evaluation.metric import CodeSource
from ccvae_eval.evaluation.subject import Subject
from ccvae_eval.model.latents import replaced

PICTURED = 8
"""Number of images, the first of the sample, that figures show."""

GRID = 5
"""Steps along each side of a two-dimensional traversal."""


def as_bytes(images: Images) -> Tensor:
    r"""Images for display, shape :math:`(N, H, W, C)`, uint8, on the CPU."""
    return (images.permute(0, 2, 3, 1).clamp(0, 1) * 255).round().to(torch.uint8).cpu()


UNITS = 2.0**32
"""Units of the integers that pictures are summed in; sums of 8-bit images are exact."""

LARGEST = 64.0
"""Largest absolute value of a pixel in a mean; the sums of 2**25 images cannot overflow."""


@dataclass
class MeanPictures:
    """Means of pictures over images, and single pictures.

    The sums are integers, so that no bit depends on the order of the images.

    Args:
        sums: sum of each picture over the images, int64.
        counts: number of images in each sum.
        kept: single pictures.
    """

    sums: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    kept: dict[str, NDArray[np.generic]] = field(default_factory=dict)

    def add(self, name: str, pictures: Tensor) -> None:
        r"""Adds pictures, shape :math:`(N, ...)`, to the mean of that name."""
        units = pictures.cpu().double().clamp(-LARGEST, LARGEST).mul(UNITS).round().long()
        self._add(name, units.sum(0).numpy(), len(pictures))

    def _add(self, name: str, total: NDArray[np.int64], count: int) -> None:
        self.sums[name] = self.sums[name] + total if name in self.sums else total
        self.counts[name] = self.counts.get(name, 0) + count

    def keep(self, name: str, pictures: Tensor) -> None:
        """Stores pictures without averaging."""
        self.kept[name] = pictures.numpy()

    def merge(self, other: MeanPictures) -> None:
        """Adds the pictures of other images."""
        for name, total in other.sums.items():
            self._add(name, total, other.counts[name])
        self.kept |= other.kept

    def mean(self, name: str) -> Floats:
        """The mean of that name, float64, channels first."""
        return np.asarray(self.sums[name] / (UNITS * self.counts[name]))

    def arrays(self) -> Mapping[str, NDArray[np.generic]]:
        """The means as ``mean/NAME``, float32, channels last; and the stored pictures by their names."""
        means: dict[str, NDArray[np.generic]] = {}
        for name in self.sums:
            mean = self.mean(name).astype(np.float32)
            means[f"mean/{name}"] = np.moveaxis(mean, 0, 2) if mean.ndim == 3 else mean
        return {**means, **self.kept}


def pair_strips(subject: Subject, name: str, source: CodeSource, steps: int) -> dict[str, NDArray[np.generic]]:
    r"""Traversals from each class of a categorical label to every other class, of the first image of the class.

    Returns:
        Strips by "from > to", each of shape :math:`(1, steps, H, W, C)`, uint8; pairs without a path are left out.
    """
    label, now = subject.schema[name], subject.current_class(name)
    found: dict[str, NDArray[np.generic]] = {}
    for start, end in permutations(range(label.cardinality), 2):
        rows = torch.nonzero(now == start)[:1, 0]
        try:
            path = path_between(subject, name, start, end, source)
        except UndefinedError:
            continue
        if len(rows):
            own, positions = subject.codes[rows], torch.linspace(0, 1, steps).tolist()
            codes = torch.cat([replaced(own, subject.layout[name], path.at(position)) for position in positions])
            images = as_bytes(subject.decode(codes)).numpy()
            found[f"{label.class_name(start)} > {label.class_name(end)}"] = images[None]
    return found


def plane(subject: Subject, down: str, across: str, source: CodeSource, size: int = GRID) -> NDArray[np.generic]:
    r"""Two-dimensional traversal of the first image along the paths of two binary characteristics.

    Returns:
        Shape :math:`(size, size, H, W, C)`, uint8; ``down`` changes along the rows and ``across`` along the columns,
        from absent to present.
    """
    own = subject.codes[:1]
    paths = [path_between(subject, name, 0, 1, source) for name in (down, across)]
    positions = torch.linspace(0, 1, size).tolist()
    codes = [
        replaced(replaced(own, subject.layout[down], paths[0].at(i)), subject.layout[across], paths[1].at(j))
        for i in positions
        for j in positions
    ]
    images = as_bytes(subject.decode(torch.cat(codes))).numpy()
    return images.reshape(size, size, *images.shape[1:])
