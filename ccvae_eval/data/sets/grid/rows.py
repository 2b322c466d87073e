"""Images of one size in large files, of which only those that are asked for are read."""

from __future__ import annotations

import io
import logging
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ccvae_eval.core.array_files import BLOCK_BYTES, ArrayFile, DiskArray
from ccvae_eval.core.errors import DataError, listed, optional_module
from ccvae_eval.core.files import cache_folder, open_regular_file
from ccvae_eval.core.types import Ids
from ccvae_eval.data.images.decode import PixelArray

log = logging.getLogger(__name__)

MAX_BYTES = 2**36
"""Limit of the unpacked size of a file of images."""
MAX_TABLE_BYTES = 2**28
"""Limit of a table of labels."""
MAX_ROW_BYTES = 2**25
HELD_BYTES = 2**27
"""Images of a compressed file that take less are held in memory; others are unpacked into the cache."""
MAX_BAND_BYTES = 2**29
"""Limit of the images that share chunks of an HDF5 file, which are unpacked together."""
DIRECT_ROWS = 16
"""Chunks of an HDF5 file that hold at most so many whole images are read in place."""

Blocks = Callable[[], Iterator[PixelArray]]


class Rows(Protocol):
    """Images of one shape, by their position in a file."""

    where: str
    shape: tuple[int, ...]
    """Shape of one image: (H, W) or (H, W, C)."""

    def __len__(self) -> int: ...

    def read(self, ids: Ids) -> PixelArray:
        """Some of the images, shape (N, H, W) or (N, H, W, C)."""
        ...


class ArrayRows:
    """The images of an array, in memory or on disk."""

    def __init__(self, images: PixelArray | DiskArray, where: str) -> None:
        self.images, self.where, self.shape = images, where, images.shape[1:]

    def __len__(self) -> int:
        return len(self.images)

    def read(self, ids: Ids) -> PixelArray:
        return self.images[ids]


def array_in(path: Path, where: str, offset: int, shape: tuple[int, ...]) -> DiskArray:
    """An array of bytes that lies uncompressed in a file, from a position on.

    Raises:
        DataError: the file is shorter than that.
    """
    with open_regular_file(path, DataError) as descriptor:
        end, size = offset + math.prod(shape), os.fstat(descriptor).st_size
        if size < end:
            why = f"its header gives {end:,} bytes, it contains {size:,}"
            raise DataError("the file is damaged", where=where, why=why)
        return DiskArray(descriptor, offset, shape, np.dtype(np.uint8), where, DataError)


