"""Labelled noise: images of any shape with the labels that a model asks for, to try an untrained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch

from ccvae_eval.answers import undisturbed
from ccvae_eval.data.memory import InMemory
from ccvae_eval.data.options import Options, refuse_path
from ccvae_eval.data.splits import Splits
from ccvae_eval.model import LabelledVAE, LabelSchema, TakesShape
from ccvae_eval.streams import numpy_stream

USUAL_SHAPES = (
    (3, 64, 64), (1, 64, 64), (3, 32, 32), (1, 32, 32), (1, 28, 28), (3, 28, 28), (3, 128, 128), (3, 224, 224),
)  # fmt: skip
"""Tried in turn for a model that does not say what shape it takes."""

COARSE = 4
"""Noise is drawn on a grid of so many cells, and enlarged: pixels of white noise are like no image."""


class Noise(InMemory):
    """Images of coarse noise; a label is random, and shifts the brightness a little."""

    @classmethod
    def made(cls, schema: LabelSchema, input_shape: Sequence[int], count: int = 96) -> Self:
        draw = numpy_stream(0, "contract/noise", count)
        labels = np.zeros((count, len(schema)), np.float32)
        for column, label in enumerate(schema):
            labels[:, column] = (
                draw.normal(size=count) if label.kind == "continuous" else draw.integers(label.cardinality, size=count)
            )
        if len(input_shape) == 1:
            images = draw.normal(size=(count, *input_shape)).astype(np.float32)
        else:
            channels, height, width = input_shape
            coarse = draw.random((count, channels, COARSE, COARSE), np.float32)
            coarse = np.clip(coarse + 0.05 * labels.sum(1)[:, None, None, None], 0, 1).astype(np.float32)
            images = coarse.repeat(-(-height // COARSE), 2).repeat(-(-width // COARSE), 3)[:, :, :height, :width]
        splits = Splits(np.full(count, 2, np.int8))
        return cls(np.ascontiguousarray(images), schema, labels, splits, "noise")

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        refuse_path("noise", path)
        Options("noise", options).finish()
        return cls.made(LabelSchema(()), USUAL_SHAPES[0])


def shape_of(model: LabelledVAE) -> tuple[int, ...] | None:
    """The shape of a model's inputs: as it says, or the first usual one that it encodes and decodes; None if none."""
    if isinstance(model, TakesShape):
        return tuple(model.input_shape)
    for shape in USUAL_SHAPES:
        if _takes(model, shape):
            return shape
    return None


def _takes(model: LabelledVAE, shape: tuple[int, ...]) -> bool:
    images: Any = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with undisturbed(model):
            return tuple(model.decode(model.encode(images).loc).shape) == (2, *shape)
    except Exception:
        return False  # a wrong shape is refused in as many ways as there are networks
