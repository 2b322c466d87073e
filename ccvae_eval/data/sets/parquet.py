"""``parquet``: images and labels in parquet files, as Hugging Face distributes data sets.

Reading needs pyarrow, which the extra ``parquet`` installs.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b, file_digest
from pathlib import Path
from typing import Any, Self

import numpy as np

from ccvae_eval.core.errors import DataError, UsageError, listed, optional_module, suggestion
from ccvae_eval.core.files import open_regular_file
from ccvae_eval.data.images.decode import MAX_IMAGE_BYTES
from ccvae_eval.data.labels.columns import (
    Attributes,
    LabelColumn,
    column_from_numbers,
    column_from_text,
    schema_of,
)
from ccvae_eval.data.sets.codes import numbers_or_text
from ccvae_eval.data.sets.folder import (
    MAX_EDGE,
    SQUARE,
    WHOLE,
    Folder,
    crop_option,
    existing_path,
    full_spec,
)
from ccvae_eval.data.spec import Options
from ccvae_eval.data.splits import SPLIT_ALIASES
from ccvae_eval.model.interface import Label

SUFFIX = ".parquet"
MAX_ROWS = 10_000_000
MAX_GROUP_BYTES = 2**29
"""Limit of the images of one row group, and of a column of labels, which are decoded together."""
CACHED_BYTES = 2**28
"""Images of the latest row groups that are kept in memory, as files."""
SHARD = re.compile(r"([A-Za-z]+)(-\d+-of-\d+)?$")


class Parquet(Folder):
    """``parquet:PATH[,size=64] [,crop=148] [,labels=A|B] [,channels=3] [,image=NAME]``: files of Hugging Face.

    PATH is a parquet file or a folder with some, such as ``data/train-00000-of-00002.parquet``. The images are PNG or
    JPEG files in a column of bytes or of {bytes, path}: ``image=NAME``, by default the first one. Every further column
    of numbers, text or truth values is a label; a ClassLabel of Hugging Face has its class names, and -1 is missing.
    Files named ``train``, ``validation`` and ``test`` give the splits. The other options are those of ``folder``.
    Nothing is downloaded.
    """

    ignored: tuple[str, ...] = ()

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        read = Options("parquet", options)
        size = read.integer("size", 0, low=0, high=MAX_EDGE)
        channels = read.integer("channels", 3, choices=(1, 3))
        labels, image = read.names("labels"), read.text("image")
        crop, pad = crop_option(read, "parquet", ""), read.integer("pad", 0, low=0, high=MAX_EDGE)
        skip = read.text("on_error", "stop", ("stop", "skip")) == "skip"
        read.finish()
        if crop in (SQUARE, WHOLE) and not size:
            raise UsageError(f"crop={crop} needs size=N, the edge to which the images are resized", where="parquet")
        place = existing_path("parquet", path, f"a {SUFFIX} file or a folder of some")
        store = ParquetStore(place, image)
        attributes, ignored = store.attributes(labels)
        spec = full_spec("parquet", path, options)
        made = cls(store, attributes, spec, size or None, channels, None, crop, pad, skip)
        made.ignored = ignored
        return made

    def remarks(self, labels: Collection[str] | None = None) -> list[str]:
        found = super().remarks(labels)
        return [*found, f"Columns that are not labels: {listed(self.ignored)}."] if self.ignored else found


class ParquetStore:
    """The image files in parquet files; the name of an image is that of its file and the number of its row.

    Args:
        place: a file, or a folder with files in it or in its subfolders.
        image: name of the column of images; "" = the first one that may be.

    Raises:
        DataError: pyarrow is missing, a file is damaged, or the files have no column of images or other columns.
    """

    def __init__(self, place: Path, image: str) -> None:
        self.where = str(place)
        paths = [place] if place.is_file() else sorted(place.rglob(f"*{SUFFIX}"))
        if not paths:
            raise DataError("the folder contains no parquet files", where=self.where)
        root = place.parent if place.is_file() else place
        self._files = {path.relative_to(root).as_posix(): _ParquetFile(path) for path in paths}
        first = next(iter(self._files.values()))
        odd = next((file for file in self._files.values() if file.columns != first.columns), None)
        if odd is not None:
            raise DataError(f"the columns are not those of {first.path.name}", where=str(odd.path))
        self.image = image or next((name for name, kind in first.columns.items() if _is_image(kind)), "")
        if self.image not in first.columns or not _is_image(first.columns[self.image]):
            raise DataError(
                f"the column {self.image!r} does not hold images" if self.image else "no column holds images",
                where=str(first.path),
                why=f"the columns are {listed(f'{name} ({kind})' for name, kind in first.columns.items())}",
                hint="Expected a column of bytes, or of {bytes, path} as Hugging Face writes it.",
            )
        if sum(file.rows for file in self._files.values()) > MAX_ROWS:
            raise DataError("the files have too many rows", where=self.where, why=f"the limit is {MAX_ROWS:,}")
        self.names = tuple(f"{name}/{row:08d}" for name, file in self._files.items() for row in range(file.rows))
        self._groups: OrderedDict[tuple[str, int], list[Any]] = OrderedDict()

    def read(self, name: str) -> bytes:
        file, _, row = name.rpartition("/")
        group, place = self._files[file].place(int(row))
        key = (file, group)
        if key not in self._groups:
            self._groups[key] = self._files[file].images(group, self.image)
            while len(self._groups) > 1 and sum(map(_size, self._groups.values())) > CACHED_BYTES:
                self._groups.popitem(last=False)
        self._groups.move_to_end(key)
        content = self._groups[key][place]
        where = f"{self.where}: {name}"
        if not isinstance(content, bytes):
            raise DataError("the row contains no image", where=where, hint="Leave such rows out with on_error=skip.")
        if len(content) > MAX_IMAGE_BYTES:
            raise DataError("the file is too large", where=where, why=f"the limit is {MAX_IMAGE_BYTES / 2**20:.0f} MiB")
        return content

    def size(self, name: str) -> int:
        return len(self.read(name))

    def digest(self) -> bytes:
        content = blake2b(digest_size=16)
        for name, file in self._files.items():
            with file.path.open("rb") as opened:
                own = file_digest(opened, lambda: blake2b(digest_size=16)).digest()
            content.update(name.encode("utf-8", "surrogateescape") + b"\0" + own)
        return content.digest()

    def attributes(self, chosen: Sequence[str]) -> tuple[Attributes, tuple[str, ...]]:
        """The labels of all rows, and the names of the columns that are none.

        Args:
            chosen: the labels to read, in this order; all if empty.
        """
        files = list(self._files.values())
        kinds = {name: kind for name, kind in files[0].columns.items() if name != self.image}
        known = [name for name, kind in kinds.items() if _is_plain(kind)]
        for name in chosen:
            if name not in known:
                raise UsageError(f"the files have no label {name!r}", where=self.where, hint=suggestion(name, known))
        wanted = list(chosen or known)
        classes = files[0].class_names
        columns = []
        for name in wanted:
            cells = [cell for file in files for cell in file.column(name)]
            columns.append(_label(name, cells, classes.get(name, ()), f"{self.where}: {name}"))
        schema, values = schema_of(columns, len(self.names), self.where)
        parts = [_split_of(file.path) for file in files]
        splits = None
        if len(set(parts)) > 1 and all(parts):
            splits = tuple(part for part, file in zip(parts, files, strict=True) for _ in range(file.rows))
        ignored = () if chosen else tuple(name for name in kinds if name not in known)
        return Attributes(self.names, schema, values, splits), ignored


def _size(contents: Sequence[Any]) -> int:
    return sum(len(content) for content in contents if isinstance(content, bytes))


class _ParquetFile:
    """One parquet file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_regular_file(path, DataError):
            pass
        parquet = optional_module("pyarrow.parquet", "parquet", where=str(path), error=DataError)
        try:
            self._file = parquet.ParquetFile(path)
            schema, metadata = self._file.schema_arrow, self._file.metadata
            self.columns = {field.name: str(field.type) for field in schema}
            self._starts = np.cumsum([0, *(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))])
            self.class_names = _class_names(schema.metadata or {})
        except Exception as error:  # a damaged file may raise anything in pyarrow
            raise self._damaged(error) from None
        self.rows = int(self._starts[-1])

    def _damaged(self, error: Exception) -> DataError:
        why = str(error) or type(error).__name__
        return DataError("the file is not a readable parquet file", where=str(self.path), why=why)

    def place(self, row: int) -> tuple[int, int]:
        """The row group of a row, and its place there."""
        group = int(np.searchsorted(self._starts, row, side="right")) - 1
        return group, row - int(self._starts[group])

    def images(self, group: int, name: str) -> list[Any]:
        """The bytes of the images of a row group; None where there is no image."""
        return [cell.get("bytes") if isinstance(cell, dict) else cell for cell in self._cells(name, [group])]

    def column(self, name: str) -> list[Any]:
        """The cells of a column."""
        return self._cells(name, range(self._file.metadata.num_row_groups))

    def _cells(self, name: str, groups: Sequence[int]) -> list[Any]:
        """The cells of a column in some row groups."""
        try:
            parts = [self._file.metadata.row_group(group) for group in groups]
            columns = [part.column(i) for part in parts for i in range(part.num_columns)]
            size = sum(c.total_uncompressed_size for c in columns if c.path_in_schema.split(".")[0] == name)
            if size > MAX_GROUP_BYTES:
                raise ValueError(f"the column {name!r} has {size:,} bytes, the limit is {MAX_GROUP_BYTES:,}")
            found: list[Any] = self._file.read_row_groups(groups, columns=[name]).column(name).to_pylist()
        except Exception as error:  # as above
            raise self._damaged(error) from None
        return found


