"""Labels from the columns of a table or an array: the kind of each label and its values."""

from __future__ import annotations

import csv
import io
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from types import MappingProxyType
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError, LabelMismatchError, UsageError, suggestion
from ccvae_eval.data.images.stores import IMAGE_SUFFIXES
from ccvae_eval.model.interface import Label, LabelSchema

MAX_CLASSES = 256
"""A text column with more different values identifies the images rather than classifying them."""
MAX_TABLE_BYTES = 2**28
MAX_CELLS = 2**25
MAX_TEXT_BYTES = 2**29
"""Limit of the memory of the text in a table, in which a cell of two bytes takes far more."""
MAX_ROW_LENGTH = 2**22
"""Limit of a row in characters."""
MAX_WORDS = 4096
"""Number of different words up to which each is kept once; a column with more is converted to numbers."""
CHUNK = 4096
"""Number of rows that are converted together."""
SPLIT_COLUMN = "split"

SEPARATORS = MappingProxyType({";": "semicolons", "\t": "tabs", "|": "vertical bars"})
"""Characters that other tables have between cells."""

BOOLEANS = MappingProxyType({"false": 0.0, "true": 1.0})
Values = NDArray[np.float32]
LabelColumn = tuple[Label, Values]


def column_from_text(name: str, texts: Sequence[str] | NDArray[np.float64], where: str) -> LabelColumn:
    """Convert a column of text cells to a label. Empty cells are missing; the other cells decide the kind:

    * 0/1, -1/1 or true/false: binary;
    * other numbers: continuous;
    * text: categorical, with the classes in alphabetical order.

    Args:
        name: name of the column.
        texts: its cells; numbers if a :class:`Column` has converted them.
        where: the table, for messages.

    Raises:
        DataError: a text column has a single value or more than 256.
    """
    if isinstance(texts, np.ndarray):
        return column_from_numbers(name, texts.astype(np.float32))
    words = {text: text.strip() for text in set(texts)}
    filled = sorted({word for word in words.values() if word})
    if filled and all(word.lower() in BOOLEANS for word in filled):
        return Label(name), _cells(texts, words, {word: BOOLEANS[word.lower()] for word in filled})
    try:
        numbers = {word: float(word) for word in filled}
    except ValueError:
        if not 2 <= len(filled) <= MAX_CLASSES:
            values = f"only one value, {filled[0]!r}" if len(filled) == 1 else f"{len(filled)} text values"
            raise DataError(
                f"column {name!r} has {values}",
                where=where,
                why=f"a categorical label has from 2 to {MAX_CLASSES} classes",
                hint="Choose the labels to read, without this column: labels=A|B|C.",
            ) from None
        label = Label(name, "categorical", tuple(filled))
        return label, _cells(texts, words, {word: float(i) for i, word in enumerate(filled)})
    return column_from_numbers(name, _cells(texts, words, numbers))


def _cells(texts: Sequence[str], words: dict[str, str], numbers: dict[str, float]) -> Values:
    table = {text: numbers.get(word, np.nan) for text, word in words.items()}
    return np.fromiter((table[text] for text in texts), np.float32, len(texts))


def column_from_numbers(name: str, values: NDArray[Any]) -> LabelColumn:
    """Convert a column of numbers to a label; NaN is missing.

    0/1 and -1/1 are binary. Other integer arrays without negative values are categorical, with the classes 0 to the
    maximum (at most 255). Everything else is continuous.
    """
    column = values.astype(np.float32)
    seen = set(np.unique(column[~np.isnan(column)]).tolist())
    if seen <= {0.0, 1.0}:
        return Label(name), column
    if seen <= {-1.0, 1.0}:
        return Label(name), ((column + 1) / 2).astype(np.float32)
    if np.issubdtype(values.dtype, np.integer) and min(seen) >= 0 and max(seen) < MAX_CLASSES:
        return Label(name, "categorical", tuple(str(i) for i in range(int(max(seen)) + 1))), column
    return Label(name, "continuous"), column


def labels_from_array(
    labels: NDArray[Any], names: Sequence[str] | LabelSchema | None, where: str
) -> tuple[LabelSchema, Values]:
    """Return the schema and the values of an array of labels.

    Args:
        labels: numbers or booleans, shape :math:`(N,)` or :math:`(N, L)`.
        names: the names of the labels, whose kinds follow from their values (:func:`column_from_numbers`); or their
            schema; or None for "label", or "label0", "label1" and so on.
        where: source of the array, for messages.

    Raises:
        LabelMismatchError: the number of names differs from L, or values do not fit their kind.
    """
    table = labels[:, None] if labels.ndim == 1 else labels
    if table.ndim != 2 or table.dtype.kind not in "biuf":
        raise LabelMismatchError(
            f"labels have the unsupported shape {labels.shape} or type {labels.dtype}",
            where=where,
            hint="Expected numbers or booleans of shape (N,) or (N, L).",
        )
    count = table.shape[1]
    if names is None:
        names = ["label"] if count == 1 else [f"label{i}" for i in range(count)]
    if len(names) != count:
        raise LabelMismatchError(f"labels have {count} columns, but {len(names)} names", where=where)
    if isinstance(names, LabelSchema):
        values = table.astype(np.float32)
        names.validate(torch.from_numpy(values), where)
        return names, values
    columns = [column_from_numbers(name, table[:, i]) for i, name in enumerate(names)]
    return schema_of(columns, len(table), where)


