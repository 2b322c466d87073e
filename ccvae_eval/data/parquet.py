"""Tables in a parquet file, read by pyarrow where that is installed: the extra ``parquet``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.errors import DataError

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
