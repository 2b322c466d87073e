"""Data and a model of any number of images, labels and latent dimensions, whose decoding costs next to nothing.

Label j is the brightness of square j of a 7 x 7 grid. Its latent dimension is j; all further dimensions are style that
is not decoded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ccvae_eval.core.types import Bools, Codes, Gaussian, Ids, Images, Labels
from ccvae_eval.evaluation.subject import Subject, prepare
from ccvae_eval.model.interface import Batch, Label, LabelSchema, LatentLayout

GRID, SIDE = 7, 4
SQUARES = GRID * GRID
SPREAD = 0.5


class Growing:
    """Images of squares with ``labels`` binary labels, at most 49."""

    region_source = "squares"

    def __init__(self, images: int, labels: int = 3) -> None:
        random = np.random.default_rng(0)
        self.classes = random.integers(0, 2, (images, labels), np.int8)
        self.spread = random.standard_normal((images, labels), np.float32) * SPREAD
        self.schema = LabelSchema(tuple(Label(f"label{j}") for j in range(labels)))
        self.spec, self.digest = f"growing,{images},{labels}", f"{images:08x}{labels:08x}"
        self.input_shape = (1, GRID * SIDE, GRID * SIDE)

    def __len__(self) -> int:
        return len(self.classes)

    def batch(self, ids: Ids) -> Batch:
        factors = torch.from_numpy(4.0 * self.classes[ids] - 2 + self.spread[ids])
        return Batch(pictured(factors.float()), torch.from_numpy(self.labels_of(ids)), ids)

    def labels_of(self, ids: Ids) -> Any:
        return self.classes[ids].astype(np.float32)

    def split(self, name: str) -> Ids:
        del name
        return np.arange(len(self))

    def region(self, ids: Ids, label: str) -> Bools:
        mask = np.arange(SQUARES) == self.schema.index(label)
        full = mask.reshape(GRID, GRID).repeat(SIDE, 0).repeat(SIDE, 1)
        return np.broadcast_to(full, (len(ids), *full.shape)).copy()


def pictured(factors: Tensor) -> Images:
    """Images of the first factors, shape (N, 1, 28, 28)."""
    squares = torch.full((len(factors), SQUARES), 0.5)
    shown = min(factors.shape[1], SQUARES)
    squares[:, :shown] = torch.sigmoid(factors[:, :shown])
    return squares.reshape(-1, 1, GRID, GRID).repeat_interleave(SIDE, 2).repeat_interleave(SIDE, 3)


class GrowingVAE(torch.nn.Module):
    """Inverts :func:`pictured` for the labels, with ``dimensions`` latent dimensions in all."""

    def __init__(self, labels: int, dimensions: int) -> None:
        super().__init__()
        self.count, self.dimensions = labels, dimensions
        self.labels = LabelSchema(tuple(Label(f"label{j}") for j in range(labels)))
        self.layout = LatentLayout(dimensions, {f"label{j}": (j,) for j in range(labels)})

    def encode(self, images: Images, labels: Labels | None = None) -> Gaussian:
        del labels
        loc = torch.zeros(len(images), self.dimensions)
        middle = images[:, 0, SIDE // 2 :: SIDE, SIDE // 2 :: SIDE].flatten(1)
        loc[:, : self.count] = torch.logit(middle[:, : self.count], eps=1e-6)
        scale = torch.ones_like(loc)
        scale[:, : self.count] = 0.1
        return Gaussian(loc, scale)

    def decode(self, codes: Codes) -> Images:
        return pictured(codes[:, : self.count])

    def conditional_prior(self, labels: Labels) -> Gaussian:
        return Gaussian(4 * labels - 2, torch.full_like(labels, SPREAD))


def growing_subject(images: int = 500, labels: int = 3, dimensions: int = 10) -> Subject:
    """A subject of this size."""
    model, data = GrowingVAE(labels, dimensions), Growing(images, labels)
    return prepare(model, data, np.arange(images))  # type: ignore[arg-type]
