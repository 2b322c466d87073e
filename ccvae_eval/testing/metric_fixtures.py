"""Inputs for the tests of metrics: a model with images, and variants of both for the laws of metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.calibration.code_faults import FullModel, Recoded
from ccvae_eval.core.types import Codes, Gaussian, Ids, Images, Labels
from ccvae_eval.data.interface import DataSet, HasRegions
from ccvae_eval.data.sets.faces.dataset import Faces
from ccvae_eval.judge import Judge
from ccvae_eval.model.interface import Batch, LatentLayout, Proxy
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


class Rescaled(Recoded):
    """The model with every latent dimension multiplied by ``FACTOR``, and divided by it before decoding."""

    def recode(self, found: Gaussian) -> Gaussian:
        return Gaussian(found.loc * FACTOR, found.scale * FACTOR)

    def inner_codes(self, codes: Codes) -> Codes:
        return codes / FACTOR

    def conditional_prior(self, labels: Labels) -> Gaussian:
        return self.recode(self.inner.conditional_prior(labels))


class Reordered(Proxy[FullModel]):
    """The model with the characteristics of its layout listed in reverse order; z is unchanged."""

    @property
    def layout(self) -> LatentLayout:
        layout = self.inner.layout
        return LatentLayout(layout.dim, dict([*layout.characteristics.items()][::-1]))

    def conditional_prior(self, labels: Labels) -> Gaussian:
        prior = self.inner.conditional_prior(labels)
        before = self.inner.layout.characteristic_columns
        return prior.columns([before.index(column) for column in self.layout.characteristic_columns])


class NotFinite(Proxy[FullModel]):
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


class PermutedLabels(Proxy[DataSet]):
    """The data set with each label permuted over the images; regions stay with the images."""

    def __init__(self, inner: DataSet, seed: int = 0) -> None:
        super().__init__(inner)
        labels = inner.labels_of(np.arange(len(inner)))
        draws = [np.random.Generator(np.random.Philox(seed + j)) for j in range(labels.shape[1])]
        self._labels = np.stack([labels[draw.permutation(len(inner)), j] for j, draw in enumerate(draws)], axis=1)

    def supports(self, capability: type) -> bool:
        """Rendering would show the labels that were permuted."""
        return capability in (DataSet, HasRegions) and super().supports(capability)

    def __len__(self) -> int:
        return len(self.inner)

    def batch(self, ids: Ids) -> Batch:
        batch = self.inner.batch(ids)
        return Batch(batch.images, torch.from_numpy(self._labels[ids]), batch.ids)

    def labels_of(self, ids: Ids) -> NDArray[np.float32]:
        return self._labels[ids]


def drawn_faces(count: int = 120, size: int = 32) -> MetricFixture:
    """The reference model on ``count`` rendered faces, for metrics that need no more than the built-in capabilities."""
    data = Faces(size=size, n=5 * count)
    ids = data.split("test")[:count]
    return MetricFixture(oracle(data, ids), data, ids)
