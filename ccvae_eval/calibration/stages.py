"""What a metric is shown of a model before anything is measured: some ask for what the oracle does not have.

The oracle's posteriors are point masses, which have no density, so there is nothing to bound; and its characteristics
are blocks of several columns, of which no closed form tells what a forest reads out of them. A stage gives either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from ccvae_eval.calibration.spoilt import Spoilt, Whole
from ccvae_eval.model import LatentLayout
from ccvae_eval.types import Gaussian, Images, Labels


@dataclass(frozen=True, slots=True)
class Stage:
    """How a metric is shown the models of its calibration.

    Args:
        name: stands for it in what is kept.
        narrow: each characteristic is its first column alone; only binary labels, which have one such column.
        scale: the deviation of q(z|x) in every column; 0 = as the model has it.
    """

    name: str = ""
    narrow: bool = False
    scale: float = 0.0

    def __call__(self, model: Whole) -> Whole:
        """The model as it is shown."""
        return Staged(model, self) if self.name else model


PLAIN = Stage()
STAGES: Mapping[str, Stage] = MappingProxyType(
    {
        "disentanglement": Stage("narrow", narrow=True, scale=0.5),
        "reconstruction": Stage("soft", scale=0.05),
    }
)
"""By metric; all others see the models as they are."""


class Staged(Spoilt):
    """A model as a stage shows it.

    Args:
        inner: the model.
        stage: how.
    """

    def __init__(self, inner: Whole, stage: Stage) -> None:
        super().__init__(inner)
        self.stage = stage

    @property
    def layout(self) -> LatentLayout:
        whole = self.inner.layout
        if not self.stage.narrow:
            return whole
        return LatentLayout(whole.dim, {name: columns[:1] for name, columns in whole.characteristics.items()})

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        found = self.inner.encode(images, labels)
        return Gaussian(found.loc, torch.full_like(found.loc, self.stage.scale)) if self.stage.scale else found

    def conditional_prior(self, labels: Labels) -> Gaussian:
        whole = self.inner.conditional_prior(labels)
        order = self.inner.layout.characteristic_columns
        return whole.columns([order.index(column) for column in self.layout.characteristic_columns])
