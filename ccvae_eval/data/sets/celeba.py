"""``celeba``: CelebA in its official layout, as distributed by its authors and by torchvision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self
from warnings import catch_warnings, simplefilter

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError, UsageError, suggestion
from ccvae_eval.core.files import read_regular_file
from ccvae_eval.data.images.regions import FRAMES, Boxes, Regions
from ccvae_eval.data.images.stores import FolderStore, Store, ZipStore
from ccvae_eval.data.labels.columns import Attributes, column_from_numbers, schema_of
from ccvae_eval.data.sets.folder import (
    MAX_EDGE,
    SQUARE,
    WHOLE,
    Folder,
    FolderWithRegions,
    crop_option,
    existing_path,
    full_spec,
)
from ccvae_eval.data.spec import Options

IMAGES, ATTRIBUTES, PARTITION = "img_align_celeba", "list_attr_celeba", "list_eval_partition"
SUBFOLDERS = ("", "Img", "Anno", "Eval", "celeba")
"""Folders below the path that may contain the images and tables."""
TABLE_SUFFIXES = (".txt", ".csv")
DIGESTED_IMAGES = 16
MAX_TABLE_BYTES, MAX_LINES = 64 << 20, 1_000_000
LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""Characters at which ``str.splitlines`` splits."""


class CelebA(Folder):
    """``celeba:PATH[,size=64] [,crop=square] [,labels=A|B] [,regions=boxes]``: 202,599 aligned faces (Liu et al. 2015).

    PATH contains ``img_align_celeba`` (a folder or a zip), ``list_attr_celeba.txt`` and ``list_eval_partition.txt``,
    side by side or in ``Img``, ``Anno`` and ``Eval``; the tables may also be ``.csv``, and the images may lie in
    ``img_align_celeba/img_align_celeba``, as in the archive of Kaggle. The official partition gives
    the splits: train, judge (its validation part) and test. Images are read on demand. Rows without an image and
    images without a row are left out and counted.

    ``crop`` selects the part of an image that is resized to ``size``: ``square``, the central 178 x 178; a number N,
    the central N x N (148 and 128 are usual); ``whole``, all of 178 x 218, squeezed to a square as by Joy et al.
    (2021).

    The regions of local attributes are boxes in the aligned frame; ``regions=none`` disables them. See
    :mod:`ccvae_eval.data.images.regions`.

    The digest covers the tables, the names and sizes of all image files, and the contents of 16 of them, because
    reading all 1.4 GB would take minutes.
    """

    def __init__(
        self, store: Store, attributes: Attributes, spec: str, size: int, crop: str, regions: Regions | None = None
    ) -> None:
        super().__init__(store, attributes, spec, size, regions=regions, crop=crop)

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        read = Options("celeba", options)
        size = read.integer("size", 64, low=1, high=MAX_EDGE)
        crop = crop_option(read, "celeba", SQUARE)
        labels, regions = read.names("labels"), read.text("regions", "boxes", ("boxes", "none"))
        read.finish()
        place = existing_path("celeba", path, f"the folder with {IMAGES} and {ATTRIBUTES}.txt")
        attributes, store = _attributes(place, labels), _images(place)
        frame = FRAMES["celeba"]
        view = frame.whole if crop == WHOLE else frame.middle(None if crop == SQUARE else int(crop))
        kind: Any = cls if regions == "none" else CelebAWithRegions
        found = None if regions == "none" else Boxes(frame, view)
        made: Self = kind(store, attributes, full_spec("celeba", path, options), size, crop, found)
        return made

    @cached_property
    def digest(self) -> str:
        content = blake2b(repr((self.input_shape, self._crop, self.schema.as_plain())).encode(), digest_size=16)
        content.update(self._attributes.labels.tobytes() + self._splits.codes.tobytes())
        for name in self.files:
            content.update(f"{name}/{self._store.size(name)}\n".encode("utf-8", "surrogateescape"))
        for index in np.linspace(0, len(self) - 1, DIGESTED_IMAGES).astype(int):
            content.update(self._store.read(self.files[index]))
        return content.hexdigest()