class JoinedRows:
    """The images of several files, one file after the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self.parts, self.where, self.shape = parts, parts[0].where, parts[0].shape
        self.starts = np.cumsum([0, *map(len, parts)])
        odd = next((part for part in parts if part.shape != self.shape), None)
        if odd is not None:
            raise DataError(f"images have the shape {odd.shape}, in {self.where} {self.shape}", where=odd.where)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, ids: Ids) -> PixelArray:
        images = np.empty((len(ids), *self.shape), np.uint8)
        owner = np.searchsorted(self.starts, ids, side="right") - 1
        for number, part in enumerate(self.parts):
            here = np.flatnonzero(owner == number)
            images[here] = part.read(ids[here] - self.starts[number])
        return images


def require_rows(shape: Sequence[int], dtype: np.dtype[Any], where: str) -> None:
    """Refuse an array that does not hold images of bytes, or that is too large."""
    fits = len(shape) >= 3 and all(shape) and (len(shape) == 3 or shape[-1] in (1, 3))
    if dtype != np.uint8 or not fits:
        raise DataError(
            f"images have the shape {tuple(shape)} and type {dtype}",
            where=where,
            hint="Expected bytes (uint8) of shape (N, H, W) or (N, H, W, C) with 1 or 3 channels.",
        )
    if math.prod(shape) > MAX_BYTES or math.prod(shape[1:]) > MAX_ROW_BYTES:
        why = f"the limits are {MAX_BYTES:,} bytes in all and {MAX_ROW_BYTES:,} for an image"
        raise DataError(f"the images have {math.prod(shape):,} bytes", where=where, why=why)


def _require_table(shape: Sequence[int], dtype: np.dtype[Any], count: int, where: str) -> None:
    if len(shape) != 2 or shape[0] != count or not shape[1] or dtype.kind not in "iuf":
        hint = f"Expected numbers, one row for each of {count:,} images."
        raise DataError(f"the labels have the shape {tuple(shape)} and type {dtype}", where=where, hint=hint)
    if math.prod(shape) * dtype.itemsize > MAX_TABLE_BYTES:
        raise DataError("the table of labels is too large", where=where, why=f"the limit is {MAX_TABLE_BYTES:,} bytes")


def unpacked_rows(path: Path, where: str, shape: tuple[int, ...], blocks: Blocks, version: str = "") -> Rows:
    """The images of a compressed file: in memory if they are small, else unpacked once into a file of the cache.

    Args:
        path: the compressed file.
        where: its name for errors.
        shape: number of images, and shape of one.
        blocks: gives the images in their order.
        version: text that changes with the content of the file.
    """
    size = math.prod(shape)
    if size <= HELD_BYTES:
        images, done = np.empty(shape, np.uint8), 0
        for block in _complete(blocks, shape[0], where):
            images[done : done + len(block)], done = block, done + len(block)
        return ArrayRows(images, where)
    folder, status = cache_folder(), path.stat()
    if folder is None:
        raise DataError("the file cannot be unpacked", where=where, why="there is no home folder for the cache")
    key = repr((str(path.resolve()), status.st_size, status.st_mtime_ns, where, shape, version))
    target = folder / f"images-{blake2b(key.encode('utf-8', 'surrogateescape'), digest_size=12).hexdigest()}.bin"
    if not target.is_file() or target.stat().st_size != size:
        _unpack(target, size, where, partial(_complete, blocks, shape[0], where))
    return ArrayRows(array_in(target, where, 0, shape), where)


def _complete(blocks: Blocks, count: int, where: str) -> Iterator[PixelArray]:
    """The blocks; refuses more or fewer images than ``count``."""
    done = 0
    for block in blocks():
        done += len(block)
        if done <= count:
            yield block
    if done != count:
        raise DataError(
            "the file is damaged", where=where, why=f"it contains {done:,} images, its header gives {count:,}"
        )


def _unpack(target: Path, size: int, where: str, blocks: Blocks) -> None:
    unfinished = target.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < size:
            raise DataError(
                "the images do not fit on the disk",
                where=where,
                why=f"unpacked they have {size:,} bytes, {target.parent} has {free:,} left",
                hint="Name a folder on another disk in XDG_CACHE_HOME, or save the array uncompressed (numpy.savez).",
            )
        log.warning("%s is compressed. Its images are unpacked once, %s to %s.", where, _gigabytes(size), target)
        with unfinished.open("xb") as file:
            for block in blocks():
                file.write(np.ascontiguousarray(block).data)
        unfinished.replace(target)
    except OSError as error:
        why = error.strerror or str(error)
        raise DataError("the images cannot be unpacked", where=where, why=f"{target.parent}: {why}") from None
    finally:
        with suppress(OSError):
            unfinished.unlink()


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


class NpzFile:
    """The arrays of an .npz that are named here; others, which may hold pickled objects, are not looked at.

    Raises:
        DataError: here and in every method: the file is damaged or lacks an array.
    """

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        self._file = ArrayFile(path, limit=MAX_BYTES, error=DataError, only=names)
        self.path = path

    def rows(self, name: str, axes: int = 1) -> tuple[Rows, tuple[int, ...]]:
        """The images of an array, and the sizes of their leading axes.

        Args:
            name: name of the array.
            axes: number of the axes that count images; 0 = all but the last three.
        """
        where = self._require(name)
        layout = self._file.layout(name)
        lead = layout.shape[: axes or -3]
        shape = (math.prod(lead), *layout.shape[len(lead) :])
        require_rows(shape, layout.dtype, where)
        if layout.offset is not None:
            return ArrayRows(array_in(self.path, where, layout.offset, shape), where), lead
        return unpacked_rows(self.path, where, shape, self._blocks(name, shape), str(layout.checksum)), lead

    def _blocks(self, name: str, shape: tuple[int, ...]) -> Blocks:
        def blocks() -> Iterator[PixelArray]:
            size = math.prod(shape[1:])
            most = max(1, BLOCK_BYTES // size)
            with self._file.opened(name) as member:
                for first in range(0, shape[0], most):
                    count = min(most, shape[0] - first)
                    content = member.read(count * size)
                    if len(content) < count * size:
                        raise EOFError("it ends too early")
                    yield np.frombuffer(content, np.uint8).reshape(count, *shape[1:])
                member.read(1)  # compares the checksum

        return blocks

    def table(self, name: str, count: int) -> NDArray[np.float64]:
        """A table of labels, shape (count, K)."""
        where = self._require(name)
        layout = self._file.layout(name)
        _require_table(layout.shape, layout.dtype, count, where)
        return np.asarray(self._file[name], np.float64)

    def _require(self, name: str) -> str:
        if name not in self._file:
            raise DataError(f"the array {name!r} is missing", where=str(self.path))
        return f"{self.path}: {name}"


class _Reopened(io.RawIOBase):
    """A file that is opened for each read, since pyfive leaves files open when it fails."""

    def __init__(self, path: Path) -> None:
        self.path, self._place = str(path), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._place}.get(whence)
        self._place = offset + (Path(self.path).stat().st_size if start is None else start)
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        with open_regular_file(Path(self.path), DataError) as descriptor:
            count = os.preadv(descriptor, [buffer], self._place)
        self._place += count
        return count


class Hdf5File:
    """The arrays of an HDF5 file. Reading it needs pyfive, which the extra ``hdf5`` installs.

    Raises:
        DataError: here and in every method: pyfive is missing, or the file is damaged or lacks an array.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_regular_file(path, DataError):
            pass
        pyfive = optional_module("pyfive", "hdf5", where=str(path), error=DataError)
        try:
            self._file = pyfive.File(_Reopened(path))
            self.names = tuple(map(str, self._file))
        except Exception as error:  # a damaged file may raise anything in pyfive
            raise self._damaged(error) from None

    def _damaged(self, error: Exception, name: str = "") -> DataError:
        where = f"{self.path}: {name}" if name else str(self.path)
        return DataError("the HDF5 file cannot be read", where=where, why=str(error) or type(error).__name__)

    def _array(self, name: str) -> Any:
        try:
            found = self._file[name]
            if not hasattr(found, "shape"):
                raise KeyError(name)
            return found
        except KeyError:
            why = f"the file contains {listed(sorted(self.names)) or 'no arrays'}"
            raise DataError(f"the array {name!r} is missing", where=str(self.path), why=why) from None
        except Exception as error:
            raise self._damaged(error, name) from None

    def rows(self, name: str, axes: int = 1) -> tuple[Rows, tuple[int, ...]]:
        """The images of an array, and the sizes of their leading axes; see :meth:`NpzFile.rows`."""
        array, where = self._array(name), f"{self.path}: {name}"
        try:
            whole = tuple(map(int, array.shape))
            lead = whole[: axes or -3]
            shape = (math.prod(lead), *whole[len(lead) :])
            require_rows(shape, np.dtype(array.dtype), where)
            if array.id.layout_class == CONTIGUOUS:
                return ArrayRows(array_in(self.path, where, int(array.id.data_offset), shape), where), lead
            if len(lead) == 1 and array.chunks[0] <= DIRECT_ROWS and tuple(array.chunks[1:]) == shape[1:]:
                return ChunkedRows(array, where), lead
        except DataError:
            raise
        except Exception as error:
            raise self._damaged(error, name) from None
        return unpacked_rows(self.path, where, shape, self._bands(array, name, shape)), lead

    def _bands(self, array: Any, name: str, shape: tuple[int, ...]) -> Blocks:
        """Blocks of images that share chunks, since a chunk may hold a part of each of thousands of images."""

        def blocks() -> Iterator[PixelArray]:
            try:
                lead, inner = array.chunks[0] if array.chunks else array.shape[0], math.prod(array.shape[1:])
                if lead * inner > MAX_BAND_BYTES:
                    raise ValueError(f"its chunks span {lead * inner:,} bytes, the limit is {MAX_BAND_BYTES:,}")
                step = lead * max(1, BLOCK_BYTES // (lead * inner))
                for first in range(0, array.shape[0], step):
                    yield np.asarray(array[first : first + step], np.uint8).reshape(-1, *shape[1:])
            except (DataError, GeneratorExit):
                raise
            except Exception as error:
                raise self._damaged(error, name) from None

        return blocks

    def table(self, name: str, count: int) -> NDArray[np.float64]:
        """A table of labels, shape (count, K)."""
        array = self._array(name)
        try:
            _require_table(array.shape, np.dtype(array.dtype), count, f"{self.path}: {name}")
            return np.asarray(array[:], np.float64)
        except DataError:
            raise
        except Exception as error:
            raise self._damaged(error, name) from None


CONTIGUOUS = 1
"""Storage class of HDF5 for an array that is stored in one piece."""


class ChunkedRows:
    """Images of an HDF5 file in chunks of a few whole images."""

    def __init__(self, array: Any, where: str) -> None:
        self.array, self.where, self.shape = array, where, tuple(map(int, array.shape[1:]))

    def __len__(self) -> int:
        return int(self.array.shape[0])

    def read(self, ids: Ids) -> PixelArray:
        images = np.empty((len(ids), *self.shape), np.uint8)
        for image, index in zip(images, ids.tolist(), strict=True):
            try:
                image[:] = self.array[index]
            except Exception as error:  # as above
                why = str(error) or type(error).__name__
                raise DataError("the HDF5 file cannot be read", where=f"{self.where}[{index}]", why=why) from None
        return images


def open_arrays(path: Path, names: Sequence[str]) -> NpzFile | Hdf5File:
    """Open an .npz or an HDF5 file, by its ending; of an .npz only the named arrays are looked at."""
    return Hdf5File(path) if path.suffix.lower() in HDF5_SUFFIXES else NpzFile(path, names)


HDF5_SUFFIXES = (".h5", ".hdf5")
