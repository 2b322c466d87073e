"""Grids: data sets with one image of every combination of their factors, which render by looking an image up."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import blake2b, file_digest, md5
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError, UsageError, listed, suggestion
from ccvae_eval.core.types import Bools, Floats, Ids, Images
from ccvae_eval.data.images.decode import PixelArray, as_images, resized
from ccvae_eval.data.interface import Split, quantize
from ccvae_eval.data.memory import checked_ids
from ccvae_eval.data.sets.folder import MAX_EDGE, existing_path, full_spec
from ccvae_eval.data.sets.grid.rows import Rows
from ccvae_eval.data.spec import Options
from ccvae_eval.data.splits import Splits, split_by_id
from ccvae_eval.model.interface import Batch, Label, LabelSchema

THRESHOLD = 8
"""A pixel belongs to the region if one of its channels changes by more than this, of 255."""
MAX_CACHED_REGIONS = 20_000
READ_AT_ONCE = 64
"""Images whose variants are held in memory at a time."""
DIGESTED_IMAGES = 64
MAX_IMAGES = 2**24
MAX_VALUES = 1024
"""Limit of the number of values of a factor."""
CONTINUOUS = ":continuous"


@dataclass(frozen=True, slots=True)
class Factor:
    """A factor of a grid.

    Args:
        name: its name.
        values: its values as numbers, ascending.
        classes: their names.
    """

    name: str
    values: tuple[float, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, name: str, values: Iterable[float], classes: Sequence[str] = ()) -> Self:
        """A factor whose values are named by ``classes``, or by themselves if there are not as many classes."""
        numbers = tuple(float(value) for value in values)
        if len(numbers) > MAX_VALUES:
            raise DataError(f"the factor {name!r} has {len(numbers)} values", why=f"the limit is {MAX_VALUES}")
        words = tuple(classes) if len(classes) == len(numbers) else tuple(f"{number:.6g}" for number in numbers)
        unique = words if len(set(words)) == len(words) else tuple(map(str, range(len(words))))
        return cls(name, numbers, unique)

    @classmethod
    def counted(cls, name: str, count: int, classes: Sequence[str] = ()) -> Self:
        """A factor with the values 0 to ``count - 1``."""
        return cls.of(name, range(count), classes)

    def label(self, continuous: bool) -> Label:
        return Label(self.name, "continuous") if continuous else Label(self.name, "categorical", self.classes)

    def nearest(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """The position of the nearest value to each number."""
        middles = [(low + high) / 2 for low, high in pairwise(self.values)]
        return np.searchsorted(np.array(middles), values).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Contents:
    """Factors and images of a grid, as read from files.

    Args:
        factors: the factors, the one that varies fastest last.
        rows: the images.
        order: position in ``rows`` of each combination of factors; None = in their order.
        splits: the split of each combination; None = 60/20/20 by a hash of its number.
        bits: True if pixels are 0 or 1.
        files: the files that were read.
        official: MD5 sums of the released files of this data set.
    """

    factors: tuple[Factor, ...]
    rows: Rows
    order: NDArray[np.int64] | None = None
    splits: Splits | None = None
    bits: bool = False
    files: tuple[Path, ...] = ()
    official: tuple[str, ...] = ()


class Grid(ABC):
    """Base class of data sets that hold one image of each combination of their factors.

    Ids enumerate the combinations, the last factor fastest. Every factor with more than one value becomes a categorical
    label. ``labels=A|B`` chooses labels, and the others are style; ``labels=A:continuous`` reads one as a number. The
    splits (60/20/20) follow from a hash of the id. ``size=N`` resizes the central square of each image.

    An image with other factors is another image of the data set, so rendering is exact. A continuous label is set to
    the nearest value that occurs. Nothing varies but the factors, so ``redraw`` gives the same image for every draw.
    The region of a label is the set of pixels that change by more than 8/255 in a channel when only this factor takes
    any of its other values.

    Args:
        contents: factors and images.
        spec: the text from which ``open_data`` opens the data set again.
        labels: the labels, each with ``:continuous`` or without; empty = all factors as categorical labels.
        size: edge of the images; 0 = as they are stored.

    Raises:
        DataError: the number of images differs from the number of combinations, or no factor varies.
        UsageError: an unknown or repeated label.
    """

    name: ClassVar[str]
    """Name of the data set in specs."""
    expected: ClassVar[str]
    """What its path is, for hints."""
    has_sizes: ClassVar[bool] = False
    """True if the option ``sizes=A|B|..`` gives the number of values of each factor, which the files do not."""
    region_source = "renderer"
    uncorrelated = True

    def __init__(self, contents: Contents, spec: str, labels: Sequence[str] = (), size: int = 0) -> None:
        self.contents, self.spec, self._size = contents, spec, size
        every, rows = contents.factors, contents.rows
        self.sizes = tuple(len(factor.values) for factor in every)
        if math.prod(self.sizes) != len(rows):
            wanted = " x ".join(f"{len(factor.values)} {factor.name}" for factor in every)
            raise DataError(
                f"there are {len(rows):,} images, the factors have {math.prod(self.sizes):,} combinations",
                where=rows.where,
                why=f"the factors are {wanted}",
            )
        self.varying = tuple(place for place, factor in enumerate(every) if len(factor.values) > 1)
        if not self.varying:
            raise DataError("no factor varies", where=rows.where)
        self.schema, self._places = _labels(labels, {every[place].name: place for place in self.varying}, every)
        self.style = tuple(place for place in self.varying if place not in self._places)
        self.factor_names = tuple(every[place].name for place in self.style)
        self._splits = split_by_id(len(rows)) if contents.splits is None else contents.splits
        height, width, channels = (*rows.shape, 1)[:3]
        self.input_shape = (channels, size or height, size or width)
        self._regions: dict[tuple[str, int], NDArray[np.uint8]] = {}

    @classmethod
    @abstractmethod
    def read(cls, place: Path, sizes: Sequence[int]) -> Contents:
        """The contents of the files at a path; ``sizes`` is the option of that name, if the data set has it."""

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        read = Options(cls.name, options)
        size, labels = read.integer("size", 0, low=0, high=MAX_EDGE), read.names("labels")
        sizes = _sizes(read.names("sizes"), cls.name) if cls.has_sizes else ()
        read.finish()
        contents = cls.read(existing_path(cls.name, path, cls.expected), sizes)
        return cls(contents, full_spec(cls.name, path, options), labels, size)

    @property
    def checksums(self) -> dict[str, str]:
        """For each file that was read "official file" or "not the official file"; empty if no checksum is known.

        Reads the files.
        """
        known, found = self.contents.official, {}
        for path in self.contents.files if known else ():
            with path.open("rb") as file:
                same = file_digest(file, partial(md5, usedforsecurity=False)).hexdigest() in known
            found[path.name] = "official file" if same else "not the official file"
        return found

    @cached_property
    def _content(self) -> str:
        """Digest of the factors, the size and 64 of the images."""
        content = blake2b(repr((self.input_shape, self.contents.factors)).encode("utf-8", "replace"), digest_size=16)
        content.update(self.pixels(np.linspace(0, len(self) - 1, DIGESTED_IMAGES).astype(np.int64)).tobytes())
        return content.hexdigest()

    @cached_property
    def digest(self) -> str:
        """Digest of the factors, the labels, the splits and 64 of the images."""
        head = (type(self).__name__, self._content, self.schema.as_plain())
        content = blake2b(repr(head).encode("utf-8", "replace"), digest_size=16)
        content.update(self._splits.codes.tobytes())
        return content.hexdigest()

    def __len__(self) -> int:
        return len(self.contents.rows)

    def levels(self, ids: Ids) -> NDArray[np.int64]:
        """The position of each factor's value among its values, shape (N, all factors)."""
        return np.stack(np.unravel_index(checked_ids(ids, len(self), self.spec), self.sizes), axis=1)

    def ids(self, levels: NDArray[np.int64]) -> Ids:
        """Inverse of :meth:`levels`."""
        return np.asarray(np.ravel_multi_index(tuple(levels.T), self.sizes), np.int64)

    def pixels(self, ids: Ids) -> PixelArray:
        """Some images as bytes, shape (N, H, W, C)."""
        order, rows = self.contents.order, self.contents.rows
        images = rows.read(ids if order is None else order[ids])
        images = images.reshape(len(images), *(*rows.shape, 1)[:3])
        if self.contents.bits:
            if images.max(initial=0) > 1:
                raise DataError("pixels must be 0 or 1", where=rows.where)
            images = images * np.uint8(255)
        if not self._size:
            return images
        channels, height, width = self.input_shape
        smaller = np.empty((len(images), height, width, channels), np.uint8)
        for target, image in zip(smaller, images, strict=True):
            target[:] = resized(image, self._size).reshape(target.shape)
        return smaller

    def images(self, ids: Ids) -> Images:
        """Some images in [0, 1], shape (N, C, H, W)."""
        pixels = self.pixels(ids)
        if pixels.shape[3] > 1:
            return as_images(pixels)
        # the strides of a permuted axis of one channel would select other kernels of convolutions
        return torch.from_numpy(pixels.reshape(len(pixels), *self.input_shape)).float() / 255

    def batch(self, ids: Ids) -> Batch:
        ids = checked_ids(ids, len(self), self.spec)
        return Batch(self.images(ids), torch.from_numpy(self.labels_of(ids)), ids)

    def labels_of(self, ids: Ids) -> NDArray[np.float32]:
        levels = self.levels(ids)
        columns = [self._label_values(label, place)[levels[:, place]] for label, place in self._labelled()]
        return np.stack(columns, axis=1).astype(np.float32)

    def _labelled(self) -> Iterable[tuple[Label, int]]:
        return zip(self.schema, self._places, strict=True)

    def _label_values(self, label: Label, place: int) -> Floats:
        """The label of each value of a factor: the value of a continuous label, else its position."""
        values = self.contents.factors[place].values
        return np.array(values if label.kind == "continuous" else range(len(values)), np.float64)

    def split(self, name: Split) -> Ids:
        return self._splits.ids(name)

    def factors(self, ids: Ids) -> Floats:
        """The factors that vary and are no label, shape (N, F), columns as in ``factor_names``.

        They are quantized numbers in [0, 1]: value i of k is (i + 1/2) / k.
        """
        levels = self.levels(ids)[:, list(self.style)]
        return quantize((levels + 0.5) / np.array([self.sizes[place] for place in self.style]))

    @property
    def renderer(self) -> str:
        _, height, width = self.input_shape
        return f"{self.name} {self._content}, {width} x {height} px"

    def render(self, factors: Floats, labels: NDArray[np.float32]) -> Images:
        self.schema.validate(torch.from_numpy(labels), self.spec)
        levels = np.zeros((len(factors), len(self.sizes)), np.int64)
        counts = np.array([self.sizes[place] for place in self.style])
        levels[:, list(self.style)] = np.floor(quantize(factors) * counts)
        for column, (label, place) in zip(labels.T, self._labelled(), strict=True):
            levels[:, place] = self._level(label, place, column)
        return self.images(self.ids(levels))

    def _level(self, label: Label, place: int, values: NDArray[np.float32]) -> NDArray[np.int64]:
        """The position of each value of a label among the values of its factor."""
        return self.contents.factors[place].nearest(values) if label.kind == "continuous" else values.astype(np.int64)

    def with_attribute(self, ids: Ids, label: str, value: NDArray[np.float32]) -> Images:
        return self.with_variety(ids, {label: value}, {})

    def redraw(self, ids: Ids, label: str, value: NDArray[np.float32], draw: int) -> Images:
        """The images with the label set to ``value``; every draw gives the same, since nothing else varies."""
        del draw
        return self.with_attribute(ids, label, value)

    def variety_names(self, label: str) -> tuple[str, ...]:
        """No parameter: an image has nothing but its factors."""
        self.schema.index(label)
        return ()

    def variety(self, ids: Ids, label: str) -> Floats:
        self.schema.index(label)
        return np.empty((len(ids), 0))

    def with_variety(
        self, ids: Ids, values: Mapping[str, NDArray[np.float32]], variety: Mapping[str, Floats]
    ) -> Images:
        """The images with other labels; NaN leaves one unchanged, a continuous one gets the nearest value."""
        for owner in variety:
            self.schema.index(owner)
        levels = self.levels(ids)
        for name, asked in values.items():
            label, place = self.schema[name], self._places[self.schema.index(name)]
            given = np.asarray(asked, np.float32)
            LabelSchema((label,)).validate(torch.from_numpy(given[:, None]), self.spec)
            known = ~np.isnan(given)
            levels[known, place] = self._level(label, place, given[known])
        return self.images(self.ids(levels))

    def region(self, ids: Ids, label: str) -> Bools:
        """Mask of a label, shape (N, H, W)."""
        place = self._places[self.schema.index(label)]
        ids = checked_ids(ids, len(self), self.spec)
        new = np.array([i for i in dict.fromkeys(ids.tolist()) if (label, i) not in self._regions], np.int64)
        for first in range(0, len(new), READ_AT_ONCE):
            some = new[first : first + READ_AT_ONCE]
            for index, region in zip(some.tolist(), self._changed(some, place), strict=True):
                self._regions[label, index] = np.packbits(region)
        packed = [self._regions[label, index] for index in ids.tolist()]
        for oldest in list(self._regions)[: max(0, len(self._regions) - MAX_CACHED_REGIONS)]:
            del self._regions[oldest]
        _, height, width = self.input_shape
        if not packed:
            return np.empty((0, height, width), np.bool_)
        pixels = np.unpackbits(np.stack(packed), axis=1, count=height * width)
        return pixels.reshape(-1, height, width).astype(np.bool_)

    def _changed(self, ids: Ids, place: int) -> Bools:
        """The pixels of each image that differ from those of any image in which one factor has another value."""
        own, levels = self.pixels(ids).astype(np.int16), self.levels(ids)
        change = np.zeros(own.shape[:3], np.int16)
        for level in range(self.sizes[place]):
            levels[:, place] = level
            np.maximum(change, np.abs(self.pixels(self.ids(levels)) - own).max(axis=3), out=change)
        return change > THRESHOLD


