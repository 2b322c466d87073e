"""``attributes.csv``: which labels each image file has."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.data.columns import column_from_text, schema_of
from ccvae_eval.errors import DataError, UsageError, suggestion
from ccvae_eval.model import LabelSchema

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

    What the cells mean is said by :func:`ccvae_eval.data.columns.column_from_text`.

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
