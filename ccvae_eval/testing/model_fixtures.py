"""Inputs for the tests of models: an untrained model, with images of its input shape and labels of its schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from ccvae_eval.checkpoint.building import constructor_arguments, is_rebuildable
from ccvae_eval.core.errors import require
from ccvae_eval.core.random_streams import numpy_stream
from ccvae_eval.core.types import Plain
from ccvae_eval.data.interface import DataSet
from ccvae_eval.data.labels.relabel import label_columns
from ccvae_eval.data.memory import InMemory
from ccvae_eval.data.sets.faces.dataset import Faces
from ccvae_eval.data.spec import Options, open_data, refuse_path
from ccvae_eval.data.splits import Splits
from ccvae_eval.model.checks import evaluation_mode, require_model
from ccvae_eval.model.interface import LabelledVAE, LabelSchema, ModelContext, TakesShape, supports, uniform_prior
from ccvae_eval.model.pixel_range import PixelRange
from ccvae_eval.model.wrap import PixelRangeModel

USUAL_SHAPES = (
    (3, 64, 64), (1, 64, 64), (3, 32, 32), (1, 32, 32), (1, 28, 28), (3, 28, 28), (3, 128, 128), (3, 224, 224),
)  # fmt: skip
"""Input shapes to try, in this order, for a model without ``input_shape``."""

IMAGES = 40
COARSE = 4
"""Cells of the noise along each side, enlarged to the image: white noise is unlike any image."""


class Noise(InMemory):
    """Images of coarse noise with random labels; each label changes the brightness slightly."""

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
    """The model's ``input_shape``, or the first usual shape that it encodes and decodes; None if there is none."""
    if supports(model, TakesShape):
        return tuple(model.input_shape)
    return next((shape for shape in USUAL_SHAPES if _accepts(model, shape)), None)


def _accepts(model: LabelledVAE, shape: tuple[int, ...]) -> bool:
    images: Any = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with evaluation_mode(model):
            return tuple(model.decode(model.encode(images).loc).shape) == (2, *shape)
    except Exception:
        return False  # networks raise many kinds of errors for a wrong shape


@dataclass(frozen=True)
class ModelFixture:
    """A model with data of its input shape and labels, and the first images and labels of them."""

    model: Any
    data: DataSet
    images: Tensor
    labels: Tensor


def model_fixture(name: str, kind: Any, settings: Mapping[str, Plain], spec: str | None = None) -> ModelFixture:
    """An untrained model with data to test it on.

    Args:
        name: the model's registered name.
        kind: the model's class; built by ``from_settings`` if it has that method (for the labels and shape of the
            data set, by default rendered faces), else by its constructor.
        settings: settings or constructor arguments of the model, and ``images.range`` and ``images.logits``.
        spec: the data set; default: noise of the model's input shape and labels.

    Raises:
        PluginError: the class is not a model.
        ContractBroken: the input shape of the model cannot be determined.
    """
    if is_rebuildable(kind):
        given = open_data(spec) if spec else Faces(size=32)
        schema = given.schema.select(given.schema.names)
        model: Any = kind.from_settings(settings, ModelContext(schema, given.input_shape, uniform_prior(schema)))
    else:
        pixels, arguments = PixelRange.of(settings)
        model = kind(**constructor_arguments(kind, arguments, {}, name))
        if pixels is not None and isinstance(model, nn.Module):
            model = PixelRangeModel(model, pixels)
    require_model(model, name)
    if spec:
        data: DataSet = open_data(spec)
    else:
        shape = shape_of(model)
        require(shape is not None, name, "the model needs an input_shape, as it accepts no usual shape; or pass --data")
        data = Noise.made(model.labels, shape or ())
    ids = data.split("test")[:IMAGES]
    labels = torch.from_numpy(label_columns(data, model.labels, ids))
    return ModelFixture(model, data, data.batch(ids).images, labels)