class CelebAWithRegions(FolderWithRegions, CelebA):
    """CelebA with the boxes of its local attributes."""


def _images(place: Path) -> Store:
    for inner in SUBFOLDERS:
        folder = place / inner / IMAGES
        if folder.is_dir():
            nested = folder / IMAGES  # in the archive of Kaggle
            return FolderStore(nested if nested.is_dir() else folder)
        if folder.with_suffix(".zip").is_file():
            return ZipStore(folder.with_suffix(".zip"))
    raise DataError(
        "the images of CelebA are missing", where=str(place), hint=f"Expected a folder {IMAGES} or {IMAGES}.zip."
    )


@dataclass(frozen=True, slots=True)
class CelebATable:
    """A table: names of its columns (none without a header), image file of each row, cells of shape (rows, columns)."""

    names: tuple[str, ...]
    files: tuple[str, ...]
    numbers: NDArray[np.float32]


def _table(place: Path, name: str) -> CelebATable | None:
    paths = (place / inner / (name + suffix) for inner in SUBFOLDERS for suffix in TABLE_SUFFIXES)
    return next((_read(path) for path in paths if path.exists()), None)


def _read(path: Path) -> CelebATable:
    """Read a table. The text form of the attributes starts with a count and a line of names; the partition does not."""
    try:
        text = read_regular_file(path, MAX_TABLE_BYTES, DataError).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("the file cannot be read", where=str(path), why=str(error)) from None
    if sum(map(text.count, LINE_ENDS)) > MAX_LINES:
        raise DataError("the file is not a table of CelebA", where=str(path), why=f"more than {MAX_LINES:,} lines")
    lines = [line for line in (text.replace(",", " ") if path.suffix == ".csv" else text).splitlines() if line.strip()]
    if lines and lines[0].strip().isdigit():
        lines = lines[1:]
    head = lines.pop(0).split() if lines and "." not in lines[0].split()[0] else []
    names = head[1:] if path.suffix == ".csv" else head
    rows = [line.split(None, 1) for line in lines]
    width = len(names) or 1
    if not rows or any(len(row) < 2 for row in rows):
        raise DataError("the file is not a table of CelebA", where=str(path), why="a row contains no numbers")
    with catch_warnings():
        simplefilter("error", DeprecationWarning)
        try:
            # parsing row by row takes twenty seconds for the whole table
            numbers = np.fromstring(" ".join(row[1] for row in rows), np.float32, sep=" ")
        except (ValueError, DeprecationWarning):
            raise DataError(
                "the file is not a table of CelebA", where=str(path), why="a cell is not a number"
            ) from None
    if len(numbers) != len(rows) * width:
        odd = next((row for row in rows if len(row[1].split()) != width), rows[0])
        found = len(odd[1].split())
        raise DataError(f"the row must have {width} numbers, got {found}", where=f"{path}: {odd[0]}")
    return CelebATable(tuple(names), tuple(row[0] for row in rows), numbers.reshape(len(rows), width))


def _attributes(place: Path, chosen: Sequence[str]) -> Attributes:
    where, table, parts = str(place), _table(place, ATTRIBUTES), _table(place, PARTITION)
    if table is None:
        raise DataError("the table of attributes is missing", where=where, hint=f"Expected {ATTRIBUTES}.txt.")
    for name in chosen:
        if name not in table.names:
            raise UsageError(f"CelebA has no label {name!r}", where=where, hint=suggestion(name, table.names))
    selected = list(chosen) or table.names
    columns = [column_from_numbers(name, table.numbers[:, table.names.index(name)]) for name in selected]
    schema, labels = schema_of(columns, len(table.files), where)
    splits = None
    if parts is not None:
        part_of = dict(zip(parts.files, parts.numbers[:, 0], strict=True))
        missing = next((file for file in table.files if file not in part_of), None)
        if missing is not None:
            raise DataError(f"the partition lacks the image {missing!r}", where=f"{where}: {PARTITION}")
        splits = tuple(f"{part_of[file]:g}" for file in table.files)
    return Attributes(table.files, schema, labels, splits)
