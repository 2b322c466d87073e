"""``npz``: arrays of images and labels in one file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

from ccvae_eval.data.archives import read_arrays
from ccvae_eval.data.columns import labels_from_array
from ccvae_eval.data.memory import InMemory, pictures
from ccvae_eval.data.options import Options, require_path
from ccvae_eval.data.splits import split_by_column, split_by_name
from ccvae_eval.errors import DataError


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
