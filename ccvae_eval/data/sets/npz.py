"""``npz``: images and labels in an ``.npz`` file, and the safe reading of such files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from ccvae_eval.core.array_files import MAX_ARCHIVE_BYTES, ArrayFile
from ccvae_eval.core.errors import DataError, listed
from ccvae_eval.data.memory import InMemory, checked_arrays
from ccvae_eval.data.spec import Options, require_path


def read_arrays(path: Path, required: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Read the arrays of an ``.npz``; a file with pickled objects is rejected without loading them.

    Raises:
        DataError: the file is missing, damaged or too large, contains pickled objects, or lacks a required array.
    """
    found = dict(ArrayFile(path, limit=MAX_ARCHIVE_BYTES, error=DataError))
    missing = next((name for name in required if name not in found), None)
    if missing is not None:
        raise DataError(
            f"the array {missing!r} is missing",
            where=str(path),
            why=f"the file contains {listed(sorted(found)) or 'no arrays'}",
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
