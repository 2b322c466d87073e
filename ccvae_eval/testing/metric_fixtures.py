"""Inputs for the tests of metrics: a fixture of model and images, and variants of it for testing the metric's laws."""

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
"""Factor of :class:`Rescaled`; multiplication by a power of two is exact in float32."""


@dataclass(frozen=True, slots=True)
class MetricFixture:
    """A model and images to test a metric on.

    Args:
        model: a small model that predicts its labels, has p(z_c|y), and encodes the labels well enough for most values
            to be defined.
        data: the data set.
        ids: the images to evaluate.
        judge: an independent classifier, or None.
        known: least and greatest correct number by address (``density.auc@Eyeglasses``); without any, the law "oracle"
            is not tested.
        settings: settings that make a metric fast, by the metric's name.
    """

    model: LabelledVAE
    data: DataSet
    ids: Ids
    judge: Judge | None = None
    known: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class _ModelView:
    """A model with the capabilities of another one; subclasses change what it returns."""

    def __init__(self, inner: LabelledVAE) -> None:
        self.inner = inner
        self.layout, self.labels = inner.layout, inner.labels

    def modules(self) -> list[torch.nn.Module]:
        return [self.inner] if isinstance(self.inner, torch.nn.Module) else []

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        return self.inner.encode(images, labels)

    def decode(self, codes: Codes) -> Images:
        return self.inner.decode(codes)

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        return cast(Predicts, self.inner).predict(images, codes)

    def conditional_prior(self, labels: Labels) -> Gaussian:
        return cast(HasConditionalPrior, self.inner).conditional_prior(labels)


class Rescaled(_ModelView):
    """The model with every latent dimension multiplied by ``FACTOR``, and divided by it before decoding."""

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


class Reordered(_ModelView):
    """The model with the characteristics of its layout listed in reverse order; z is unchanged."""

    def __init__(self, inner: LabelledVAE) -> None:
        super().__init__(inner)
        names = list(inner.layout.characteristics)[::-1]
        self.layout = LatentLayout(inner.layout.dim, {name: inner.layout[name] for name in names})

    def conditional_prior(self, labels: Labels) -> Gaussian:
        prior = super().conditional_prior(labels)
        before = self.inner.layout.characteristic_columns
        return prior.columns([before.index(column) for column in self.layout.characteristic_columns])


class NotFinite(_ModelView):
    """The model with an encoder or a decoder that returns NaN."""

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
    """The data set with each label permuted over the images; regions stay with the images."""

    def __init__(self, inner: DataSet, seed: int = 0) -> None:
        self.inner = inner
        labels = inner.labels_of(np.arange(len(inner)))
        orders = [
            np.random.Generator(np.random.Philox(seed + j)).permutation(len(inner)) for j in range(labels.shape[1])
        ]
        self._labels = np.stack([labels[order, j] for j, order in enumerate(orders)], axis=1)

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
    """The reference model on ``count`` rendered faces, for metrics that need no more than the built-in capabilities."""
    data = Faces(size=size, n=5 * count)
    ids = data.split("test")[:count]
    return MetricFixture(oracle(data, ids), data, ids)