def _is_image(kind: str) -> bool:
    return kind in ("binary", "large_binary") or (kind.startswith("struct<") and "bytes: binary" in kind)


def _is_plain(kind: str) -> bool:
    return re.fullmatch(r"u?int\d+|halffloat|float|double|bool|(large_)?string|dictionary<.*>", kind) is not None


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """The class names of the columns that Hugging Face marks as ClassLabel."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        return {
            str(name): tuple(map(str, feature["names"]))
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
        }
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _label(name: str, cells: Sequence[Any], classes: tuple[str, ...], where: str) -> LabelColumn:
    column = numbers_or_text(cells, where)
    if any(isinstance(cell, str) for cell in column):
        return column_from_text(name, [str(cell) for cell in column], where)
    numbers = column.astype(np.float64)
    whole = all(cell is None or isinstance(cell, int) for cell in cells)
    if len(classes) > 1 and whole:
        numbers[numbers == -1] = np.nan
        return Label(name, "categorical", classes), numbers.astype(np.float32)
    if whole and not np.isnan(numbers).any():
        return column_from_numbers(name, numbers.astype(np.int64))
    return column_from_numbers(name, numbers)


def _split_of(path: Path) -> str:
    """The split that the name of a file or of its folder gives; "" if none."""
    for text in (path.stem, path.parent.name):
        match = SHARD.match(text)
        if match and match[1].lower() in SPLIT_ALIASES:
            return match[1]
    return ""
