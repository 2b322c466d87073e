"""``npz``: images and labels in an ``.npz`` file, and the safe reading of such files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.array_files import UNLIMITED, ArrayFile
from ccvae_eval.core.errors import DataError, listed
from ccvae_eval.data.memory import InMemory, checked_arrays
from ccvae_eval.data.spec import Options, require_path
from ccvae_eval.data.splits import SPLIT_ALIASES

MAX_ARRAYS_BYTES = 3 << 28
"""Limit of arrays that are needed as a whole, such as codes."""
MAX_HELD_BYTES = 1 << 28
"""Images beyond this size stay on disk."""
MAX_IMAGES = 1 << 24
MAX_LABELS = 50_000_000
"""Limit of the cells of an array of labels."""
MAX_NAMES = 100_000


def open_arrays(path: Path, required: Sequence[str]) -> ArrayFile:
    """Open the arrays of an ``.npz``; each is read when it is used.

    Raises:
        DataError: the file is missing or damaged, contains pickled objects, or lacks a required array.
    """
    found = ArrayFile(path, limit=UNLIMITED, error=DataError)
    missing = next((name for name in required if name not in found), None)
    if missing is not None:
        raise DataError(
            f"the array {missing!r} is missing",
            where=str(path),
            why=f"the file contains {listed(sorted(found)) or 'no arrays'}",
        )
    return found


def read_arrays(
    path: Path, required: Sequence[str], optional: Sequence[str] | None = None, limit: int | None = None
) -> dict[str, NDArray[Any]]:
    """Read arrays of an ``.npz`` as a whole.

    Args:
        path: the file.
        required: names of arrays that must be there.
        optional: names of arrays that may be there; None = all others.
        limit: most bytes of these arrays together; None = ``MAX_ARRAYS_BYTES``.

    Raises:
        DataError: as :func:`open_arrays`, or the arrays are too large.
    """
    found = open_arrays(path, required)
    names = [name for name in found if optional is None or name in required or name in optional]
    require_size(found, names, MAX_ARRAYS_BYTES if limit is None else limit)
    return {name: found[name] for name in names}


def require_size(arrays: ArrayFile, names: Sequence[str], limit: int) -> None:
    """Raise a ``DataError`` if the named arrays are larger than the limit, before they are read."""
    size = sum(arrays.size(name) for name in names)
    if size > limit:
        raise DataError(
            "contains arrays that are too large",
            where=arrays.where,
            why=f"{listed(sorted(names))}: {size:,} bytes unpacked, the limit is {limit:,}",
            hint="Keep fewer rows, or a smaller type such as float32 or int8.",
        )


def require_few_names(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise a ``DataError`` if there are too many names of labels or latent dimensions for objects of Python."""
    for name in ("names", "kinds", "columns", "blocks", "block_names"):
        if name in arrays and arrays[name].size > MAX_NAMES:
            raise DataError(f"{name} must have at most {MAX_NAMES:,} elements", where=str(path))


class Npz(InMemory):
    """``npz:PATH``: an .npz file with the arrays ``images`` and ``labels``.

    Images are uint8 (N, H, W, C) or floats in [0, 1] (N, C, H, W), labels (N,) or (N, L). Optional arrays are
    ``names``, the names of the labels, and ``split``, the split of each image ("train", "judge", "test" or 0, 1, 2),
    which by default follows from a hash of the position. Labels of 0/1 or -1/1 are binary, other integer labels are
    categorical, other floats continuous.

    Images of more than 256 MiB are not held in memory. They are read from the file when they are used, or, if it is
    compressed, from a temporary file that is as large as the images.
    """

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        Options("npz", options).finish()
        file = Path(require_path("npz", path, "an .npz file"))
        arrays = open_arrays(file, ("images", "labels"))
        require_size(arrays, ["labels"], 8 * MAX_LABELS)
        labels = arrays["labels"]
        if len(np.atleast_1d(labels)) > MAX_IMAGES or math.prod(labels.shape) > MAX_LABELS:
            raise DataError(
                f"labels of shape {labels.shape} are too large",
                where=str(file),
                why=f"the limits are {MAX_IMAGES:,} images and {MAX_LABELS:,} labels",
            )
        names = None
        if "names" in arrays:
            require_size(arrays, ["names"], MAX_ARRAYS_BYTES)
            found = arrays["names"]
            require_few_names(file, {"names": found})
            names = [str(word) for word in found.ravel()]
        held = arrays.size("images") <= MAX_HELD_BYTES
        images = arrays["images"] if held else arrays.on_disk("images")
        return cls(*checked_arrays(images, labels, names, _split(arrays, len(labels)), str(file)), f"npz:{path}")


def _split(arrays: ArrayFile, rows: int) -> NDArray[np.str_] | None:
    """The name of the split of each image, if the file has them."""
    if "split" not in arrays:
        return None
    require_size(arrays, ["split"], MAX_ARRAYS_BYTES // 2)
    distinct, index = np.unique(arrays["split"].ravel(), return_inverse=True)
    words = [str(word) for word in distinct[: len(SPLIT_ALIASES) + 1]]
    if len(index) != rows:
        raise DataError(f"{len(index)} splits, but {rows} images", where=arrays.where)
    return np.array(words)[np.minimum(index, len(words) - 1)]
