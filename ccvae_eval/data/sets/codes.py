"""Codes and factors without images, from an ``.npz`` or from a pair of CSV or parquet files.

Reading parquet needs pyarrow, which the extra ``parquet`` installs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError, UsageError, listed, optional_module
from ccvae_eval.core.files import open_regular_file
from ccvae_eval.data.labels.columns import SPLIT_COLUMN, Column, csv_rows, read_columns
from ccvae_eval.data.sets.npz import read_arrays, require_few_names

PARQUET_SUFFIXES = (".parquet", ".pq")
TABLE_SUFFIXES = (".csv", *PARQUET_SUFFIXES)
OPTIONAL_ARRAYS = ("train", "test", "names", "kinds", "blocks", "block_names")
MAX_CODES_BYTES = 2**29
"""Limit of a CSV table of codes."""


@dataclass(frozen=True, slots=True, eq=False)
class CodesFile:
    """Codes and factors as read from files.

    Args:
        codes: shape (N, D).
        factors: shape (N, K); numbers or text.
        where: the file or files.
        digest: SHA-256 of their content.
        arrays: train, test, names, kinds, blocks and block_names, as far as given.
    """

    codes: NDArray[Any]
    factors: NDArray[Any]
    where: str
    digest: str
    arrays: Mapping[str, Any] = field(default_factory=dict)


def read_codes(codes: Path, factors: Path | None = None) -> CodesFile:
    """Read codes with their factors.

    Args:
        codes: an ``.npz`` or a table.

            * An ``.npz`` contains ``codes`` (N, D) and ``factors`` (N, K), and optionally ``train`` and ``test`` (row
              indices or masks), ``names`` (K,), ``kinds`` (K,) of "discrete" or "continuous", ``blocks`` (D,), the
              number of each latent dimension's block (-1 = a block of its own), and ``block_names``.
            * The ``.npz`` of ``ccvae-eval export`` has ``labels`` in place of factors, and ``columns`` in place of
              blocks.
            * A table of numbers is a CSV file with one header line or a parquet file.
        factors: a table with the factors of each row of ``codes``; its column ``split`` may contain train and test.
            None if ``codes`` is an ``.npz``.

    Raises:
        DataError: a file is missing, unreadable or malformed.
        UsageError: a table of codes without factors, or an ``.npz`` with a table of factors.
    """
    if codes.suffix.lower() in TABLE_SUFFIXES:
        if factors is None:
            raise UsageError("a table of codes needs a table of factors", hint="--codes A.csv --factors B.csv")
        return _from_tables(codes, factors)
    if factors is not None:
        raise UsageError(
            "an .npz contains its own factors", where=str(factors), hint="Use --factors only with a table of codes."
        )
    return _from_npz(codes)


def _digest(*files: Path) -> str:
    parts = []
    for file in files:
        with file.open("rb") as content:
            parts.append(file_digest(content, "sha256").digest())
    return parts[0].hex() if len(parts) == 1 else sha256(b"".join(parts)).hexdigest()


def _from_npz(path: Path) -> CodesFile:
    found = read_arrays(path, ("codes",), ("factors", "labels", "columns", *OPTIONAL_ARRAYS))
    require_few_names(path, found)
    if "labels" in found and "factors" not in found:
        found = _from_export(found)
    if "factors" not in found:
        raise DataError(
            "the array 'factors' is missing", where=str(path), why=f"the file contains {listed(sorted(found))}"
        )
    arrays: dict[str, Any] = {name: found[name] for name in OPTIONAL_ARRAYS if name in found}
    for name in {"names", "kinds", "block_names"} & arrays.keys():
        arrays[name] = [str(word) for word in np.ravel(arrays[name])]
    _require_words("kinds", arrays.get("kinds", ()), ("discrete", "continuous"), path)
    if "blocks" in arrays:
        arrays["blocks"] = _blocks(arrays["blocks"], str(path))
    return CodesFile(found["codes"], found["factors"], str(path), _digest(path), arrays)


def _from_export(found: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of ``ccvae-eval export`` by the names that codes and factors have."""
    arrays = {**found, "factors": found["labels"]}
    if "kinds" in found:
        arrays["kinds"] = np.where(np.ravel(found["kinds"]) == "continuous", "continuous", "discrete")
    if "columns" in found:
        owners = [str(owner) for owner in np.ravel(found["columns"])]
        names = list(dict.fromkeys(owner for owner in owners if owner))
        arrays["blocks"] = np.array([names.index(owner) if owner else -1 for owner in owners])
        arrays["block_names"] = np.array(names)
    return arrays


def _require_words(name: str, words: Iterable[str], allowed: tuple[str, str], path: Path) -> None:
    unknown = sorted(set(words) - {*allowed})
    if unknown:
        raise DataError(f"{name} must be {' or '.join(allowed)}, got {unknown[0]!r}", where=str(path))


def _blocks(numbers: NDArray[Any], where: str) -> list[list[int]]:
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise DataError("blocks must be integers, one for each latent dimension", where=where)
    return [np.flatnonzero(numbers == block).tolist() for block in np.unique(numbers[numbers >= 0])]


