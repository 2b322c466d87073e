"""Grids of rendered and photographed objects: ``cars3d``, ``smallnorb``, ``falcor3d`` and ``isaac3d``."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.errors import DataError
from ccvae_eval.core.files import open_regular_file, read_regular_file
from ccvae_eval.core.types import Ids
from ccvae_eval.data.images.decode import MAX_IMAGE_BYTES, PixelArray, decode
from ccvae_eval.data.sets.grid.grid import Contents, Grid, counted_factors, grid_of
from ccvae_eval.data.sets.grid.rows import (
    MAX_TABLE_BYTES,
    ArrayRows,
    JoinedRows,
    NpzFile,
    Rows,
    array_in,
    require_rows,
    unpacked_rows,
)
from ccvae_eval.data.sets.matlab import matlab_arrays
from ccvae_eval.data.splits import Splits, split_official

CARS3D_FACTORS = (("elevation", 4), ("azimuth", 24), ("object_type", 183))
CARS_LIST = "list.txt"
MAX_CARS = 1024


class Cars3D(Grid):
    """``cars3d:PATH[,labels=A|B:continuous] [,size=64]``: 183 cars in 24 azimuths and 4 elevations (Reed et al. 2015).

    PATH is the unpacked ``nips2015-analogy-data.tar.gz`` (or the folder ``cars`` in it, with ``list.txt`` and
    ``car_001_mesh.mat`` and so on), or ``cars3d.npz``. The cars are in the order of ``list.txt``. Images have 128 x
    128 pixels; ``size=64`` is usual. MATLAB files are unpacked once into the cache, 0.9 GB.
    """

    name = "cars3d"
    expected = f"the folder with {CARS_LIST}, or cars3d.npz"

    @classmethod
    def read(cls, place: Path, sizes: Sequence[int]) -> Contents:
        del sizes
        folders = (place, place / "cars", place / "data" / "cars")
        folder = next((inner for inner in folders if (inner / CARS_LIST).is_file()), None)
        if folder is not None:
            return _cars(folder)
        path = place if place.is_file() else place / "cars3d.npz"
        if not path.is_file():
            raise DataError("the cars are missing", where=str(place), hint=f"Expected {CARS_LIST} or cars3d.npz.")
        rows, lead = NpzFile(path, ("images",)).rows("images", axes=0)
        views = math.prod(count for _, count in CARS3D_FACTORS[:2])
        counts = lead if len(lead) == len(CARS3D_FACTORS) else (4, 24, max(1, len(rows) // views))
        return Contents(counted_factors(CARS3D_FACTORS, counts, cls.name), rows)


def _cars(folder: Path) -> Contents:
    table = folder / CARS_LIST
    names = read_regular_file(table, MAX_TABLE_BYTES, DataError).decode("utf-8", "replace").split()
    files = [folder / f"{name.removesuffix('.mat')}.mat" for name in names]
    if not 0 < len(files) <= MAX_CARS or any(re.fullmatch(r"[\w.-]+", name) is None for name in names):
        raise DataError("the file is not a list of cars", where=str(table), hint="Expected lines like car_001_mesh.")
    first = _car(files[0], None)
    height, width, channels, azimuths, elevations = first.shape
    shape = (len(files) * azimuths * elevations, height, width, channels)

    def blocks() -> Iterator[PixelArray]:
        for file in files:
            yield _car(file, first.shape).transpose(4, 3, 0, 1, 2).reshape(-1, *shape[1:])

    newest = max((file.stat().st_mtime_ns for file in files if file.exists()), default=0)
    rows = unpacked_rows(table, str(folder), shape, blocks, str(newest))
    stored = np.arange(len(rows)).reshape(len(files), elevations, azimuths)  # the grid has the cars last
    factors = counted_factors(CARS3D_FACTORS, (elevations, azimuths, len(files)), Cars3D.name)
    return Contents(factors, rows, stored.transpose(1, 2, 0).reshape(-1))


def _car(file: Path, shape: tuple[int, ...] | None) -> NDArray[np.uint8]:
    """The images of one car, shape (H, W, 3, azimuths, elevations)."""
    images = matlab_arrays(file, {"im": 5})["im"]
    if images.dtype != np.uint8 or images.shape[2] != 3 or images.shape != (shape or images.shape):
        wanted = shape or (128, 128, 3, 24, 4)
        raise DataError(
            f"the images have the shape {images.shape} and type {images.dtype}",
            where=f"{file}: im",
            hint=f"Expected bytes (uint8) of shape {wanted}.",
        )
    return images


MATRIX_TYPES = {0x1E3D4C55: np.dtype(np.uint8), 0x1E3D4C54: np.dtype("<i4")}
"""Types of the binary matrices of small NORB, by their first four bytes."""
MAX_MATRIX_AXES = 8
STEREO = 2
CATEGORIES = ("animal", "human", "plane", "truck", "car")
NORB_FACTORS = ("category", "instance", "elevation", "azimuth", "lighting")
DEGREES_FROM, DEGREES, AZIMUTH_DEGREES = 30, 5, 10
NORB_MD5 = (
    "66054832f9accfe74a0f4c36a75bc0a2", "23c8b86101fbf0904a000b43d3ed2fd9", "51dee1210a742582ff607dfd94e332e3",
    "e4ad715691ed5a3a5f138751a4ceb071", "5aa791cd7e6016cf957ce9bdb93b8603", "a9454f3864d7fd4bb3ea7fc3eb84924e",
)  # fmt: skip
"""Of the compressed files."""


class SmallNorb(Grid):
    """``smallnorb:PATH[,labels=A|B:continuous] [,size=64]``: photographed toys (LeCun, Huang and Bottou 2004).

    PATH is the folder with ``smallnorb-...-training-dat.mat``, its ``-cat.mat`` and ``-info.mat``, and those of
    ``-testing-``, with or without ``.gz``. Images are those of the left camera, 96 x 96 pixels. With both parts the
    instances are 0 to 9, and the official testing part is the split test, whose instances are not in the others; one
    part alone is split by a hash. Azimuth and elevation are in degrees.
    """

    name = "smallnorb"
    expected = "the folder with smallnorb-5x46789x9x18x6x2x96x96-training-dat.mat, -cat.mat and -info.mat"

    @classmethod
    def read(cls, place: Path, sizes: Sequence[int]) -> Contents:
        del sizes
        parts = [part for part in (_norb_part(place, name) for name in ("training", "testing")) if part is not None]
        if not parts:
            hint = "Expected smallnorb-...-training-dat.mat[.gz] with its -cat.mat and -info.mat."
            raise DataError("the folder contains no files of small NORB", where=str(place), hint=hint)
        table = np.concatenate([part.table for part in parts])
        factors, order = grid_of(table, NORB_FACTORS, str(place), {"category": CATEGORIES})
        splits = None
        if len(parts) > 1:
            is_test = np.repeat([part.name == "testing" for part in parts], [len(part.rows) for part in parts])
            official = split_official(is_test, [str(row) for row in range(len(is_test))])
            splits = official if order is None else Splits(official.codes[order])
        rows = JoinedRows([part.rows for part in parts])
        files = tuple(file for part in parts for file in part.files if file.suffix == ".gz")
        return Contents(factors, rows, order, splits, files=files, official=NORB_MD5)


class _NorbPart(NamedTuple):
    name: str
    rows: Rows
    table: NDArray[np.float64]
    files: tuple[Path, ...]


def _norb_part(place: Path, name: str) -> _NorbPart | None:
    found = [_matrix_file(place, f"{name}-{kind}") for kind in ("dat", "cat", "info")]
    if found[0] is None:
        return None
    for path, kind in zip(found, ("dat", "cat", "info"), strict=True):
        if path is None:
            raise DataError(f"the file smallnorb-...-{name}-{kind}.mat is missing", where=str(place))
    images, categories, info = (cast("Path", path) for path in found)
    rows = _left_images(images)
    table = np.column_stack([_matrix(categories, (len(rows),)), _matrix(info, (len(rows), 4))]).astype(np.float64)
    table[:, 2] = DEGREES_FROM + DEGREES * table[:, 2]
    table[:, 3] *= AZIMUTH_DEGREES
    return _NorbPart(name, rows, table, (images, categories, info))


def _matrix_file(place: Path, end: str) -> Path | None:
    files = sorted(path for suffix in ("", ".gz") for path in place.glob(f"*-{end}.mat{suffix}"))
    return files[0] if files else None


def _opened(path: Path) -> BinaryIO:
    with open_regular_file(path, DataError):
        pass
    return cast("BinaryIO", gzip.open(path) if path.suffix == ".gz" else path.open("rb"))


def _matrix_head(file: BinaryIO, path: Path, kind: np.dtype[Any]) -> tuple[int, ...]:
    """The shape of a binary matrix, of which the header is read."""
    magic, axes = struct.unpack("<ii", file.read(8).ljust(8, b"\0"))
    if MATRIX_TYPES.get(magic) != kind or not 1 <= axes <= MAX_MATRIX_AXES:
        raise DataError(f"the file is not a binary matrix of type {kind}", where=str(path))
    stored = max(3, axes)  # at least three sizes are stored
    shape = struct.unpack(f"<{stored}i", file.read(4 * stored).ljust(4 * stored, b"\0"))[:axes]
    if min(shape) < 1:
        raise DataError("the file is damaged", where=str(path), why=f"its header gives the shape {shape}")
    return shape


DAMAGES = (OSError, EOFError, zlib.error)


def _matrix(path: Path, shape: tuple[int, ...]) -> NDArray[np.int32]:
    """A matrix of whole numbers of a known shape."""
    try:
        with _opened(path) as file:
            found = _matrix_head(file, path, np.dtype("<i4"))
            if found != shape:
                raise DataError(f"the matrix has the shape {found}, expected {shape}", where=str(path))
            content = file.read(4 * math.prod(shape) + 1)
    except DAMAGES as error:
        raise DataError("the file cannot be read", where=str(path), why=str(error)) from None
    if len(content) != 4 * math.prod(shape):
        raise DataError("the file is damaged", where=str(path), why=f"its header gives the shape {shape}")
    return np.frombuffer(content, "<i4").reshape(shape)


def _left_images(path: Path) -> Rows:
    try:
        with _opened(path) as file:
            shape = _matrix_head(file, path, np.dtype(np.uint8))
            start = file.tell()
    except DAMAGES as error:
        raise DataError("the file cannot be read", where=str(path), why=str(error)) from None
    if len(shape) != 4 or shape[1] != STEREO:
        raise DataError(f"the matrix has the shape {shape}, expected (N, 2, 96, 96)", where=str(path))
    count, _, height, width = shape
    require_rows((count, height, width), np.dtype(np.uint8), str(path))
    size = height * width
    if path.suffix != ".gz":
        pairs = array_in(path, str(path), start, shape)
        return ArrayRows(pairs.converted(lambda images: images[:, 0]), str(path))

    def blocks() -> Iterator[PixelArray]:
        try:
            with _opened(path) as file:
                file.seek(start)
                for content in iter(partial(file.read, STEREO * size), b""):
                    if len(content) < STEREO * size:
                        raise EOFError("it ends too early")
                    yield np.frombuffer(content, np.uint8)[:size].reshape(1, height, width)
        except DAMAGES as error:
            raise DataError("the file is damaged", where=str(path), why=str(error)) from None

    return unpacked_rows(path, str(path), (count, height, width), blocks)


class Numbered:
    """PNG files that are named by their numbers: ``000000.png`` and so on."""

    def __init__(self, folder: Path, digits: int, count: int) -> None:
        self.folder, self.where, self._digits, self._count = folder, str(folder), digits, count
        self.shape: tuple[int, ...] = self._decoded(0).shape

    def __len__(self) -> int:
        return self._count

    def read(self, ids: Ids) -> PixelArray:
        images = np.empty((len(ids), *self.shape), np.uint8)
        for image, index in zip(images, ids.tolist(), strict=True):
            found = self._decoded(index)
            if found.shape != self.shape:
                where = f"{self.folder / self._name(index)}"
                raise DataError(f"the image has the shape {found.shape}, the first one {self.shape}", where=where)
            image[:] = found
        return images

    def _name(self, index: int) -> str:
        return f"{index:0{self._digits}d}.png"

    def _decoded(self, index: int) -> PixelArray:
        path = self.folder / self._name(index)
        return decode(read_regular_file(path, MAX_IMAGE_BYTES, DataError), str(path))


class NumberedGrid(Grid):
    """Base class of grids in PNG files whose number is the combination of factors."""

    has_sizes = True
    expected = "the folder with images/000000.png and so on"
    known: ClassVar[tuple[tuple[str, int], ...]]

    @classmethod
    def read(cls, place: Path, sizes: Sequence[int]) -> Contents:
        factors = counted_factors(cls.known, sizes, cls.name)
        folder = place / "images" if (place / "images").is_dir() else place
        names = (
            [path.name for path in folder.iterdir() if re.fullmatch(r"\d+\.png", path.name)] if folder.is_dir() else []
        )
        if not names:
            raise DataError(
                "the folder contains no numbered images", where=str(folder), hint=f"Expected {cls.expected}."
            )
        wanted = math.prod(len(factor.values) for factor in factors)
        digits = len(names[0]) - len(".png")
        lacking = set(range(wanted)) - {int(name.removesuffix(".png")) for name in names if len(name) == digits + 4}
        if lacking:
            example = f"{min(lacking):0{digits}d}.png"
            raise DataError(
                f"{len(lacking):,} of {wanted:,} images are missing",
                where=str(folder),
                why=f"the first is {example}",
                hint="Write the numbers of values of a part of the grid as sizes="
                + "|".join(str(count) for _, count in cls.known),
            )
        return Contents(factors, Numbered(folder, digits, wanted))


class Falcor3D(NumberedGrid):
    """``falcor3d:PATH[,labels=A|B:continuous] [,size=64] [,sizes=...]``: a living room (Nie et al. 2020).

    PATH is the folder with ``images/000000.png`` to ``images/233279.png``, or ``images`` itself. The number of an image
    is its combination of lighting_intensity (5 values), lighting_x, lighting_y, lighting_z, camera_x, camera_y and
    camera_z (6 values each), the last one fastest.
    """

    name = "falcor3d"
    known = (
        ("lighting_intensity", 5), ("lighting_x", 6), ("lighting_y", 6), ("lighting_z", 6), ("camera_x", 6),
        ("camera_y", 6), ("camera_z", 6),
    )  # fmt: skip


class Isaac3D(NumberedGrid):
    """``isaac3d:PATH[,labels=A|B:continuous] [,size=64] [,sizes=...]``: a robot arm in a kitchen (Nie et al. 2020).

    PATH is the folder with ``images/000000.png`` to ``images/737279.png``, or ``images`` itself. The number of an image
    is its combination of object_shape (3 values), robot_x (8), robot_y (5), camera_height, object_scale and
    lighting_intensity (4 each), lighting_y (6), object_color and wall_color (4 each), the last one fastest. The README
    of the data names the factors otherwise; this is the order of the images.
    """

    name = "isaac3d"
    known = (
        ("object_shape", 3), ("robot_x", 8), ("robot_y", 5), ("camera_height", 4), ("object_scale", 4),
        ("lighting_intensity", 4), ("lighting_y", 6), ("object_color", 4), ("wall_color", 4),
    )  # fmt: skip