def schema_of(columns: Sequence[LabelColumn], count: int, where: str) -> tuple[LabelSchema, Values]:
    """Combine columns of ``count`` rows to a schema and values of shape (count, L), and validate them."""
    schema = LabelSchema(tuple(label for label, _ in columns))
    values = np.stack([v for _, v in columns], axis=1) if columns else np.empty((count, 0), np.float32)
    schema.validate(torch.from_numpy(values), where)
    return schema, values


@dataclass(frozen=True, slots=True)
class Attributes:
    """A table of labels.

    Args:
        files: the image file of each row.
        schema: the labels.
        labels: their values, shape (N, L), NaN = missing.
        splits: the column ``split``, if the table has one.
    """

    files: tuple[str, ...]
    schema: LabelSchema
    labels: Values
    splits: tuple[str, ...] | None

    def rows(self, index: Sequence[int]) -> Attributes:
        """Some of the rows."""
        splits = None if self.splits is None else tuple(self.splits[i] for i in index)
        return Attributes(tuple(self.files[i] for i in index), self.schema, self.labels[list(index)], splits)


def read_attributes(content: bytes, where: str, chosen: Sequence[str] = ()) -> Attributes:
    """Read a CSV table: file names in the first column, an optional column ``split``, labels in all other columns.

    :func:`column_from_text` converts the columns of labels.

    Args:
        content: the bytes of the file, in UTF-8.
        where: name of the file, for messages.
        chosen: the labels to read, in this order; all labels if empty.

    Raises:
        DataError: the content is not a CSV table, rows differ in length, or a file is listed twice.
        UsageError: a chosen label is missing.
    """
    if len(content) > MAX_TABLE_BYTES:
        raise DataError(
            f"the table has {len(content) / 2**20:.0f} MiB, the limit is {MAX_TABLE_BYTES >> 20} MiB", where=where
        )
    rows = csv_rows(io.BytesIO(content), where, strict=True, skipinitialspace=True)
    head, rows = _head(rows, where)
    places = {name: i for i, name in enumerate(head[1:], start=1) if name.lower() != SPLIT_COLUMN}
    split = next((i for i, name in enumerate(head[1:], start=1) if name.lower() == SPLIT_COLUMN), None)
    for name in chosen:
        if name not in places:
            raise UsageError(f"the table has no label {name!r}", where=where, hint=suggestion(name, places))
    kept = {places[name] for name in chosen or places}
    columns = [Column(place in kept or place in (0, split), is_text=place in (0, split)) for place in range(len(head))]
    read_columns(rows, columns, where, partial(_odd_row, where))
    _require_files_first(head, columns, where)
    files = tuple(name.strip() for name in columns[0].texts)
    if len(set(files)) != len(files):
        twice = Counter(files).most_common(1)[0][0]
        raise DataError(
            f"{twice!r} is listed twice",
            where=where,
            hint="The first column must hold the image file names, each in one row.",
        )
    found = [column_from_text(name, columns[places[name]].cells, where) for name in chosen or places]
    schema, labels = schema_of(found, len(files), where)
    return Attributes(files, schema, labels, None if split is None else tuple(columns[split].texts))


class Column:
    """The cells of a column: words, equal ones once in memory, or numbers if there are many different ones.

    Args:
        is_kept: False to forget the cells.
        is_text: True to keep words, however many there are.
    """

    def __init__(self, is_kept: bool = True, *, is_text: bool = False) -> None:
        self._is_kept, self._is_text = is_kept, is_text
        self.texts: list[str] = []
        self.first: str | None = None
        self.names_images = True
        self._words: dict[str, str] | None = {}
        self._numbers: array[float] | None = None

    @property
    def cells(self) -> list[str] | NDArray[np.float64]:
        """The cells as words, or as numbers with NaN for an empty one."""
        return self.texts if self._numbers is None else np.array(self._numbers, np.float64)

    def extend(self, texts: Sequence[str]) -> int:
        """Add cells; returns how many bytes of memory the new words take."""
        self.first = texts[0] if self.first is None else self.first
        self.names_images &= all(text.strip().lower().endswith(IMAGE_SUFFIXES) for text in texts)
        if not self._is_kept:
            return 0
        if self._numbers is not None:
            try:
                self._numbers.extend(map(_number, texts))
            except ValueError:  # text after many numbers: they become text again, in their shortest form
                self.texts = ["" if np.isnan(number) else repr(number) for number in self._numbers]
                self._numbers, self._is_text = None, True
                return sum(map(sys.getsizeof, self.texts)) + self.extend(texts)
            return 0
        known = 0 if self._words is None else len(self._words)
        if self._words is None:
            self.texts += texts
            return sum(map(sys.getsizeof, texts))
        self.texts += [self._words.setdefault(text, text) for text in texts]
        added = sum(map(sys.getsizeof, islice(self._words, known, None)))
        if len(self._words) > MAX_WORDS:
            self._words = None
            if not self._is_text:
                with suppress(ValueError):
                    self._numbers, self.texts = array("d", map(_number, self.texts)), []
        return added


