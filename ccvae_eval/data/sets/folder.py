"""``folder``: image files in a folder or a zip, with labels in a table, in their folders or in their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError, UsageError
from ccvae_eval.core.files import read_regular_file, similar_path
from ccvae_eval.core.types import Bools, Ids
from ccvae_eval.data.images.decode import PixelArray, as_images, central_square, decode, resized, squeezed
from ccvae_eval.data.images.regions import FRAMES, Boxes, Frame, Regions, regions_in
from ccvae_eval.data.images.stores import FolderStore, Store, ZipStore, files_by_name
from ccvae_eval.data.interface import Split
from ccvae_eval.data.labels.columns import MAX_TABLE_BYTES, Attributes, read_attributes
from ccvae_eval.data.labels.file_names import labels_from_folders, labels_from_names
from ccvae_eval.data.memory import checked_ids
from ccvae_eval.data.spec import TABLE, Options, require_path
from ccvae_eval.data.splits import split_by_column, split_by_name
from ccvae_eval.model.interface import Batch, Label

MAX_EDGE = 1024
SQUARE, WHOLE = "square", "whole"
BINARY_WORDS = ({"0", "1"}, {"-1", "1"}, {"true", "false"}, {"yes", "no"})
"""Pairs of cells that make a binary label; further words beside them may be meant as missing."""


def crop_option(read: Options, name: str, default: str) -> str:
    """The option ``crop``: the largest central square, the whole image, or the edge of a central square."""
    crop = read.text("crop", default)
    if crop not in (default, SQUARE, WHOLE) and not (crop.isdigit() and int(crop) > 0):
        raise UsageError(f"crop must be {SQUARE}, {WHOLE} or a number of pixels, got {crop!r}", where=name)
    return crop


class Folder:
    """``folder:PATH[,size=64] [,crop=148] [,pad=0] [,labels=A|B] [,channels=3] [,regions=FOLDER] [,...]``.

    PATH is a folder or a zip. The images are PNG or JPEG files in it, in its subfolders or in a zip in it. Of
    several zips the one with an image for every row is read; ``images`` names another zip or folder. The table is
    ``attributes.csv`` in the folder or zip, or beside the zip; its first column holds the file names. Images are read
    on demand. ``images=NAME`` and ``attributes=NAME`` name other files. With ``size``, the central square of each image
    is resized; without, all images must have the size of the first.

    Without a table the label ``class`` is the folder of an image, as in ``CLASS/NAME.png`` or ``train/CLASS/NAME.png``.
    ``names=age_gender_race_*`` reads the labels in the names of the files instead; see
    :mod:`ccvae_eval.data.labels.file_names`.

    ``pad=N`` first adds N black pixels at each side. ``crop`` selects the part that is resized: ``square``, the largest
    central square; a number N, the central N x N; ``whole``, the whole image, squeezed to a square.
    ``on_error=skip`` reads every image once when the data set is opened and leaves out those that cannot be read or
    have another size; ``inspect`` counts and names them.

    ``regions`` is a folder of masks (``LABEL/NAME.png``, nonzero inside the region; label maps of CelebAMask-HQ; or
    the released CelebAMask-HQ, for images named by their numbers in CelebA-HQ), or ``celeba`` or ``celebahq`` for the
    boxes of aligned faces; see :mod:`ccvae_eval.data.images.regions`.

    The table's column ``split`` gives the splits; without it they follow from a hash of the file name. Rows without an
    image and images without a row are left out and counted.

    Args:
        store: the image files.
        attributes: the table.
        spec: the text from which ``open_data`` opens the data set again.
        size: edge of the images; None = the size of the first image.
        channels: 3 for RGB or 1 for grey.
        regions: source of the regions (only for ``FolderWithRegions``).
        crop: "square", "whole", a number of pixels, or "" for the central square if there is a size.
        pad: black pixels to add at each side first.
        skip: True to leave out images that cannot be read.

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
        crop: str = "",
        pad: int = 0,
        skip: bool = False,
    ) -> None:
        known = files_by_name(store)
        kept = [row for row, name in enumerate(attributes.files) if name in known]
        if not kept:
            raise _no_match(attributes, store)
        self._store, self._attributes = store, attributes.rows(kept)
        self.rows_without_image = len(attributes.files) - len(kept)
        self.files = [known[name] for name in self._attributes.files]
        self.images_without_row = len(set(store.names) - set(self.files))
        self.spec, self.schema, self.regions, self._size = spec, attributes.schema, regions, size
        self._crop, self._pad, self.unreadable = crop, pad, tuple[str, ...]()
        if size is None and crop.isdigit():
            self._size = int(crop)
        if skip:
            self._leave_out_unreadable(channels)
        names = self._attributes.files
        words = self._attributes.splits
        self._splits = split_by_name(names) if words is None else split_by_column(words, names, spec)
        if not skip:
            self.input_shape = self._shape(channels)

    input_shape: tuple[int, ...]

    def _shape(self, channels: int, index: int = 0) -> tuple[int, ...]:
        """The shape of the images, that of one image if no size is given."""
        height, width = (self._size, self._size) if self._size else self._decoded(index).shape[:2]
        return channels, height, width

    def _leave_out_unreadable(self, channels: int) -> None:
        """Reads every image and keeps those that can be read."""
        kept: list[int] = []
        for index in range(len(self.files)):
            try:
                if not kept:
                    self.input_shape = self._shape(channels, index)
                self._pixels(index)
            except DataError:
                self.unreadable += (self.files[index],)
            else:
                kept.append(index)
        if not kept:
            raise DataError("no image can be read", where=self._store.where, why=f"tried {len(self.files)} files")
        self._attributes, self.files = self._attributes.rows(kept), [self.files[index] for index in kept]

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        read = Options("folder", options)
        size = read.integer("size", 0, low=0, high=MAX_EDGE)
        channels = read.integer("channels", 3, choices=(1, 3))
        images, table = read.text("images"), read.text("attributes", TABLE)
        labels, regions, names = read.names("labels"), read.text("regions"), read.text("names")
        crop, pad = crop_option(read, "folder", ""), read.integer("pad", 0, low=0, high=MAX_EDGE)
        skip = read.text("on_error", "stop", ("stop", "skip")) == "skip"
        read.finish()
        if crop in (SQUARE, WHOLE) and not size:
            raise UsageError(f"crop={crop} needs size=N, the edge to which the images are resized", where="folder")
        if regions and regions not in FRAMES and (crop or pad):
            raise UsageError("crop and pad do not apply to masks", where="folder", hint=f"regions={'|'.join(FRAMES)}")
        place = existing_path("folder", path, f"a folder or a zip of images with {TABLE}")
        store, attributes = _opened(place, images, table, names, labels)
        kind: Any = FolderWithRegions if regions else cls
        found = _regions(regions, place) if regions else None
        if isinstance(found, Boxes) and (crop or pad):
            found = None  # needs the size of the images
        spec = full_spec("folder", path, options)
        made: Self = kind(store, attributes, spec, size or None, channels, found, crop, pad, skip)
        if regions and found is None:
            made.regions = made._boxes(FRAMES[regions])
        return made

    def _boxes(self, frame: Frame) -> Boxes:
        """The boxes of a frame in cropped or padded images, whose originals show the whole frame or its square."""
        height, width = (edge - 2 * self._pad for edge in self._decoded(0).shape[:2])
        scale = min(frame.width, frame.height) / min(height, width)
        if self._crop == WHOLE:
            x, y = (edge / 2 + self._pad * scale for edge in (width * scale, height * scale))
            left, top = frame.width / 2, frame.height / 2
            return Boxes(frame, (left - x, left + x, top - y, top + y))
        edge = int(self._crop) if self._crop.isdigit() else min(height, width) + 2 * self._pad
        return Boxes(frame, frame.middle(edge * scale))

    @cached_property
    def digest(self) -> str:
        """Digest of the image files, the labels, the splits and the size."""
        content = blake2b(self._store.digest(), digest_size=16)
        view = (self._crop, self._pad) if self._crop or self._pad else ()
        head = repr((self.input_shape, self.schema.as_plain(), self._attributes.files, *view))
        content.update(head.encode("utf-8", "replace"))
        content.update(self._attributes.labels.tobytes() + self._splits.codes.tobytes())
        return content.hexdigest()

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, ids: Ids) -> Batch:
        """Read some images.

        Raises:
            DataError: a file is missing, damaged or of another size; the message names it.
        """
        ids = checked_ids(ids, len(self), self.spec)
        channels, height, width = self.input_shape
        images = np.empty((len(ids), height, width, channels), np.uint8)
        for row, index in enumerate(ids.tolist()):
            images[row] = self._pixels(index)
        return Batch(as_images(images), torch.from_numpy(self._attributes.labels[ids]), ids)

    def labels_of(self, ids: Ids) -> NDArray[np.float32]:
        return self._attributes.labels[checked_ids(ids, len(self), self.spec)]

    def split(self, name: Split) -> Ids:
        return self._splits.ids(name)

    def remarks(self, labels: Collection[str] | None = None) -> list[str]:
        """Sentences about files that were left out and about labels that may have been read in an unintended way.

        Args:
            labels: the labels in use; default: all.
        """
        left_out = {
            "rows of the table without an image": self.rows_without_image,
            "images without a row": self.images_without_row,
            "unreadable images": len(self.unreadable),
        }
        counts = [f"{what} ({count:,})" for what, count in left_out.items() if count]
        found = [f"Left out: {', '.join(counts)}."] if counts else []
        for place, label in enumerate(self.schema):
            if labels is None or label.name in labels:
                found += _label_remarks(label, self._attributes.labels[:, place])
        return found

    def _decoded(self, index: int) -> PixelArray:
        name = self.files[index]
        pixels = decode(self._store.read(name), f"{self._store.where}: {name}")
        return np.pad(pixels, ((self._pad, self._pad), (self._pad, self._pad), (0, 0))) if self._pad else pixels

    def _pixels(self, index: int) -> PixelArray:
        pixels = self._decoded(index)
        if self._crop == WHOLE and self._size:
            return self._colored(squeezed(pixels, self._size))
        if self._crop.isdigit():
            pixels = self._cropped(pixels, index)
        if self._size:
            pixels = resized(pixels, self._size)
        _, height, width = self.input_shape
        if pixels.shape[:2] != (height, width):
            raise DataError(
                f"the image has {pixels.shape[1]} x {pixels.shape[0]} pixels, the first image {width} x {height}",
                where=f"{self._store.where}: {self.files[index]}",
                hint="All images must have the same size. To crop and resize them, write folder:PATH,size=64.",
            )
        return self._colored(pixels)

    def _colored(self, pixels: PixelArray) -> PixelArray:
        return pixels if self.input_shape[0] == 3 else _grey(pixels)

    def _cropped(self, pixels: PixelArray, index: int) -> PixelArray:
        height, width = pixels.shape[:2]
        if int(self._crop) > min(height, width):
            raise DataError(
                f"crop={self._crop} exceeds the image of {width} x {height} pixels",
                where=f"{self._store.where}: {self.files[index]}",
                hint="Choose a smaller crop.",
            )
        return central_square(pixels, int(self._crop))


