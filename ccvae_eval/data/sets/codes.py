"""Codes and factors without images: an ``.npz`` of both, or a pair of CSV or parquet files.

Tables in a parquet file, read by pyarrow where that is installed: the extra ``parquet``.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError, UsageError
from ccvae_eval.data.sets.npz import read_arrays

EXTRA = "ccvae-eval[parquet]"
SUFFIXES = (".parquet", ".pq")


def parquet_columns(path: Path) -> dict[str, NDArray[Any]]:
    """The columns of a parquet file: numbers with NaN for null, or text with "" for null, shape (N,), dtype object.

    Raises:
        DataError: pyarrow is missing, no parquet file, or a column of neither numbers nor text.
    """
    if not path.is_file():
        raise DataError("no such file", where=str(path))
    try:
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            "parquet needs pyarrow, which is not installed",
            where=str(path),
            hint=f"pip install '{EXTRA}', or write CSV: pandas.read_parquet(FILE).to_csv('codes.csv', index=False).",
        ) from None
    try:
        table = parquet.read_table(path).to_pydict()
    except Exception as error:  # pyarrow's own errors, and whatever it raises over a damaged file
        raise DataError("not a parquet file", where=str(path), why=str(error)) from None
    return {str(name): cells_of(values, f"{path}: {name}") for name, values in table.items()}


def cells_of(values: Sequence[Any], where: str) -> NDArray[Any]:
    """One column as numbers with NaN, or text with "", shape (N,), dtype object.

    >>> cells_of([1, None, True], "x").tolist()
    [1.0, nan, 1.0]
    >>> cells_of(["a", None], "x").tolist()
    ['a', '']

    Raises:
        DataError: cells of another kind, such as lists or dates.
    """
    present = [value for value in values if value is not None]
    if all(isinstance(value, bool | int | float | np.number) for value in present):
        return np.array([np.nan if value is None else float(value) for value in values], dtype=object)
    if all(isinstance(value, str) for value in present):
        return np.array(["" if value is None else value.strip() for value in values], dtype=object)
    kind = next(type(v).__name__ for v in present if not isinstance(v, bool | int | float | np.number))
    raise DataError("a column of numbers or text is expected", where=where, why=f"it holds {kind}")


OPTIONAL = ("train", "test", "names", "kinds", "blocks", "block_names")
SPLIT = "split"
"""A column of the factors' table that says train or test is no factor."""

MOST_BYTES = 2 * 2**30
TABLES = (".csv", *SUFFIXES)


@dataclass(frozen=True, slots=True, eq=False)
class CodesFile:
    """What was read.

    Args:
        codes: shape (N, D).
        factors: shape (N, K); text where the file has text.
        arrays: train, test, names, kinds, blocks, block_names, as far as given.
        where: the file or files.
        digest: SHA-256 of their content.
    """

    codes: NDArray[Any]
    factors: NDArray[Any]
    where: str
    digest: str
    arrays: Mapping[str, Any] = field(default_factory=dict)


def read_codes(codes: Path, factors: Path | None = None) -> CodesFile:
    """Reads codes with their factors.

    Args:
        codes: an ``.npz`` with ``codes`` (N, D) and ``factors`` (N, K), optional ``train`` and ``test`` (row indices or
            masks), ``names`` (K,), ``kinds`` (K,) of "discrete" or "continuous", ``blocks`` (the number of each
            column's block, shape (D,), -1 = a block of its own) and ``block_names``; or a table of numbers, CSV with
            one line of headings or parquet, with ``factors`` another of as many rows, in which a column ``split`` may
            say train or test.

    Raises:
        DataError: missing, unreadable, or not what is expected.
        UsageError: an ``.npz`` with a second file, or a table without one.
    """
    if codes.suffix.lower() in TABLES:
        if factors is None:
            raise UsageError("codes in a table need their factors in another", hint="--codes A.csv --factors B.csv")
        return _from_tables(codes, factors)
    if factors is not None:
        raise UsageError("an .npz holds its own factors", where=str(factors), hint="--factors goes with a CSV.")
    return _from_npz(codes)


def _digest(*files: Path) -> str:
    parts = []
    for file in files:
        with file.open("rb") as content:
            parts.append(file_digest(content, "sha256").digest())
    return parts[0].hex() if len(parts) == 1 else sha256(b"".join(parts)).hexdigest()


