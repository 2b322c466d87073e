"""Data sets of arrays, in memory or on disk: their common base, and data given as arrays or as a torch Dataset."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from hashlib import blake2b
from itertools import chain
from typing import Any, NoReturn, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.core.array_files import DiskArray, blocks_of
from ccvae_eval.core.errors import DataError, UsageError, suggestion
from ccvae_eval.core.types import Bools, Ids
from ccvae_eval.data.interface import DataSet, Split
from ccvae_eval.data.labels.columns import labels_from_array
from ccvae_eval.data.splits import Splits, split_by_column, split_by_name
from ccvae_eval.model.interface import Batch, LabelSchema, supports

CHANNELS = (1, 3)
SPEC = "arrays"
KEYS = ("images", "labels", "names", "split", "regions")
EXPECTED = f"Expected (images, labels, names), a mapping with the keys {', '.join(KEYS)}, or a torch Dataset."


class InMemory(ABC):
    """Base class of data sets whose images or points are an array; a subclass implements ``from_spec``.

    Args:
        images: uint8 or float32, shape :math:`(N, C, H, W)` or :math:`(N, D)`, see :func:`standard_layout`; large ones
            may stay on disk.
        schema: the labels.
        labels: their values, shape :math:`(N, L)`, NaN = missing.
        splits: the split of each image.
        spec: the text from which ``open_data`` opens the data set again.
    """

    def __init__(
        self,
        images: NDArray[Any] | DiskArray,
        schema: LabelSchema,
        labels: NDArray[np.float32],
        splits: Splits,
        spec: str,
    ) -> None:
        if len(images) != len(labels):
            raise DataError(f"{len(images)} images, but {len(labels)} rows of labels", where=spec)
        self.images, self.schema, self.spec = images, schema, spec
        self._labels, self._splits = labels, splits

    @classmethod
    @abstractmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self: ...

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.images.shape[1:])

    @cached_property
    def digest(self) -> str:
        content = blake2b(repr((self.images.shape, self.schema.as_plain())).encode(), digest_size=16)
        for array in chain(blocks_of(self.images), (self._labels, self._splits.codes)):
            content.update(np.ascontiguousarray(array).data)
        return content.hexdigest()

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, ids: Ids) -> Batch:
        ids = checked_ids(ids, len(self), self.spec)
        chosen = torch.from_numpy(self.images[ids])
        images = chosen.float() / 255 if chosen.dtype == torch.uint8 else chosen.float()
        return Batch(images, torch.from_numpy(self._labels[ids]), ids)

    def labels_of(self, ids: Ids) -> NDArray[np.float32]:
        return self._labels[checked_ids(ids, len(self), self.spec)]

    def split(self, name: Split) -> Ids:
        return self._splits.ids(name)


def checked_ids(ids: Ids, count: int, where: str) -> Ids:
    """Return the ids as int64; raise a ``DataError`` if one is not from 0 to ``count - 1``."""
    ids = np.asarray(ids, np.int64)
    outside = ids[(ids < 0) | (ids >= count)]
    if len(outside):
        raise DataError(f"image ids must be from 0 to {count - 1}, got {outside[0]}", where=where)
    return ids


def checked_arrays(
    images: NDArray[Any] | DiskArray,
    labels: NDArray[Any],
    names: Sequence[str] | LabelSchema | None,
    split: Sequence[str] | NDArray[np.str_] | None,
    where: str,
) -> tuple[NDArray[Any] | DiskArray, LabelSchema, NDArray[np.float32], Splits]:
    """Convert arrays with the arguments of :class:`Arrays` to the arguments of :class:`InMemory`."""
    schema, values = labels_from_array(labels, names, where)
    positions = map(str, range(len(values)))
    if split is not None and len(split) != len(values):
        raise DataError(f"{len(split)} splits, but {len(values)} images", where=where)
    splits = split_by_name(positions) if split is None else split_by_column(split, positions, where)
    return standard_layout(images, where), schema, values, splits


def standard_layout(images: NDArray[Any] | DiskArray, where: str) -> NDArray[Any] | DiskArray:
    """Convert images to (N, C, H, W) and points to (N, D), as uint8 or float32.

    Images have the shape (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels. If the position of the channels
    is ambiguous, it is last for uint8 and first for floats. Values are from 0 to 255 for uint8 and from 0 to 1 for
    floats; points may have any finite value.

    Raises:
        DataError: an unsupported shape or type, an empty array, or values out of range.
    """
    if images.dtype != np.uint8 and images.dtype.kind not in "bf":
        raise DataError(
            f"images have the unsupported type {images.dtype}",
            where=where,
            hint="Expected uint8 from 0 to 255, or floats from 0 to 1.",
        )
    if len(images.shape) not in (2, 3, 4) or 0 in images.shape:
        raise DataError(
            f"images have the unsupported shape {images.shape}",
            where=where,
            hint="Expected (N, C, H, W) or (N, H, W, C), or (N, D) for points.",
        )
    last, dtype = _channels_last(images, where), np.uint8 if images.dtype == np.uint8 else np.float32

    def converted(rows: NDArray[Any]) -> NDArray[Any]:
        shaped = rows[:, None] if rows.ndim == 3 else np.moveaxis(rows, 3, 1) if last else rows
        return np.ascontiguousarray(shaped, dtype)

    values = images.converted(converted) if isinstance(images, DiskArray) else converted(images)
    if dtype == np.uint8:
        return values
    low, high = (float(bound([bound(block) for block in blocks_of(values)])) for bound in (np.min, np.max))
    if not np.isfinite([low, high]).all():
        raise DataError("the images contain NaN or infinite values", where=where)
    if len(values.shape) == 4 and (low < 0 or high > 1):
        raise DataError(
            f"pixel values range from {low:g} to {high:g}",
            where=where,
            hint="Expected floats from 0 to 1, or uint8 from 0 to 255.",
        )
    return values


def _channels_last(images: NDArray[Any] | DiskArray, where: str) -> bool:
    if len(images.shape) < 4:
        return False
    first, last = images.shape[1] in CHANNELS, images.shape[3] in CHANNELS
    if not first and not last:
        raise DataError(
            f"images have the unsupported shape {images.shape}", where=where, hint="Expected 1 or 3 channels."
        )
    return last and (not first or images.dtype == np.uint8)


class Arrays(InMemory):
    """Images and labels given as arrays or tensors.

    Args:
        images: uint8 (N, H, W, C) or floats in [0, 1] (N, C, H, W), or another layout of :func:`standard_layout`.
        labels: shape :math:`(N,)` or :math:`(N, L)`; NaN = missing.
        names: names of the labels, or their schema.
        split: "train", "judge" or "test" for each image; if None, 60/20/20 by a hash of the position.
        regions: for some labels, masks of shape (N, H, W) that are nonzero where the label is shown.

    Raises:
        DataError: the arrays do not fit together; see :func:`standard_layout`.
    """

    def __init__(
        self,
        images: Any,
        labels: Any,
        names: Sequence[str] | LabelSchema | None = None,
        split: Sequence[str] | None = None,
        regions: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(*checked_arrays(_array(images), _array(labels), names, split, SPEC), SPEC)
        self.split_by_position = split is None
        if regions is not None and not isinstance(regions, Mapping):
            what = f"regions must map names of labels to masks, got {type(regions).__name__}"
            raise DataError(what, where=SPEC)
        if regions:  # the method is a capability (HasRegions), so it exists only if there are regions
            masks = {name: self._masks(name, _array(values)) for name, values in regions.items()}
            content = blake2b(repr(list(masks)).encode(), digest_size=4)
            for mask in masks.values():
                content.update(mask.data)
            self.region_source = f"masks in memory, {content.hexdigest()}"
            self.region = partial(_mask_of, masks)

    def _masks(self, name: str, values: NDArray[Any]) -> Bools:
        """The masks of one label, shape (N, H, W)."""
        if name not in self.schema:
            known = self.schema.names
            raise DataError(f"there is no label {name!r}", where="regions", hint=suggestion(name, known))
        if values.shape != (expected := (len(self), *self.input_shape[1:])):
            raise DataError(f"masks must have the shape {expected}, got {values.shape}", where=f"regions, {name}")
        return np.ascontiguousarray(values != 0)

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> NoReturn:
        del path, options
        raise UsageError("arrays cannot be opened from a spec", hint="Save them as an .npz and write npz:PATH.")


def _mask_of(masks: Mapping[str, Bools], ids: Ids, label: str) -> Bools | None:
    return masks[label][ids] if label in masks else None


def as_data_set(data: Any) -> DataSet:
    """Convert the data that ``evaluate`` accepts to a data set.

    Args:
        data: a data set; or ``(images, labels)``, ``(images, labels, names)`` or a mapping with the arguments of
            :class:`Arrays`; or a torch Dataset of (image, label), which is read into memory in order, with the names
            in its attribute ``label_names`` if it has one.

    Raises:
        DataError: the images or labels cannot be used.
        UsageError: another type, or a mapping with a missing or unknown key.
    """
    if supports(data, DataSet):
        return data
    if isinstance(data, Mapping):
        unknown = next((key for key in data if key not in KEYS), None)
        if unknown is not None:
            raise UsageError(f"data has the unknown key {str(unknown)!r}", hint=suggestion(str(unknown), KEYS))
        missing = next((key for key in ("images", "labels") if key not in data), None)
        if missing is not None:
            raise UsageError(f"data lacks the key {missing!r}", hint=EXPECTED)
        return Arrays(**data)
    if isinstance(data, tuple) and len(data) in (2, 3):
        return Arrays(*data)
    if isinstance(data, torch.utils.data.Dataset):
        return _read_torch_dataset(data)
    raise UsageError(f"data of type {type(data).__name__} is not supported", hint=EXPECTED)


def _read_torch_dataset(data: Any) -> Arrays:
    """Read a torch Dataset from its first to its last item."""
    images, labels = [], []
    for index in range(len(data)):
        try:
            image, label = data[index]
            images.append(_array(image))
            labels.append(_array(label))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"item {index} is not an (image, label) pair", where=type(data).__name__, why=str(error), hint=EXPECTED
            ) from None
    if not images:
        raise DataError("the torch Dataset is empty", where=type(data).__name__)
    names = getattr(data, "label_names", None)
    try:
        return Arrays(np.stack(images), np.stack(labels), names)
    except ValueError as error:
        raise DataError("the images or labels differ in shape", where=type(data).__name__, why=str(error)) from None


def _array(values: Any) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