class FolderWithRegions(Folder):
    """A folder with regions, from the option ``regions``."""

    regions: Regions

    @property
    def region_source(self) -> str:
        return self.regions.source

    def remarks(self, labels: Collection[str] | None = None) -> list[str]:
        names = [name for name in self.schema.names if labels is None or name in labels]
        lacking = {name: self.regions.lacking(self.files, name) for name in names}
        counts = [f"{name} {len(self) - count:,}" for name, count in lacking.items() if count]
        found = [f"Of {len(self):,} images only these have a mask, and the others no region: {', '.join(counts)}."]
        return super().remarks(labels) + found * bool(counts)

    def region(self, ids: Ids, label: str) -> Bools | None:
        """Mask of a label in each image, shape (N, H, W); None for a label without a region."""
        self.schema.index(label)
        _, height, width = self.input_shape
        files = [self.files[index] for index in checked_ids(ids, len(self), self.spec).tolist()]
        found = [self.regions.of(file, label, height, width) for file in files or [""]]
        known = [region for region in found if region is not None]
        if len(known) < len(found):
            return None
        return np.stack(known) if files else np.empty((0, height, width), np.bool_)


def _label_remarks(label: Label, column: NDArray[np.float32]) -> list[str]:
    """Remarks on a label that never varies, and on one whose classes are those of a binary label and others."""
    seen = np.unique(column[~np.isnan(column)])
    if len(seen) == 1:
        value = f"{seen[0]:g}" if label.kind == "continuous" else label.class_name(int(seen[0]))
        return [f"{label.name} has one value, {value}, in all images, so its values are undefined."]
    words = {name.lower() for name in label.classes}
    numbered = words == {str(number) for number in range(len(words))}
    if not numbered and any(pair < words for pair in BINARY_WORDS):
        classes = ", ".join(label.classes)
        return [
            f"{label.name} is read as a label of {len(words)} classes: {classes}. A missing label is an empty cell."
        ]
    return []


