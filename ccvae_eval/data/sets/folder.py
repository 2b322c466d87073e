"""``folder``: image files in a folder or a zip, with a table of labels."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError
from ccvae_eval.core.types import Bools, Ids
from ccvae_eval.data.images.decode import PixelArray, decode, resized
from ccvae_eval.data.images.regions import FRAMES, Boxes, Regions, regions_in
from ccvae_eval.data.images.stores import FolderStore, Store, ZipStore, by_any_name
from ccvae_eval.data.interface import Split
from ccvae_eval.data.labels.columns import MOST_BYTES, Attributes, read_attributes
from ccvae_eval.data.memory import checked
from ccvae_eval.data.spec import Options, require_path
from ccvae_eval.data.splits import split_by_column, split_by_name
from ccvae_eval.model.interface import Batch, LabelSchema

TABLE = "attributes.csv"
LARGEST = 1024


class Folder:
    """``folder:PATH[,images=NAME][,attributes=NAME][,size=64][,labels=A|B][,channels=3][,regions=FOLDER]``.

    PATH is a folder or a zip. Images are PNG or JPEG files in it, in its folders, or in a zip in it (``images`` says
    which, where there are several; else the one with an image for every row); the table is ``attributes.csv`` in it
    or beside it, its first column the file name. Images are read when they are asked for. With ``size`` the middle
    square of each image is averaged down to it; without, all images must be as large as the first.

    ``regions`` says where labels live: a folder of masks (``LABEL/NAME.png``, white where the label lives; label
    maps of CelebAMask-HQ; or CelebAMask-HQ as it is released, where images have their numbers in CelebA-HQ as names),
    or for aligned faces the boxes of ``celeba`` or ``celebahq``; see :mod:`ccvae_eval.data.images.regions`.

    The split is the table's column ``split``, else by a hash of the file name. Rows without an image and images
    without a row are left out and counted.

    Args:
        store: the image files.
        attributes: the table; rows without an image in the store are left out.
        spec: what opens it again.
        size: edge of the images; None: as large as the first.
        channels: 3, or 1 for grey.
        regions: where labels live, if that is known (``FolderWithRegions``).

    Raises:
        DataError: no row has an image, or the first image cannot be read.
    """

    def __init__(
        self,
        store: Store,
        attributes: Attributes,
        spec: str,
        size: int | None = None,
        channels: int = 3,
        regions: Regions | None = None,
    ) -> None:
        known = by_any_name(store)
        kept = [row for row, name in enumerate(attributes.files) if name in known]
        if not kept:
            raise DataError(
                "no row of the table has an image here",
                where=store.where,
                why=f"{len(attributes.files)} rows, the first {attributes.files[0]!r}; {len(store.names)} images",
            )
        self._store, self._attributes = store, attributes.rows(kept)
        self.rows_without_image = len(attributes.files) - len(kept)
        self._files = [known[name] for name in self._attributes.files]
        self.images_without_row = len(set(store.names) - set(self._files))
        self._spec, self._size, self._channels, self.regions = spec, size, channels, regions
        names = self._attributes.files
        words = self._attributes.splits
        self._splits = split_by_name(names) if words is None else split_by_column(words, names, spec)
        height, width = (size, size) if size else self._decoded(0).shape[:2]
        self._shape = (channels, height, width)

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        read = Options("folder", options)
        size = read.integer("size", 0, low=0, high=LARGEST)
        channels = read.integer("channels", 3, choices=(1, 3))
        images, table = read.text("images"), read.text("attributes", TABLE)
        labels, regions = read.names("labels"), read.text("regions")
        read.finish()
        place = Path(require_path("folder", path, f"a folder or a zip of images with {TABLE}"))
        if not place.exists():
            raise DataError("there is no such folder or zip", where=str(place))
        store, attributes = _opened(place, images, table, labels)
        spec = ",".join([f"folder:{path}", *(f"{key}={value}" for key, value in sorted(options.items()))])
        if not regions:
            return cls(store, attributes, spec, size or None, channels)
        kind: Any = FolderWithRegions
        made: Self = kind(store, attributes, spec, size or None, channels, _regions(regions, place))
        return made

    @property
    def spec(self) -> str:
        return self._spec

    @property
    def schema(self) -> LabelSchema:
        return self._attributes.schema

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self._shape

    @cached_property
    def digest(self) -> str:
        """Of the bytes of the image files, the labels, the splits and the size."""
        content = blake2b(self._store.digest(), digest_size=16)
        content.update(repr((self._shape, self.schema.as_plain(), self._attributes.files)).encode("utf-8", "replace"))
        content.update(self._attributes.labels.tobytes() + self._splits.codes.tobytes())
        return content.hexdigest()

    def __len__(self) -> int:
        return len(self._files)

    def batch(self, ids: Ids) -> Batch:
        """Reads some images.

        Raises:
            DataError: names the file that is missing, damaged or of another size.
        """
        ids = checked(ids, len(self), self.spec)
        channels, height, width = self._shape
        images = np.empty((len(ids), height, width, channels), np.uint8)
        for row, index in enumerate(ids.tolist()):
            images[row] = self._pixels(index)
        first = torch.from_numpy(images).permute(0, 3, 1, 2)
        return Batch(first.contiguous().float() / 255, torch.from_numpy(self._attributes.labels[ids]), ids)

    def labels_of(self, ids: Ids) -> NDArray[np.float32]:
        return self._attributes.labels[checked(ids, len(self), self.spec)]

    def split(self, name: Split) -> Ids:
        return self._splits.ids(name)

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The image file of each id."""
        return tuple(self._files)

    def _decoded(self, index: int) -> PixelArray:
        name = self._files[index]
        return decode(self._store.read(name), f"{self._store.where}: {name}")

    def _pixels(self, index: int) -> PixelArray:
        pixels = self._decoded(index)
        if self._size:
            pixels = resized(pixels, self._size)
        channels, height, width = self._shape
        if pixels.shape[:2] != (height, width):
            raise DataError(
                f"the image is {pixels.shape[1]} x {pixels.shape[0]}, the first one {width} x {height}",
                where=f"{self._store.where}: {self._files[index]}",
                hint="Give the size that all shall have: folder:PATH,size=64.",
            )
        return pixels if channels == 3 else _grey(pixels)


