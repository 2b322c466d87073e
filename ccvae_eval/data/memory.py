"""Data that are in memory as a whole.

Data that a program holds already: arrays with label names, or a torch Dataset of (image, label).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Any, NoReturn, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError, UsageError, suggestion
from ccvae_eval.core.types import Ids
from ccvae_eval.data.interface import DataSet, Split
from ccvae_eval.data.labels.columns import labels_from_array
from ccvae_eval.data.splits import Splits, split_by_column, split_by_name
from ccvae_eval.model.interface import Batch, LabelSchema

CHANNELS = (1, 3)


class InMemory(ABC):
    """Images (bytes or floats) or points with labels, all in memory; a data set says how it is opened.

    Args:
        images: uint8 or float32, shape :math:`(N, C, H, W)` or :math:`(N, D)`, as :func:`pictures` gives them.
        schema, labels: shape :math:`(N, L)`, as ``columns.labels_from_array`` gives them.
        splits: the split of each image.
        spec: what opens it again.
    """

    def __init__(
        self, images: NDArray[Any], schema: LabelSchema, labels: NDArray[np.float32], splits: Splits, spec: str
    ) -> None:
        if len(images) != len(labels):
            raise DataError(f"{len(images)} images, but {len(labels)} rows of labels", where=spec)
        self.images, self._schema, self._labels, self._splits, self._spec = images, schema, labels, splits, spec

    @classmethod
    @abstractmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self: ...

    @property
    def spec(self) -> str:
        return self._spec

    @property
    def schema(self) -> LabelSchema:
        return self._schema

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[1:])

    @cached_property
    def digest(self) -> str:
        content = blake2b(repr((self.images.shape, self._schema.as_plain())).encode(), digest_size=16)
        for array in (self.images, self._labels, self._splits.codes):
            content.update(np.ascontiguousarray(array).data)
        return content.hexdigest()

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, ids: Ids) -> Batch:
        ids = checked(ids, len(self), self.spec)
        chosen = torch.from_numpy(self.images[ids])
        images = chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen.float()
        return Batch(images, torch.from_numpy(self._labels[ids]), ids)

    def labels_of(self, ids: Ids) -> NDArray[np.float32]:
        return self._labels[checked(ids, len(self), self.spec)]

    def split(self, name: Split) -> Ids:
        return self._splits.ids(name)


def checked(ids: Ids, count: int, where: str) -> Ids:
    """The ids, if every one of them is an image's."""
    ids = np.asarray(ids, np.int64)
    outside = ids[(ids < 0) | (ids >= count)]
    if len(outside):
        raise DataError(f"there is no image {outside[0]}", where=where, hint=f"Ids run from 0 to {count - 1}.")
    return ids


def pictures(images: NDArray[Any], where: str) -> NDArray[Any]:
    """Images as (N, C, H, W) and points as (N, D), uint8 or float32, from the usual layouts.

    (N, H, W), (N, H, W, C) and (N, C, H, W) with 1 or 3 channels are images; where both of the latter are possible
    bytes have their channels last, floats first. Bytes are 0 to 255, floats of images 0 to 1.

    Raises:
        DataError: another shape or type, no image, or values out of range.
    """
    kind = images.dtype.kind
    if images.dtype != np.uint8 and kind not in "bf":
        raise DataError(
            f"images of type {images.dtype}", where=where, hint="Expected uint8 from 0 to 255, or floats from 0 to 1."
        )
    if images.ndim not in (2, 3, 4) or 0 in images.shape:
        raise DataError(f"images of shape {images.shape}", where=where, hint="Expected (N, C, H, W) or (N, H, W, C).")
    shaped = images[:, None] if images.ndim == 3 else images
    if images.ndim == 4:
        shaped = _channels_first(images, where)
    if images.dtype == np.uint8:
        return np.ascontiguousarray(shaped)
    values = np.ascontiguousarray(shaped, np.float32)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise DataError("the images hold NaN or infinity", where=where)
    if values.ndim == 4 and (low < 0 or high > 1):
        raise DataError(
            f"pixels from {low:g} to {high:g}", where=where, hint="Expected floats from 0 to 1, or uint8 from 0 to 255."
        )
    return values


def _channels_first(images: NDArray[Any], where: str) -> NDArray[Any]:
    first, last = images.shape[1] in CHANNELS, images.shape[3] in CHANNELS
    if not first and not last:
        raise DataError(f"images of shape {images.shape}", where=where, hint="Expected 1 or 3 channels.")
    if last and (not first or images.dtype == np.uint8):
        return np.moveaxis(images, 3, 1)
    return images


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