def existing_path(name: str, path: str | None, what: str) -> Path:
    """The path of a spec; raises if it is missing or does not exist. ``what`` describes it in the hint."""
    place = Path(require_path(name, path, what))
    if not place.exists():
        relative = "" if place.is_absolute() else f"Relative paths start at {Path.cwd()}."
        hint = " ".join(filter(None, (similar_path(place), relative))) or f"Expected: {what}."
        raise DataError("the path does not exist", where=str(place), hint=hint)
    return place


def full_spec(name: str, path: str | None, options: Mapping[str, str]) -> str:
    """A spec with all its options, sorted by name."""
    return ",".join([f"{name}:{path}", *(f"{key}={value}" for key, value in sorted(options.items()))])


def _regions(choice: str, place: Path) -> Regions:
    """The boxes of the named frame, or the masks of a folder, which may lie in the data folder or elsewhere."""
    if choice in FRAMES:
        frame = FRAMES[choice]
        return Boxes(frame, frame.middle())
    inside = place / choice
    return regions_in(inside if place.is_dir() and inside.is_dir() else Path(choice))


def _grey(pixels: PixelArray) -> PixelArray:
    """Luma of Rec. 601, as in OpenCV and Pillow, shape (H, W, 1)."""
    weighed = pixels.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return np.asarray(np.rint(weighed), np.uint8)[..., None]