def _from_tables(codes: Path, factors: Path) -> CodesFile:
    points = _points(_columns(codes), codes)
    found = _columns(factors)
    rows = len(next(iter(found.values()), ()))
    if rows != len(points):
        raise DataError(f"the factors have {rows} rows, the codes {len(points)}", where=str(factors))
    arrays: dict[str, Any] = {}
    if SPLIT_COLUMN in found:
        words = np.array([str(word).strip().lower() for word in found.pop(SPLIT_COLUMN)])
        _require_words("split", set(words.tolist()) - {"", "nan"}, ("train", "test"), factors)
        arrays = {"train": words == "train", "test": words == "test"}
    if not found:
        raise DataError("the table has no column of factors", where=str(factors))
    arrays["names"] = list(found)
    cells = np.stack(list(found.values()), axis=1)
    return CodesFile(points, cells, f"{codes} and {factors}", _digest(codes, factors), arrays)


def _points(columns: Mapping[str, NDArray[Any]], path: Path) -> NDArray[np.float64]:
    for name, column in columns.items():
        word = next((cell for cell in column if isinstance(cell, str)), None)
        if word is not None:
            raise DataError("codes must be numbers", where=str(path), why=f"column {name!r} contains {word!r}")
    return np.stack([column.astype(np.float64) for column in columns.values()], axis=1)


def _columns(path: Path) -> dict[str, NDArray[Any]]:
    """The columns of a table, each of numbers with NaN for missing, or of text."""
    if path.suffix.lower() in PARQUET_SUFFIXES:
        columns = parquet_columns(path)
        if not len(next(iter(columns.values()), ())):
            raise DataError("the table has no rows", where=str(path))
        return columns
    with (
        open_regular_file(path, DataError) as descriptor,
        open(descriptor, "rb", closefd=False) as file,
    ):
        size = os.fstat(descriptor).st_size
        if size > MAX_CODES_BYTES:
            raise DataError("is too large", where=str(path), why=f"{size:,} bytes, the limit is {MAX_CODES_BYTES:,}")
        rows = csv_rows(file, str(path))
        names = [name.strip() for name in next(rows, [])]
        if len(set(names)) != len(names):
            raise DataError("two columns have the same name", where=str(path))
        found = [Column(is_text=name == SPLIT_COLUMN) for name in names]
        if not names or not read_columns(rows, found, str(path), partial(_odd_row, path)):
            raise DataError("the table needs a header line and at least one row", where=str(path))
    return {name: _column(column.cells) for name, column in zip(names, found, strict=True)}


def _odd_row(path: Path, number: int, found: int, expected: int) -> DataError:
    return DataError(f"the row must have {expected} cells like the header, got {found}", where=f"{path}: line {number}")


def _column(cells: Sequence[str] | NDArray[np.float64]) -> NDArray[Any]:
    """Numbers, with NaN for empty cells, if every cell is a number; otherwise text."""
    if isinstance(cells, np.ndarray):
        return cells
    words = {text: text.strip() for text in set(cells)}
    try:
        numbers = {text: float(word) if word else np.nan for text, word in words.items()}
    except ValueError:
        found = np.empty(len(cells), object)
        found[:] = [words[text] for text in cells]
        return found
    return np.fromiter((numbers[text] for text in cells), np.float64, len(cells))


def parquet_columns(path: Path) -> dict[str, NDArray[Any]]:
    """Read the columns of a parquet file, each as :func:`numbers_or_text`.

    Raises:
        DataError: pyarrow is missing, the file is not parquet, or a column contains neither numbers nor text.
    """
    if not path.is_file():
        raise DataError("the file does not exist", where=str(path))
    instead = ", or write CSV: pandas.read_parquet(FILE).to_csv('codes.csv', index=False)."
    parquet = optional_module("pyarrow.parquet", "parquet", where=str(path), error=DataError, instead=instead)
    try:
        table = parquet.read_table(path).to_pydict()
    except Exception as error:  # a damaged file may raise anything in pyarrow
        raise DataError("the file is not a readable parquet file", where=str(path), why=str(error)) from None
    return {str(name): numbers_or_text(values, f"{path}: {name}") for name, values in table.items()}


def numbers_or_text(values: Sequence[Any], where: str) -> NDArray[Any]:
    """Convert a column to numbers with NaN for None, or to text with "" for None, shape (N,), dtype object.

    >>> numbers_or_text([1, None, True], "x").tolist()
    [1.0, nan, 1.0]
    >>> numbers_or_text(["a", None], "x").tolist()
    ['a', '']

    Raises:
        DataError: cells of another type, such as lists or dates.
    """
    present = [value for value in values if value is not None]
    if all(isinstance(value, bool | int | float | np.number) for value in present):
        return np.array([np.nan if value is None else float(value) for value in values], dtype=object)
    if all(isinstance(value, str) for value in present):
        return np.array(["" if value is None else value.strip() for value in values], dtype=object)
    kind = next(type(v).__name__ for v in present if not isinstance(v, bool | int | float | np.number))
    raise DataError(f"the column must contain numbers or text, got {kind}", where=where)
