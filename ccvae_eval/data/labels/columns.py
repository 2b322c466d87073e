"""From the columns of a table or an array to labels: what kind each is, and its values.

``attributes.csv``: which labels each image file has.
"""

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
from ccvae_eval.model.interface import Label, LabelSchema

MOST_CLASSES = 256
"""A column of text with more different values names its images rather than classifies them."""

TRUTH = MappingProxyType({"false": 0.0, "true": 1.0})
Values = NDArray[np.float32]
Labelled = tuple[Label, Values]


def column_from_text(name: str, texts: Sequence[str], where: str) -> Labelled:
    """A label from the cells of a table: empty is missing, else

    * 0/1, -1/1 or true/false: binary;
    * other numbers: continuous;
    * text: categorical, the classes in alphabetical order.

    Raises:
        DataError: text with a single value or with too many.
    """
    words = {text: text.strip() for text in set(texts)}
    filled = sorted({word for word in words.values() if word})
    if filled and all(word.lower() in TRUTH for word in filled):
        numbers = {word: TRUTH[word.lower()] for word in filled}
        return Label(name), _cells(texts, words, numbers)
    try:
        numbers = {word: float(word) for word in filled}
    except ValueError:
        label = Label(name, "categorical", tuple(_classes(name, filled, where)))
        return label, _cells(texts, words, {word: float(i) for i, word in enumerate(filled)})
    return column_from_numbers(name, _cells(texts, words, numbers))


def _classes(name: str, words: list[str], where: str) -> list[str]:
    if 2 <= len(words) <= MOST_CLASSES:
        return words
    raise DataError(
        f"column {name!r} has {len(words)} different {'value' if len(words) == 1 else 'values'}",
        where=where,
        why=f"a categorical label has from 2 to {MOST_CLASSES} classes",
        hint="Leave the column out: choose the labels with labels=A|B|C.",
    )


def _cells(texts: Sequence[str], words: dict[str, str], numbers: dict[str, float]) -> Values:
    table = {text: numbers.get(word, np.nan) for text, word in words.items()}
    return np.fromiter((table[text] for text in texts), np.float32, len(texts))


def column_from_numbers(name: str, values: NDArray[Any]) -> Labelled:
    """A label from numbers: 0/1 and -1/1 are binary, other whole numbers of an integer array are the classes 0 to
    the greatest, everything else is continuous. NaN is missing."""
    column = values.astype(np.float32)
    seen = set(np.unique(column[~np.isnan(column)]).tolist())
    if seen <= {0.0, 1.0}:
        return Label(name), column
    if seen <= {-1.0, 1.0}:
        return Label(name), ((column + 1) / 2).astype(np.float32)
    if np.issubdtype(values.dtype, np.integer) and min(seen) >= 0 and max(seen) < MOST_CLASSES:
        return Label(name, "categorical", tuple(str(i) for i in range(int(max(seen)) + 1))), column
    return Label(name, "continuous"), column


def labels_from_array(
    labels: NDArray[Any], names: Sequence[str] | LabelSchema | None, where: str
) -> tuple[LabelSchema, Values]:
    """The schema and values of an array of labels.

    Args:
        labels: shape :math:`(N,)` or :math:`(N, L)`, numbers or booleans.
        names: of the labels, from which the kinds follow (:func:`column_from_numbers`); or their schema; or None:
            "label", or "label0", "label1" and so on.

    Raises:
        LabelMismatchError: another number of names, or values outside their kind.
    """
    table = labels[:, None] if labels.ndim == 1 else labels
    if table.ndim != 2 or table.dtype.kind not in "biuf":
        raise LabelMismatchError(
            f"labels of shape {labels.shape} and type {labels.dtype}", where=where, hint="Expected numbers (N, L)."
        )
    count = table.shape[1]
    if names is None:
        names = ["label"] if count == 1 else [f"label{i}" for i in range(count)]
    if len(names) != count:
        raise LabelMismatchError(f"{count} columns of labels, {len(names)} names", where=where)
    if isinstance(names, LabelSchema):
        values = table.astype(np.float32)
        names.validate(torch.from_numpy(values), where)
        return names, values
    columns = [column_from_numbers(name, table[:, i]) for i, name in enumerate(names)]
    return schema_of(columns, len(table), where)


def schema_of(columns: Sequence[Labelled], count: int, where: str) -> tuple[LabelSchema, Values]:
    """The schema and the array of some labels, checked against each other."""
    schema = LabelSchema(tuple(label for label, _ in columns))
    values = np.stack([v for _, v in columns], axis=1) if columns else np.empty((count, 0), np.float32)
    schema.validate(torch.from_numpy(values), where)
    return schema, values


SPLIT = "split"
MOST_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class Attributes:
    """A table of labels.

    Args:
        files: the image file of each row.
        schema, labels: the labels and their values, shape (N, L), NaN = missing.
        splits: the column ``split``, if there is one.
    """

    files: tuple[str, ...]
    schema: LabelSchema
    labels: NDArray[np.float32]
    splits: tuple[str, ...] | None

    def rows(self, index: Sequence[int]) -> Attributes:
        """Some of the rows."""
        splits = None if self.splits is None else tuple(self.splits[i] for i in index)
        return Attributes(tuple(self.files[i] for i in index), self.schema, self.labels[list(index)], splits)


def read_attributes(content: bytes, where: str, chosen: Sequence[str] = ()) -> Attributes:
    """Reads a table: first column the file name, an optional column ``split``, every other column a label.

    What the cells mean is said by :func:`ccvae_eval.data.labels.columns.column_from_text`.

    Args:
        content: the file, UTF-8.
        where: for messages.
        chosen: only these labels, in this order; all, if empty.

    Raises:
        DataError: no table, a row of another length, a file named twice.
        UsageError: a chosen label that is not there.
    """
    head, rows = _table(content, where)
    places = {name: i for i, name in enumerate(head[1:], start=1) if name.lower() != SPLIT}
    split = next((i for i, name in enumerate(head[1:], start=1) if name.lower() == SPLIT), None)
    for name in chosen:
        if name not in places:
            raise UsageError(f"there is no label {name!r}", where=where, hint=suggestion(name, places))
    columns = list(zip(*rows, strict=True))
    files = tuple(name.strip() for name in columns[0])
    if len(set(files)) != len(files):
        twice = Counter(files).most_common(1)[0][0]
        raise DataError(f"{twice!r} is named twice", where=where)
    found = [column_from_text(name, columns[places[name]], where) for name in chosen or places]
    schema, labels = schema_of(found, len(files), where)
    return Attributes(files, schema, labels, None if split is None else columns[split])


def _table(content: bytes, where: str) -> tuple[list[str], list[list[str]]]:
    if len(content) > MOST_BYTES:
        raise DataError(f"{len(content) / 2**20:.0f} MiB", where=where, why="tables of up to 256 MiB are read")
    try:
        reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True, skipinitialspace=True)
        lines = [row for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError("not a table in UTF-8", where=where, why=str(error)) from None
    if len(lines) < 2:
        raise DataError("the table has no rows", where=where, hint="First line: the names of the columns.")
    head, *rows = lines
    head = [name.strip() for name in head]
    if len(set(head)) != len(head) or not all(head[1:]):
        raise DataError("the names of the columns repeat or are empty", where=where)
    for number, row in enumerate(rows, start=2):
        if len(row) != len(head):
            raise DataError(f"row {number} has {len(row)} cells, the first line {len(head)}", where=where)
    return head, rows