def _sizes(texts: Sequence[str], where: str) -> tuple[int, ...]:
    if not all(text.isascii() and text.isdigit() and 0 < int(text) <= MAX_VALUES for text in texts):
        wanted = f"numbers from 1 to {MAX_VALUES}, one for each factor"
        raise UsageError(f"sizes must be {wanted}, got {'|'.join(texts)!r}", where=where)
    return tuple(map(int, texts))


def _labels(
    asked: Sequence[str], known: Mapping[str, int], factors: Sequence[Factor]
) -> tuple[LabelSchema, tuple[int, ...]]:
    """The labels of a grid and the positions of their factors."""
    chosen = {}
    for text in asked or known:
        name = text.removesuffix(CONTINUOUS)
        if name not in known:
            raise UsageError(f"the data have no factor {name!r}", hint=suggestion(name, known))
        if name in chosen:
            raise UsageError(f"label {name!r} is given twice")
        chosen[name] = text.endswith(CONTINUOUS)
    places = tuple(known[name] for name in chosen)
    return LabelSchema(tuple(factors[known[name]].label(number) for name, number in chosen.items())), places


def counted_factors(
    known: Sequence[tuple[str, int]],
    sizes: Sequence[int],
    where: str,
    classes: Mapping[str, Sequence[str]] | None = None,
) -> tuple[Factor, ...]:
    """Factors with the values 0, 1 and so on.

    Args:
        known: name and number of values of each.
        sizes: other numbers of values, or empty.
        where: name of the data set for errors.
        classes: the names of the values of some factors.
    """
    if sizes and len(sizes) != len(known):
        names = ", ".join(name for name, _ in known)
        raise UsageError(f"sizes must be {len(known)} numbers, for {names}, got {len(sizes)}", where=where)
    counts = sizes or [count for _, count in known]
    if math.prod(counts) > MAX_IMAGES:
        raise UsageError(f"the factors have {math.prod(counts):,} combinations", why=f"the limit is {MAX_IMAGES:,}")
    pairs = zip((name for name, _ in known), counts, strict=True)
    return tuple(Factor.counted(name, count, (classes or {}).get(name, ())) for name, count in pairs)