def _opened(place: Path, images: str, table: str, names: str, labels: tuple[str, ...]) -> tuple[Store, Attributes]:
    """The images of a folder or zip, and their labels: from the table, or from the names of the files."""
    if names:
        store = _store_in(place, images, ()) if place.is_dir() else ZipStore(place)
        return store, labels_from_names(store.names, names, store.where, labels)
    if place.is_dir():
        path = place / table
    elif table in (store := ZipStore(place)):
        return store, read_attributes(store.read(table, MAX_TABLE_BYTES), f"{place}: {table}", labels)
    else:
        path = place.parent / table
    if table == TABLE and not path.exists() and (found := _in_class_folders(place, images, labels)):
        return found
    attributes = _read_table(path, labels)
    return (_store_in(place, images, attributes.files) if place.is_dir() else store), attributes


def _in_class_folders(place: Path, images: str, labels: tuple[str, ...]) -> tuple[Store, Attributes] | None:
    """Images in a folder for each class; None if they are not, or if a table of another name may be meant."""
    if place.is_dir() and any(place.glob("*.csv")):
        return None
    try:
        store = _store_in(place, images, ()) if place.is_dir() else ZipStore(place)
    except DataError:
        return None
    attributes = labels_from_folders(store.names, store.where, labels)
    return None if attributes is None else (store, attributes)


def _read_table(path: Path, labels: tuple[str, ...]) -> Attributes:
    try:
        if path.exists():
            return read_attributes(read_regular_file(path, MAX_TABLE_BYTES, DataError), str(path), labels)
    except OSError as error:
        raise DataError("the file cannot be read", where=str(path), why=error.strerror or str(error)) from None
    others = sorted(other.name for other in path.parent.glob("*.csv"))
    raise DataError(
        "the table of labels does not exist",
        where=str(path),
        why=f"the folder {_content(path.parent)}",
        hint=f"If it is {others[0]!r}, write attributes={others[0]}."
        if others
        else "Expected a CSV file with a first line such as file,Smiling,Male and one row for each image, or images in "
        "a folder for each class.",
    )


def _content(folder: Path) -> str:
    """The kinds of files in a folder, in words: "contains 3 .txt, 1 .csv"."""
    counts = Counter(path.suffix.lower() or "without suffix" for path in folder.iterdir()).most_common(4)
    return f"contains {', '.join(f'{n} {suffix}' for suffix, n in counts)}" if counts else "is empty"


def _no_match(attributes: Attributes, store: Store) -> DataError:
    """The error for a table of which no row names an image."""
    if not store.names:
        return DataError("it contains no PNG or JPEG images", where=store.where)
    row, image = attributes.files[0], store.names[0]
    return DataError(
        "no row of the table matches an image",
        where=store.where,
        why=f"the first of {len(attributes.files)} rows is {row!r}, the first of {len(store.names)} images {image!r}",
        hint=f"The first column must hold the names of the image files, such as {image!r}.",
    )


def _store_in(folder: Path, images: str, files: Collection[str]) -> Store:
    """The folder or zip ``images`` if given, else the image files in the folder, else the zip in it.

    Of several zips, take the one with each of the named files.
    """
    if images:
        place = folder / images
        if not place.exists():
            raise DataError(
                "the folder or zip of images does not exist",
                where=str(place),
                hint=f"The option images={images} is a path inside the data folder.",
            )
        return FolderStore(place) if place.is_dir() else ZipStore(place)
    store = FolderStore(folder)
    if store.names:
        return store
    zips = sorted(path.name for path in folder.glob("*.zip"))
    if len(zips) == 1:
        return ZipStore(folder / zips[0])
    if not zips:
        raise DataError(
            "the folder contains no images",
            where=str(folder),
            why=f"it {_content(folder)}",
            hint="Expected PNG or JPEG files in the folder, in its subfolders or in a zip.",
        )
    rows = set(files)
    complete = [store for store in (ZipStore(folder / name) for name in zips) if files_by_name(store).keys() >= rows]
    if len(complete) == 1:
        return complete[0]
    raise DataError(
        f"the folder contains {len(zips)} zips of images",
        where=str(folder),
        hint=f"Choose one: folder:{folder},images={zips[0]} (or {', '.join(zips[1:])}).",
    )