def _number(text: str) -> float:
    word = text.strip()
    return float(word) if word else np.nan


def read_columns(
    rows: Iterator[list[str]], columns: Sequence[Column], where: str, odd: Callable[[int, int, int], DataError]
) -> int:
    """Add the cells of rows to columns; returns the number of rows.

    Args:
        rows: the rows after the header.
        columns: one for each cell of a row.
        where: the table, for messages.
        odd: makes the error for a row of another length, from its number, its length and that of the header.

    Raises:
        DataError: a row has another length, or the text takes too much memory.
    """
    count, text = 0, 0
    for chunk in _chunks(rows):
        for number, row in enumerate(chunk, start=count + 2):
            if len(row) != len(columns):
                raise odd(number, len(row), len(columns))
        text += sum(column.extend(cells) for column, cells in zip(columns, zip(*chunk, strict=True), strict=True))
        if text > MAX_TEXT_BYTES:
            why = f"its text takes more than {MAX_TEXT_BYTES / 2**20:.0f} MiB of memory"
            raise DataError("the table is too large", where=where, why=why, hint="Choose fewer columns or rows.")
        count += len(chunk)
    return count


def _chunks(rows: Iterator[list[str]]) -> Iterator[list[list[str]]]:
    """Rows in groups of limited size."""
    chunk, length = list[list[str]](), 0
    for row in rows:
        chunk.append(row)
        length += sum(map(len, row)) + len(row)
        if len(chunk) == CHUNK or length > MAX_ROW_LENGTH:
            yield chunk
            chunk, length = [], 0
    if chunk:
        yield chunk


def _require_files_first(head: Sequence[str], columns: Sequence[Column], where: str) -> None:
    """Refuses a table in which another column than the first holds the names of the image files."""
    first, *others = (column.names_images for column in columns)
    if not first and any(others):
        name = head[1 + others.index(True)]
        raise DataError(
            f"the first column, {head[0]!r}, has {columns[0].first!r} in its first row, which is not an image file",
            where=where,
            hint=f"The first column must hold the image file names. They are in column {name!r}: move it to the front.",
        )


def csv_rows(file: BinaryIO, where: str, **style: Any) -> Iterator[list[str]]:
    """The rows of a CSV table one by one, the header first; empty lines are skipped.

    Args:
        file: the opened file.
        where: its name for errors.
        style: options of ``csv.reader``.

    Raises:
        DataError: the content is not CSV in UTF-8, or has more than ``MAX_CELLS`` cells or ``MAX_ROW_LENGTH``
            characters in a row.
    """
    cells = length = 0

    def lines() -> Iterator[str]:
        nonlocal length
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        while line := text.readline(MAX_ROW_LENGTH + 1):
            length += len(line)
            if length > MAX_ROW_LENGTH:
                raise DataError("a row is too long", where=where, why=f"more than {MAX_ROW_LENGTH:,} characters")
            yield line
        text.detach()

    try:
        for row in csv.reader(lines(), **style):
            length = 0
            cells += len(row)
            if cells > MAX_CELLS:
                raise DataError("the table is too large", where=where, why=f"more than {MAX_CELLS:,} cells")
            if row:
                yield row
    except (ValueError, csv.Error) as error:
        raise DataError(
            "the file is not a CSV table", where=where, why=str(error), hint="Save it as comma-separated UTF-8 text."
        ) from None


def _odd_row(where: str, number: int, found: int, expected: int) -> DataError:
    return DataError(
        f"row {number} must have {expected} cells like the first line, got {found}",
        where=where,
        hint="Cells are separated by commas. Put a name that contains a comma in double quotes.",
    )


def _head(rows: Iterator[list[str]], where: str) -> tuple[list[str], Iterator[list[str]]]:
    """The header of a CSV table and the rows after it."""
    head, first = next(rows, None), next(rows, None)
    if head is None or first is None:
        raise DataError(
            "the table has no rows",
            where=where,
            hint="The first line names the columns; every further line describes one image.",
        )
    head = [name.strip() for name in head]
    if len(head) == 1 and (sign := next((sign for sign in SEPARATORS if sign in head[0]), None)):
        raise DataError(
            f"the cells are separated by {SEPARATORS[sign]}, not by commas",
            where=where,
            why=f"the first line begins with {' '.join(head[0].split())[:40]!r}",
            hint="Save the table as comma-separated text.",
        )
    if not all(head[1:]):
        raise DataError(
            f"column {head.index('', 1) + 1} has no name",
            where=where,
            hint="The first line must name every column. A comma at its end adds an empty one.",
        )
    name, count = Counter(head).most_common(1)[0]
    if count > 1:
        raise DataError(f"{count} columns are named {name!r}", where=where, hint="Column names must be unique.")
    return head, chain([first], rows)
