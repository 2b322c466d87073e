"""What a metric is tried on, and the same thing seen in other ways that must not change a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccvae_eval.core.types import Bools, Codes, Gaussian, Ids, Images, Labels
from ccvae_eval.data.interface import DataSet, HasRegions
from ccvae_eval.data.sets.faces.dataset import Faces
from ccvae_eval.judge import Judge
from ccvae_eval.model.interface import Batch, HasConditionalPrior, LabelledVAE, LabelSchema, LatentLayout, Predicts
from ccvae_eval.oracle.model import oracle

FACTOR = 4.0
"""A power of two: rescaling by it is exact in float32."""


@dataclass(frozen=True, slots=True)
class MetricFixture:
    """A model and images on which every metric is tried.

    Args:
        model, data: small and quick. The model must predict its labels and have p(z_c|y), and know the labels well
            enough for most values to be defined.
        ids: which images.
        judge: an independent classifier, or None.
        known: for some addresses (``density.auc@Eyeglasses``) the least and the greatest number that is right; a
            specimen of which nothing is known does not try the law "oracle".
        settings: fields of a metric that make it quick enough, by the metric's name.
    """

    model: LabelledVAE
    data: DataSet
    ids: Ids
    judge: Judge | None = None
    known: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class _Seen:
    """A model seen in another way; it has the same capabilities, as far as they are passed on here."""

    def __init__(self, inner: LabelledVAE) -> None:
        self.inner = inner
        self.layout, self.labels = inner.layout, inner.labels

    def modules(self) -> list[torch.nn.Module]:
        return [self.inner] if isinstance(self.inner, torch.nn.Module) else []

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        return self.inner.encode(images, labels)

    def decode(self, codes: Codes) -> Images:
        return self.inner.decode(codes)


class _Capable(_Seen):
    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        return cast(Predicts, self.inner).predict(images, codes)

    def conditional_prior(self, labels: Labels) -> Gaussian:
        return cast(HasConditionalPrior, self.inner).conditional_prior(labels)


class Rescaled(_Capable):
    """Every column of z multiplied by a factor, and divided by it before it is decoded."""

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        posterior = self.inner.encode(images, labels)
        return Gaussian(posterior.loc * FACTOR, posterior.scale * FACTOR)

    def decode(self, codes: Codes) -> Images:
        return self.inner.decode(codes / FACTOR)

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        return super().predict(images, codes / FACTOR)

    def conditional_prior(self, labels: Labels) -> Gaussian:
        prior = super().conditional_prior(labels)
        return Gaussian(prior.loc * FACTOR, prior.scale * FACTOR)


class Reordered(_Capable):
    """The characteristics of the layout named in the opposite order; z itself is as it was."""

    def __init__(self, inner: LabelledVAE) -> None:
        super().__init__(inner)
        names = list(inner.layout.characteristics)[::-1]
        self.layout = LatentLayout(inner.layout.dim, {name: inner.layout[name] for name in names})

    def conditional_prior(self, labels: Labels) -> Gaussian:
        prior = super().conditional_prior(labels)
        before = self.inner.layout.characteristic_columns
        return prior.columns([before.index(column) for column in self.layout.characteristic_columns])


class NotFinite(_Capable):
    """A network that gives NaN where it is told to."""

    def __init__(self, inner: LabelledVAE, part: str) -> None:
        super().__init__(inner)
        self.part = part

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        posterior = self.inner.encode(images, labels)
        return Gaussian(posterior.loc * torch.nan, posterior.scale) if self.part == "encode" else posterior

    def decode(self, codes: Codes) -> Images:
        images = self.inner.decode(codes)
        return images * torch.nan if self.part == "decode" else images


class PermutedLabels:
    """The same images with each label dealt out anew among them: whatever a label told, it tells no more.

    Regions stay with the images.
    """

    def __init__(self, inner: DataSet, seed: int = 0) -> None:
        self.inner = inner
        every = np.arange(len(inner))
        labels = inner.labels_of(every)
        columns = [
            np.random.Generator(np.random.Philox(seed + j)).permutation(len(inner)) for j in range(labels.shape[1])
        ]
        self._labels = np.stack([labels[order, j] for j, order in enumerate(columns)], axis=1)

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def spec(self) -> str:
        return self.inner.spec

    @property
    def schema(self) -> LabelSchema:
        return self.inner.schema

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self.inner.input_shape

    @property
    def digest(self) -> str:
        return self.inner.digest

    def batch(self, ids: Ids) -> Batch:
        batch = self.inner.batch(ids)
        return Batch(batch.images, torch.from_numpy(self._labels[ids]), batch.ids)

    def labels_of(self, ids: Ids) -> NDArray[np.float32]:
        return self._labels[ids]

    def split(self, name: Any) -> Ids:
        return self.inner.split(name)

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> PermutedLabels:
        raise NotImplementedError

    @property
    def region_source(self) -> str:
        return cast(HasRegions, self.inner).region_source

    def region(self, ids: Ids, label: str) -> Bools | None:
        return self.inner.region(ids, label) if isinstance(self.inner, HasRegions) else None


def drawn_faces(count: int = 120, size: int = 32) -> MetricFixture:
    """The oracle on drawn faces: a specimen for any metric that asks for no more than this package has."""
    data = Faces(size=size, n=5 * count)
    ids = data.split("test")[:count]
    return MetricFixture(oracle(data, ids), data, ids)