def grid_of(
    table: NDArray[Any], names: Sequence[str], where: str, classes: Mapping[str, Sequence[str]] | None = None
) -> tuple[tuple[Factor, ...], NDArray[np.int64] | None]:
    """The factors in a table of labels, and the row of each combination of them.

    Args:
        table: one row for each image, shape (N, K).
        names: the factors' names.
        where: name of the table for errors.
        classes: the names of the values of some factors.

    Returns:
        The factors, with the values that occur; and the rows in the order of the combinations, the last factor
        fastest, or None if that is the order of the table.

    Raises:
        DataError: another number of columns, a value is missing, or a combination occurs never or several times.
    """
    if table.shape[1] != len(names):
        raise DataError(f"the labels have {table.shape[1]} columns, expected {', '.join(names)}", where=where)
    if not np.isfinite(table).all():
        raise DataError("the labels contain NaN or infinite values", where=where)
    values, levels = zip(*(np.unique(column, return_inverse=True) for column in table.T), strict=True)
    sizes = tuple(map(len, values))
    complete = np.prod([float(size) for size in sizes]) == len(table)
    index = np.ravel_multi_index(levels, sizes) if complete else np.empty(0, np.int64)
    if len(np.unique(index)) < len(table):
        raise DataError(
            "the images are not one for each combination of the factors",
            where=where,
            why=f"{len(table):,} images of factors with {listed(map(str, sizes))} values",
        )
    order = np.argsort(index)
    named = classes or {}
    factors = tuple(Factor.of(n, column, named.get(n, ())) for n, column in zip(names, values, strict=True))
    return factors, None if np.array_equal(order, np.arange(len(order))) else order


def file_at(place: Path, names: Sequence[str]) -> Path:
    """The file at a path, or the first of the named files in a folder."""
    if place.is_file():
        return place
    found = next((place / name for name in names if (place / name).is_file()), None)
    if found is None:
        what = "the folder contains none of the expected files"
        raise DataError(what, where=str(place), hint=f"Expected {', '.join(names)}.")
    return found
