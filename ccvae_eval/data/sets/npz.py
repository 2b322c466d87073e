"""``npz``: images and labels in an ``.npz`` file, and the safe reading of such files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError
from ccvae_eval.data.memory import InMemory, checked_arrays
from ccvae_eval.data.spec import Options, require_path

MAX_ARCHIVE_BYTES = 8 * 2**30
"""Limit of the unpacked size of an archive."""


def read_arrays(path: Path, required: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Read the arrays of an ``.npz``; a file with pickled objects is rejected without loading them.

    Raises:
        DataError: the file is missing, damaged or too large, contains pickled objects, or lacks a required array.
    """
    if not path.is_file():
        raise DataError("the file does not exist", where=str(path))
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_ARCHIVE_BYTES:
            raise DataError(f"the arrays have {size / 2**30:.1f} GiB unpacked, the limit is 8 GiB", where=str(path))
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, NotImplementedError, MemoryError) as error:
        raise DataError("the file is not a readable .npz of plain arrays", where=str(path), why=str(error)) from None
    missing = next((name for name in required if name not in found), None)
    if missing is not None:
        raise DataError(
            f"the array {missing!r} is missing",
            where=str(path),
            why=f"the file contains {', '.join(sorted(found)) or 'no arrays'}",
        )
    return found


class Npz(InMemory):
    """``npz:PATH``: an .npz file with the arrays ``images`` and ``labels``.

    Images are uint8 (N, H, W, C) or floats in [0, 1] (N, C, H, W), labels (N,) or (N, L). Optional arrays are
    ``names``, the names of the labels, and ``split``, the split of each image ("train", "judge", "test" or 0, 1, 2),
    which by default follows from a hash of the position. Labels of 0/1 or -1/1 are binary, other integer labels are
    categorical, other floats continuous.
    """

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        Options("npz", options).finish()
        file = Path(require_path("npz", path, "an .npz file"))
        arrays = read_arrays(file, ("images", "labels"))
        names, split = ([str(word) for word in arrays[k].ravel()] if k in arrays else None for k in ("names", "split"))
        return cls(*checked_arrays(arrays["images"], arrays["labels"], names, split, str(file)), f"npz:{path}")
