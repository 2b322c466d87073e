"""Inputs for the tests of metrics: a model with images, and variants of both for the laws of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ccvae_eval.calibration.code_faults import FullModel, PerturbedModel
from ccvae_eval.core.types import Bools, Codes, Gaussian, Ids, Images, Labels
from ccvae_eval.data.interface import DataSet, HasRegions
from ccvae_eval.data.sets.faces.dataset import Faces
from ccvae_eval.judge import Judge
from ccvae_eval.model.interface import Batch, LatentLayout
from ccvae_eval.oracle.model import oracle

FACTOR = 4.0
"""Factor of :class:`Rescaled`; multiplication by a power of two is exact in float32."""


@dataclass(frozen=True, slots=True)
class MetricFixture:
    """A model and images to test a metric on.

    Args:
        model: a small model that predicts its labels, has p(z_c|y), and encodes the labels well enough that most
            values are defined.
        data: the data set.
        ids: the images to evaluate.
        judge: an independent classifier, or None.
        known: least and greatest correct number by address (``density.auc@Eyeglasses``); without any, the law "oracle"
            is not tested.
        settings: settings that make a metric fast, by the metric's name.
    """

    model: FullModel
    data: DataSet
    ids: Ids
    judge: Judge | None = None
    known: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class Rescaled(PerturbedModel):
    """The model with every latent dimension multiplied by ``FACTOR``, and divided by it before decoding."""

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        posterior = self.inner.encode(images, labels)
        return Gaussian(posterior.loc * FACTOR, posterior.scale * FACTOR)

    def decode(self, codes: Codes) -> Images:
        return self.inner.decode(codes / FACTOR)

    def predict(self, images: Images, codes: Codes) -> Mapping[str, Tensor | Gaussian]:
        return self.inner.predict(images, codes / FACTOR)

    def conditional_prior(self, labels: Labels) -> Gaussian:
        prior = self.inner.conditional_prior(labels)
        return Gaussian(prior.loc * FACTOR, prior.scale * FACTOR)


class Reordered(PerturbedModel):
    """The model with the characteristics of its layout listed in reverse order; z is unchanged."""

    @property
    def layout(self) -> LatentLayout:
        layout = self.inner.layout
        return LatentLayout(layout.dim, dict([*layout.characteristics.items()][::-1]))

    def conditional_prior(self, labels: Labels) -> Gaussian:
        prior = self.inner.conditional_prior(labels)
        before = self.inner.layout.characteristic_columns
        return prior.columns([before.index(column) for column in self.layout.characteristic_columns])


class NotFinite(PerturbedModel):
    """The model with an encoder or a decoder that returns NaN."""

    def __init__(self, inner: FullModel, part: str) -> None:
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
        draws = [np.random.Generator(np.random.Philox(seed + j)) for j in range(labels.shape[1])]
        self._labels = np.stack([labels[draw.permutation(len(inner)), j] for j, draw in enumerate(draws)], axis=1)

    spec = property(attrgetter("inner.spec"))
    schema = property(attrgetter("inner.schema"))
    input_shape = property(attrgetter("inner.input_shape"))
    digest = property(attrgetter("inner.digest"))
    split = property(attrgetter("inner.split"))
    region_source = property(attrgetter("inner.region_source"))

    def __len__(self) -> int:
        return len(self.inner)

    def batch(self, ids: Ids) -> Batch:
        batch = self.inner.batch(ids)
        return Batch(batch.images, torch.from_numpy(self._labels[ids]), batch.ids)

    def labels_of(self, ids: Ids) -> NDArray[np.float32]:
        return self._labels[ids]

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> PermutedLabels:
        raise NotImplementedError

    def region(self, ids: Ids, label: str) -> Bools | None:
        return self.inner.region(ids, label) if isinstance(self.inner, HasRegions) else None


def drawn_faces(count: int = 120, size: int = 32) -> MetricFixture:
    """The reference model on ``count`` rendered faces, for metrics that need no more than the built-in capabilities."""
    data = Faces(size=size, n=5 * count)
    ids = data.split("test")[:count]
    return MetricFixture(oracle(data, ids), data, ids)
