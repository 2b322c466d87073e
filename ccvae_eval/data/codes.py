"""Codes and factors without images: an ``.npz`` of both, or a pair of CSV files."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.data.archives import read_arrays
from ccvae_eval.errors import DataError, UsageError

OPTIONAL = ("train", "test", "names", "kinds", "blocks", "block_names")
SPLIT = "split"
"""A column of the factors' CSV that says train or test is no factor."""

MOST_BYTES = 2 * 2**30
PARQUET = ("parquet", "pq", "feather", "arrow")


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
            column's block, shape (D,), -1 = a block of its own) and ``block_names``; or a CSV of numbers with one
            line of headings, with ``factors`` another CSV of as many rows, in which a column ``split`` may say train
            or test.

    Raises:
        DataError: missing, unreadable, or not what is expected.
        UsageError: an ``.npz`` with a second file, or a CSV without one.
    """
    suffix = codes.suffix.lower().lstrip(".")
    if suffix in PARQUET or (factors is not None and factors.suffix.lower().lstrip(".") in PARQUET):
        raise DataError(
            "parquet files are not read",
            where=str(codes),
            hint="Convert it: pandas.read_parquet(FILE).to_csv('codes.csv', index=False), and so for the factors.",
        )
    if suffix == "csv":
        if factors is None:
            raise UsageError("codes in a CSV need their factors in another", hint="--codes A.csv --factors B.csv")
        return _from_csv(codes, factors)
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


def _from_csv(codes: Path, factors: Path) -> CodesFile:
    _, numbers = _table(codes)
    try:
        points = np.array(numbers, dtype=np.float64)
    except ValueError as error:
        raise DataError("codes are numbers", where=str(codes), why=str(error)) from None
    names, rows = _table(factors)
    if len(rows) != len(points):
        raise DataError(f"{len(rows)} rows of factors for {len(points)} codes", where=str(factors))
    arrays: dict[str, Any] = {}
    if SPLIT in names:
        place = names.index(SPLIT)
        words = np.array([row[place].strip().lower() for row in rows])
        strange = set(words.tolist()) - {"train", "test", ""}
        if strange:
            raise DataError(f"split {sorted(strange)[0]!r} is neither train nor test", where=str(factors))
        arrays = {"train": words == "train", "test": words == "test"}
    columns = [i for i, name in enumerate(names) if name != SPLIT]
    if not columns:
        raise DataError("there is no factor", where=str(factors))
    arrays["names"] = [names[i] for i in columns]
    cells = np.empty((len(rows), len(columns)), dtype=object)
    for k, i in enumerate(columns):
        cells[:, k] = _column([row[i] for row in rows])
    return CodesFile(points, cells, f"{codes} and {factors}", _digest(codes, factors), arrays)


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
