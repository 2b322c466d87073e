"""Data that a program holds already: arrays with label names, or a torch Dataset of (image, label)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.data.columns import labels_from_array
from ccvae_eval.data.contract import DataSet
from ccvae_eval.data.memory import InMemory, pictures
from ccvae_eval.data.splits import split_by_column, split_by_name
from ccvae_eval.errors import DataError, UsageError, suggestion
from ccvae_eval.model import LabelSchema

SPEC = "arrays"
KEYS = ("images", "labels", "names", "split")
FORMS = "Expected (images, labels, names), a mapping with images, labels, names and split, or a torch Dataset."


class Arrays(InMemory):
    """Images and labels given as arrays or tensors.

    Args:
        images: uint8 (N, H, W, C) or floats in [0, 1] (N, C, H, W); other layouts as ``memory.pictures`` says.
        labels: shape :math:`(N,)` or :math:`(N, L)`; NaN = missing.
        names: of the labels, or their schema.
        split: "train", "judge" or "test" for each image; by a hash of its position, if None: 60/20/20.
    """

    def __init__(
        self,
        images: Any,
        labels: Any,
        names: Sequence[str] | LabelSchema | None = None,
        split: Sequence[str] | None = None,
    ) -> None:
        schema, values = labels_from_array(_array(labels), names, SPEC)
        positions = [str(i) for i in range(len(values))]
        if split is not None and len(split) != len(values):
            raise DataError(f"{len(split)} splits, but {len(values)} images", where=SPEC)
        splits = split_by_name(positions) if split is None else split_by_column(list(split), positions, SPEC)
        super().__init__(pictures(_array(images), SPEC), schema, values, splits, SPEC)

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> NoReturn:
        del path, options
        raise UsageError("arrays are given in Python", hint="Save them as an .npz and write npz:PATH.")


def as_data_set(data: Any) -> DataSet:
    """What ``evaluate`` accepts as data, as a data set.

    A data set is itself; ``(images, labels)`` or ``(images, labels, names)`` and a mapping with these keys are
    :class:`Arrays`; a torch Dataset of (image, label) is read once, in order, into memory, its names
    from its attribute ``label_names`` if it has one.

    Raises:
        DataError: the images or labels cannot be used.
        UsageError: it is none of these.
    """
    if isinstance(data, DataSet):
        return data
    if isinstance(data, Mapping):
        unknown = next((key for key in data if key not in KEYS), None)
        if unknown is not None or not {"images", "labels"} <= set(data):
            raise UsageError(f"data with the keys {', '.join(map(str, data))}", hint=suggestion(str(unknown), KEYS))
        return Arrays(**data)
    if isinstance(data, tuple) and len(data) in (2, 3):
        return Arrays(*data)
    if isinstance(data, torch.utils.data.Dataset):
        return _read(data)
    raise UsageError(f"{type(data).__name__} is no data", hint=FORMS)


def _read(data: Any) -> Arrays:
    """Reads a torch Dataset from its first to its last item."""
    images, labels = [], []
    for index in range(len(data)):
        try:
            image, label = data[index]
            images.append(_array(image))
            labels.append(_array(label))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"item {index} is no (image, label)", where=type(data).__name__, why=str(error), hint=FORMS
            ) from None
    if not images:
        raise DataError("there is no image", where=type(data).__name__)
    names = getattr(data, "label_names", None)
    try:
        return Arrays(np.stack(images), np.stack(labels), names)
    except ValueError as error:
        raise DataError("the items differ in shape", where=type(data).__name__, why=str(error)) from None


def _array(values: Any) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
