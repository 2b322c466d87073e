"""Untrusted MATLAB files (version 5), and ``svhn``, which is released as such."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError, listed
from ccvae_eval.core.files import open_regular_file
from ccvae_eval.data.images.decode import resized
from ccvae_eval.data.memory import InMemory
from ccvae_eval.data.sets.folder import MAX_EDGE, existing_path, full_spec
from ccvae_eval.data.sets.mnist import SCHEMA
from ccvae_eval.data.spec import Options
from ccvae_eval.data.splits import split_by_name, split_official

MAX_ARRAY_BYTES = 2**31
NUMBER_BYTES = MappingProxyType(
    {
        "logical": 1, "uint8": 1, "int8": 1, "uint16": 2, "int16": 2, "uint32": 4, "int32": 4, "single": 4,
        "uint64": 8, "int64": 8, "double": 8,
    }
)  # fmt: skip
"""Size of a number of each type of MATLAB."""


def matlab_arrays(path: Path, axes: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """The named arrays of numbers in a MATLAB file; their headers are read before memory is taken for them.

    Args:
        path: the file.
        axes: name and number of axes of each array.

    Raises:
        DataError: the file is damaged or of another version, or an array is missing, too large, or not as expected.
    """
    from scipy.io import loadmat, whosmat  # takes a while to import

    with open_regular_file(path, DataError):
        pass
    try:
        found = {name: (shape, kind) for name, shape, kind in whosmat(str(path))}
    except Exception as error:  # a damaged file may raise anything in SciPy
        why = str(error) or type(error).__name__
        raise DataError("the file is not a readable MATLAB file", where=str(path), why=why) from None
    for name, count in axes.items():
        if name not in found:
            why = f"the file contains {listed(sorted(found)) or 'no arrays'}"
            raise DataError(f"the array {name!r} is missing", where=str(path), why=why)
        shape, kind = found[name]
        if len(shape) != count or 0 in shape or kind not in NUMBER_BYTES:
            what = f"the array has the shape {shape} and type {kind}, expected numbers on {count} axes"
            raise DataError(what, where=f"{path}: {name}")
        if math.prod(shape) * NUMBER_BYTES[kind] > MAX_ARRAY_BYTES:
            raise DataError(
                "the array is too large", where=f"{path}: {name}", why=f"the limit is {MAX_ARRAY_BYTES:,} bytes"
            )
    try:
        arrays = loadmat(str(path), variable_names=list(axes))
    except Exception as error:  # as above
        why = str(error) or type(error).__name__
        raise DataError("the file is not a readable MATLAB file", where=str(path), why=why) from None
    return {name: np.asarray(arrays[name]) for name in axes}


TRAIN, TEST = "train_32x32.mat", "test_32x32.mat"
ZERO = 10
"""Label of the digit 0."""


class Svhn(InMemory):
    """``svhn:PATH[,size=32]``: house numbers (Netzer et al. 2011), with the label ``digit``, classes "0" to "9".

    PATH is the folder with ``train_32x32.mat`` and ``test_32x32.mat``, or one of these files. With both, the official
    split is kept and a quarter of train becomes the judge's; one file alone is split by a hash of the position. The
    label 10 of the files is the digit 0.
    """

    @classmethod
    def from_spec(cls, path: str | None, options: Mapping[str, str]) -> Self:
        read = Options("svhn", options)
        size = read.integer("size", 0, low=0, high=MAX_EDGE)
        read.finish()
        place = existing_path("svhn", path, f"the folder with {TRAIN} and {TEST}")
        files = [place] if place.is_file() else [place / name for name in (TRAIN, TEST) if (place / name).is_file()]
        if not files:
            raise DataError(
                "the folder contains no files of SVHN", where=str(place), hint=f"Expected {TRAIN} or {TEST}."
            )
        images, digits = zip(*(_numbers(file) for file in files), strict=True)
        if len({part.shape[1:] for part in images}) > 1:
            raise DataError(f"{TRAIN} and {TEST} have images of different shapes", where=str(place))
        pixels, labels = np.concatenate(images), np.concatenate(digits)
        if size:
            pixels = np.stack([resized(image, size) for image in pixels])
        is_test = np.repeat([file.name == TEST for file in files], [len(part) for part in digits])
        names = [str(row) for row in range(len(labels))]
        splits = split_by_name(names) if len(files) == 1 else split_official(is_test, names)
        shaped = np.ascontiguousarray(np.moveaxis(pixels, 3, 1))
        return cls(shaped, SCHEMA, labels[:, None], splits, full_spec("svhn", path, options))


def _numbers(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Images, shape (N, H, W, 3), and digits of one file."""
    arrays = matlab_arrays(path, {"X": 4, "y": 2})
    images, labels = arrays["X"], arrays["y"].ravel()
    if images.dtype != np.uint8 or images.shape[2] != 3 or len(labels) != images.shape[3]:
        what = f"images of shape {images.shape} and type {images.dtype} do not match {len(labels)} labels"
        raise DataError(what, where=str(path), hint="Expected X (32, 32, 3, N) of bytes (uint8) and y (N, 1).")
    if not np.isin(labels, np.arange(ZERO + 1)).all():
        raise DataError("digits must be from 1 to 10", where=f"{path}: y")
    return np.moveaxis(images, 3, 0), np.where(labels == ZERO, 0, labels).astype(np.float32)
