"""Labels from the columns of a table or an array: the kind of each label and its values."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

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
"""Limit of a CSV table, in which a cell of two bytes takes far more memory."""
SPLIT_COLUMN = "split"

SEPARATORS = MappingProxyType({";": "semicolons", "\t": "tabs", "|": "vertical bars"})
"""Characters that other tables have between cells."""

BOOLEANS = MappingProxyType({"false": 0.0, "true": 1.0})
Values = NDArray[np.float32]
LabelColumn = tuple[Label, Values]


def column_from_text(name: str, texts: Sequence[str], where: str) -> LabelColumn:
    """Convert a column of text cells to a label. Empty cells are missing; the other cells decide the kind:

    * 0/1, -1/1 or true/false: binary;
    * other numbers: continuous;
    * text: categorical, with the classes in alphabetical order.

    Raises:
        DataError: a text column has a single value or more than 256.
    """
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
    head, rows = _table(content, where)
    places = {name: i for i, name in enumerate(head[1:], start=1) if name.lower() != SPLIT_COLUMN}
    split = next((i for i, name in enumerate(head[1:], start=1) if name.lower() == SPLIT_COLUMN), None)
    for name in chosen:
        if name not in places:
            raise UsageError(f"the table has no label {name!r}", where=where, hint=suggestion(name, places))
    columns = list(zip(*rows, strict=True))
    _require_files_first(head, columns, where)
    files = tuple(name.strip() for name in columns[0])
    if len(set(files)) != len(files):
        twice = Counter(files).most_common(1)[0][0]
        raise DataError(
            f"{twice!r} is listed twice",
            where=where,
            hint="The first column must hold the image file names, each in one row.",
        )
    found = [column_from_text(name, columns[places[name]], where) for name in chosen or places]
    schema, labels = schema_of(found, len(files), where)
    return Attributes(files, schema, labels, None if split is None else columns[split])


def _require_files_first(head: Sequence[str], columns: Sequence[Sequence[str]], where: str) -> None:
    """Refuses a table in which another column than the first holds the names of the image files."""
    first, *others = (all(cell.strip().lower().endswith(IMAGE_SUFFIXES) for cell in column) for column in columns)
    if not first and any(others):
        name = head[1 + others.index(True)]
        raise DataError(
            f"the first column, {head[0]!r}, has {columns[0][0]!r} in its first row, which is not an image file",
            where=where,
            hint=f"The first column must hold the image file names. They are in column {name!r}: move it to the front.",
        )


def csv_rows(content: bytes, where: str, **style: Any) -> list[list[str]]:
    """The rows of a CSV table, the header first; empty lines are skipped.

    Args:
        content: the file.
        where: its name for errors.
        style: options of ``csv.reader``.

    Raises:
        DataError: the content is not CSV in UTF-8, or has more than ``MAX_CELLS`` cells.
    """
    cells = content.count(b",") + content.count(b"\n") + content.count(b"\r")
    if cells > MAX_CELLS:
        raise DataError("the table is too large", where=where, why=f"more than {MAX_CELLS:,} cells")
    try:
        lines = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
        return [row for row in csv.reader(lines, **style) if row]
    except (ValueError, csv.Error) as error:
        raise DataError(
            "the file is not a CSV table", where=where, why=str(error), hint="Save it as comma-separated UTF-8 text."
        ) from None


def _table(content: bytes, where: str) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a CSV table; empty lines are skipped."""
    if len(content) > MAX_TABLE_BYTES:
        raise DataError(f"the table has {len(content) / 2**20:.0f} MiB, the limit is 256 MiB", where=where)
    lines = csv_rows(content, where, strict=True, skipinitialspace=True)
    if len(lines) < 2:
        raise DataError(
            "the table has no rows",
            where=where,
            hint="The first line names the columns; every further line describes one image.",
        )
    head, *rows = lines
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
    for number, row in enumerate(rows, start=2):
        if len(row) != len(head):
            raise DataError(
                f"row {number} must have {len(head)} cells like the first line, got {len(row)}",
                where=where,
                hint="Cells are separated by commas. Put a name that contains a comma in double quotes.",
            )
    return head, rows