class Located:
    """What makes a folder's data set one that knows where labels live; a mixin, in front of ``Folder`` or its kin."""

    @property
    def region_source(self) -> str:
        return str(_inside(self).regions.source)

    def region(self, ids: Ids, label: str) -> Bools | None:
        """Where a label lives in each image, shape (N, H, W); None if it has no region at all."""
        data = _inside(self)
        data.schema.index(label)
        _, height, width = data.input_shape
        every = data.files
        files = [every[index] for index in checked(ids, len(data), data.spec).tolist()]
        found = [data.regions.of(file, label, height, width) for file in files or [""]]
        known = [region for region in found if region is not None]
        if len(known) < len(found):
            return None
        return np.stack(known) if files else np.empty((0, height, width), np.bool_)


def _inside(data: object) -> Any:
    assert isinstance(data, Folder)
    return data


class FolderWithRegions(Located, Folder):
    """A folder whose option ``regions`` was given."""


def _regions(choice: str, place: Path) -> Regions:
    """The regions that the option names: boxes of a frame, or a folder, beside the data or anywhere."""
    if choice in FRAMES:
        frame = FRAMES[choice]
        return Boxes(frame, frame.middle())
    inside = place / choice
    return regions_in(inside if place.is_dir() and inside.is_dir() else Path(choice))


def _grey(pixels: PixelArray) -> PixelArray:
    """The luma of Rec. 601, as OpenCV and Pillow weigh it, shape (H, W, 1)."""
    weighed = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.asarray(np.rint(weighed), np.uint8)[..., None]


def _opened(place: Path, images: str, table: str, labels: tuple[str, ...]) -> tuple[Store, Attributes]:
    """The images and the table of a path, wherever in it or beside it they lie."""
    if place.is_dir():
        attributes = _read_table(place / table, labels)
        return _store_in(place, images, attributes), attributes
    store = ZipStore(place)
    if table in store:
        return store, read_attributes(store.read(table, MOST_BYTES), f"{place}: {table}", labels)
    return store, _read_table(place.parent / table, labels)


def _read_table(path: Path, labels: tuple[str, ...]) -> Attributes:
    try:
        if path.is_file() and path.stat().st_size <= MOST_BYTES:
            return read_attributes(path.read_bytes(), str(path), labels)
    except OSError as error:
        raise DataError("unreadable", where=str(path), why=error.strerror or str(error)) from None
    raise DataError(
        "there is no table of labels",
        where=str(path),
        hint="A CSV file: first column the file name, then one column for each label; or attributes=NAME.csv.",
    )


def _store_in(folder: Path, images: str, attributes: Attributes) -> Store:
    """The images of a folder: those that are asked for, else the files in it, else the one zip in it.

    Of several zips it is the one that holds an image for every row of the table.
    """
    if images:
        place = folder / images
        if not place.exists():
            raise DataError("there is no such folder or zip of images", where=str(place))
        return FolderStore(place) if place.is_dir() else ZipStore(place)
    store = FolderStore(folder)
    if store.names:
        return store
    zips = sorted(path.name for path in folder.glob("*.zip"))
    if len(zips) == 1:
        return ZipStore(folder / zips[0])
    if not zips:
        raise DataError("there are no images", where=str(folder), hint="PNG or JPEG files, in folders or in a zip.")
    rows = set(attributes.files)
    whole = [store for store in (ZipStore(folder / name) for name in zips) if by_any_name(store).keys() >= rows]
    if len(whole) == 1:
        return whole[0]
    raise DataError(
        f"there are {len(zips)} zips of images",
        where=str(folder),
        hint=f"Say which: folder:{folder},images={zips[0]} (or {', '.join(zips[1:])}).",
    )
