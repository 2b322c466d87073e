"""Reading ``.npz`` files: plain arrays only, and no more than the memory can hold."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.errors import DataError

MOST_BYTES = 8 * 2**30
"""Unpacked size of an archive that is still read."""


def read_arrays(path: Path, required: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz``; pickled objects in it are refused, never loaded.

    Raises:
        DataError: missing, unreadable, damaged, too large, or without a required array.
    """
    if not path.is_file():
        raise DataError("there is no such file", where=str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MOST_BYTES:
            raise DataError(f"{size / 2**30:.1f} GiB unpacked", where=str(path), why="at most 8 GiB are read")
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, NotImplementedError, MemoryError) as error:
        raise DataError("not a readable .npz of plain arrays", where=str(path), why=str(error)) from None
    missing = next((name for name in required if name not in found), None)
    if missing is not None:
        raise DataError(
            f"no array {missing!r}", where=str(path), why=f"it holds {', '.join(sorted(found)) or 'nothing'}"
        )
    return found