def _from_npz(path: Path) -> CodesFile:
    found = read_arrays(path, ("codes", "factors"))
    arrays: dict[str, Any] = {name: found[name] for name in OPTIONAL if name in found}
    for name in ("names", "kinds", "block_names"):
        if name in arrays:
            arrays[name] = [str(word) for word in np.ravel(arrays[name])]
    if "kinds" in arrays:
        _check_kinds(arrays["kinds"], str(path))
    if "blocks" in arrays:
        arrays["blocks"] = _blocks(arrays["blocks"], str(path))
    return CodesFile(found["codes"], found["factors"], str(path), _digest(path), arrays)


def _check_kinds(kinds: list[str], where: str) -> None:
    strange = set(kinds) - {"discrete", "continuous"}
    if strange:
        raise DataError(f"kind {sorted(strange)[0]!r} is unknown", where=where, hint="discrete or continuous")


def _blocks(numbers: NDArray[Any], where: str) -> list[list[int]]:
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise DataError("blocks are whole numbers, one for each column of codes", where=where)
    return [np.flatnonzero(numbers == block).tolist() for block in np.unique(numbers[numbers >= 0])]


def _from_tables(codes: Path, factors: Path) -> CodesFile:
    points = _points(_columns(codes), codes)
    found = _columns(factors)
    rows = len(next(iter(found.values()), ()))
    if rows != len(points):
        raise DataError(f"{rows} rows of factors for {len(points)} codes", where=str(factors))
    arrays: dict[str, Any] = {}
    if SPLIT in found:
        words = np.array([str(word).strip().lower() for word in found.pop(SPLIT)])
        strange = set(words.tolist()) - {"train", "test", "", "nan"}
        if strange:
            raise DataError(f"split {sorted(strange)[0]!r} is neither train nor test", where=str(factors))
        arrays = {"train": words == "train", "test": words == "test"}
    if not found:
        raise DataError("there is no factor", where=str(factors))
    arrays["names"] = list(found)
    cells = np.stack(list(found.values()), axis=1)
    return CodesFile(points, cells, f"{codes} and {factors}", _digest(codes, factors), arrays)


def _points(columns: Mapping[str, NDArray[Any]], path: Path) -> NDArray[np.float64]:
    for name, column in columns.items():
        word = next((cell for cell in column if isinstance(cell, str)), None)
        if word is not None:
            raise DataError("codes are numbers", where=str(path), why=f"column {name!r} holds {word!r}")
    return np.stack([column.astype(np.float64) for column in columns.values()], axis=1)


def _columns(path: Path) -> dict[str, NDArray[Any]]:
    """The columns of a table, each numbers with NaN for missing, or text."""
    if path.suffix.lower() in SUFFIXES:
        columns = parquet_columns(path)
        if not len(next(iter(columns.values()), ())):
            raise DataError("there is no row", where=str(path))
        return columns
    names, rows = _table(path)
    if len(set(names)) != len(names):
        raise DataError("two columns have the same heading", where=str(path))
    return {name: _column([row[place] for row in rows]) for place, name in enumerate(names)}


def _column(texts: list[str]) -> NDArray[Any]:
    """Numbers with NaN for empty cells where all are numbers, else the text."""
    words = [text.strip() for text in texts]
    try:
        return np.array([float(word) if word else np.nan for word in words], dtype=object)
    except ValueError:
        return np.array(words, dtype=object)


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError("file is too large", where=str(path), why="at most 2 GiB are read")
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except OSError as error:
        raise DataError("file cannot be read", where=str(path), why=error.strerror or str(error)) from None
    except (ValueError, csv.Error) as error:
        raise DataError("not a CSV file", where=str(path), why=str(error)) from None
    rows = [row for row in rows if row]
    if len(rows) < 2:
        raise DataError("a line of headings and rows are expected", where=str(path))
    width = len(rows[0])
    for number, row in enumerate(rows[1:], start=2):
        if len(row) != width:
            raise DataError(f"{len(row)} cells where the headings are {width}", where=f"{path}: line {number}")
    return [name.strip() for name in rows[0]], rows[1:]
