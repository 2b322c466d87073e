"""``npz``: arrays of images and labels in one file.

Reading ``.npz`` files: plain arrays only, and no more than the memory can hold.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError
from ccvae_eval.data.labels.columns import labels_from_array
from ccvae_eval.data.memory import InMemory, pictures
from ccvae_eval.data.spec import Options, require_path
from ccvae_eval.data.splits import split_by_column, split_by_name

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


class Npz(InMemory):
    """``npz:PATH``: ``images`` (N, H, W, C) of bytes or (N, C, H, W) of floats in [0, 1], ``labels`` (N,) or (N, L).

    Optional arrays: ``names`` of the labels and ``split`` of each image ("train", "judge", "test" or 0, 1, 2); without
    one the split is by a hash of the position. Integer labels beyond 0/1 are classes, floats are continuous.
    """

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        Options("npz", options).finish()
        file = Path(require_path("npz", path, "an .npz file"))
        arrays = read_arrays(file, ("images", "labels"))
        where = str(file)
        names = [str(name) for name in arrays["names"].ravel()] if "names" in arrays else None
        schema, labels = labels_from_array(arrays["labels"], names, where)
        positions = [str(i) for i in range(len(labels))]
        splits = split_by_name(positions)
        if "split" in arrays:
            words = [str(word) for word in arrays["split"].ravel()]
            if len(words) != len(labels):
                raise DataError(f"{len(words)} splits, but {len(labels)} images", where=where)
            splits = split_by_column(words, positions, where)
        return cls(pictures(arrays["images"], where), schema, labels, splits, f"npz:{path}")
