"""Data that are in memory as a whole."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from hashlib import blake2b
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.data.contract import Split
from ccvae_eval.data.splits import Splits
from ccvae_eval.errors import DataError
from ccvae_eval.model import Batch, LabelSchema
from ccvae_eval.types import Ids

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
