"""A registered model, untrained, with images and labels of the kind that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ccvae_eval.checkpoint.building import arguments_of, is_rebuildable
from ccvae_eval.contract.breach import require
from ccvae_eval.contract.noise import Noise, shape_of
from ccvae_eval.data.contract import DataSet
from ccvae_eval.data.faces.dataset import Faces
from ccvae_eval.data.matching import label_columns
from ccvae_eval.data.opening import open_data
from ccvae_eval.model import ModelContext, uniform_prior
from ccvae_eval.pixels import Pixels, translated
from ccvae_eval.run.blaming import require_model
from ccvae_eval.types import Plain

IMAGES = 40


@dataclass(frozen=True)
class Sitter:
    """A model with images and labels of the kind that it takes."""

    model: Any
    data: DataSet
    images: Tensor
    labels: Tensor


def sitter_of(name: str, kind: Any, settings: Mapping[str, Plain], spec: str | None = None) -> Sitter:
    """An untrained model and what to try it on.

    Args:
        name: under which it is registered.
        kind: the class. One with ``from_settings`` is built for drawn faces, another by its constructor.
        settings: of the model, or arguments of its constructor, and how its pixels are to be translated.
        spec: of the images; without it drawn faces, or noise of the model's own shape and labels.

    Raises:
        PluginError: it is no model.
        ContractBroken: no shape of images is known that it takes.
    """
    if is_rebuildable(kind):
        given = open_data(spec) if spec else Faces(size=32)
        schema = given.schema.select(given.schema.names)
        model: Any = kind.from_settings(settings, ModelContext(schema, given.input_shape, uniform_prior(schema)))
    else:
        pixels, arguments = Pixels.of(settings)
        model = kind(**arguments_of(kind, arguments, {}, name))
        if pixels is not None and isinstance(model, nn.Module):
            model = translated(model, pixels)
    require_model(model, name)
    if spec:
        data: DataSet = open_data(spec)
    else:
        shape = shape_of(model)
        require(shape is not None, name, "it says its input_shape, or takes images of a usual one; else --data")
        data = Noise.made(model.labels, shape or ())
    ids = data.split("test")[:IMAGES]
    labels = torch.from_numpy(label_columns(data, model.labels, ids))
    return Sitter(model, data, data.batch(ids).images, labels)
