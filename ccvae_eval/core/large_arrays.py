"""Numbers of many images in temporary files, so that only those in use are in memory."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ccvae_eval.core.errors import InputError

MAX_IN_MEMORY = 16_384
"""Images whose numbers are kept in memory. Those of more images are kept in temporary files."""


_maps: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def mapped_array(shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """An array of zeros that is mapped from a temporary file; no side of ``shape`` may be 0.

    Its pages count as memory of the process from their first use until :func:`forget_pages`.

    Raises:
        InputError: the folder of temporary files is full.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    with tempfile.TemporaryFile() as file:
        try:
            _reserve(file.fileno(), size)
        except OSError as error:
            raise _full(error) from error
        mapped = mmap.mmap(file.fileno(), size)  # outlives the descriptor
    _maps.add(mapped)
    return np.frombuffer(mapped, dtype).reshape(shape)


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)  # a write to a page without room on the disk would end the process
    else:
        os.ftruncate(descriptor, size)


def forget_pages() -> None:
    """Gives the memory of all mapped arrays back to the system; their content stays in the files."""
    if hasattr(mmap, "MADV_DONTNEED"):
        for mapped in list(_maps):
            mapped.madvise(mmap.MADV_DONTNEED)


def _full(error: OSError) -> InputError:
    hint = "Make room, or set TMPDIR to a folder with more space."
    return InputError(
        "a temporary file cannot be written", where=tempfile.gettempdir(), why=error.strerror or "", hint=hint
    )


class OpenFile:
    """A duplicate of a file's descriptor, closed with this object."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = os.dup(descriptor)
        weakref.finalize(self, os.close, self.descriptor)


def _temporary_file() -> OpenFile:
    with tempfile.TemporaryFile() as file:
        return OpenFile(file.fileno())


def _bytes_of(array: NDArray[Any]) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8).data)


class LargeArray:
    """An array in a temporary file, which vanishes with the array.

    Rows are read and written by their position, not mapped: mapped pages would count as memory of the process. Several
    arrays may share a file.

    Args:
        shape, dtype: of the array, which is 0 at first.
        file: array whose file this one is appended to; None = a new file.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike, file: LargeArray | None = None) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._row = math.prod(shape[1:]) * self.dtype.itemsize
        self._file: OpenFile = _temporary_file() if file is None else file._file
        self._place = os.fstat(self._file.descriptor).st_size
        os.ftruncate(self._file.descriptor, self._place + shape[0] * self._row)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> NDArray[Any]:
        """Consecutive rows, or those of an index, as a new array."""
        if isinstance(rows, slice):
            first, last, _ = rows.indices(len(self))
            content = np.empty((max(last - first, 0), *self.shape[1:]), self.dtype)
            self._read(content, first)
            return content
        content = np.empty((len(rows), *self.shape[1:]), self.dtype)
        view, place, size, file = _bytes_of(content), self._place, self._row, self._file.descriptor
        for start, row in zip(range(0, len(view), size), rows.tolist(), strict=True):
            if os.preadv(file, [view[start : start + size]], place + row * size) != size:
                self._read(content[start // size : start // size + 1], row)
        return content

    def _read(self, rows: NDArray[Any], first: int) -> None:
        view, done = _bytes_of(rows), 0
        while done < len(view):
            done += os.preadv(self._file.descriptor, [view[done:]], self._place + first * self._row + done)

    def __setitem__(self, rows: slice | NDArray[Any], values: NDArray[Any] | float) -> None:
        """Assigns consecutive rows, or with all rows in memory those of a mask or an index.

        Raises:
            InputError: the folder of temporary files is full.
        """
        if not isinstance(rows, slice):
            whole = self[:]
            whole[rows] = values
            rows, values = slice(None), whole
        first, last, _ = rows.indices(len(self))
        shape = (max(last - first, 0), *self.shape[1:])
        content = np.ascontiguousarray(np.broadcast_to(np.asarray(values, self.dtype), shape))
        view = _bytes_of(content)
        place = self._place + first * self._row
        try:
            while view:
                done = os.pwrite(self._file.descriptor, view, place)
                view, place = view[done:], place + done
        except OSError as error:
            raise _full(error) from error


class LargeArrays(MutableMapping[str, NDArray[Any]]):
    """Arrays by name. One with more than ``MAX_IN_MEMORY`` rows is in a temporary file and is read at each use.

    Args:
        stored: arrays to begin with, which are not copied.
    """

    def __init__(self, stored: Mapping[str, NDArray[Any] | LargeArray] | None = None) -> None:
        self._arrays = dict(stored or {})

    def __setitem__(self, name: str, array: NDArray[Any]) -> None:
        if array.ndim and len(array) > MAX_IN_MEMORY:
            file = next((other for other in self._arrays.values() if isinstance(other, LargeArray)), None)
            stored = LargeArray(array.shape, array.dtype, file)
            stored[:] = array
            self._arrays[name] = stored
        else:
            self._arrays[name] = array

    def __getitem__(self, name: str) -> NDArray[Any]:
        found = self._arrays[name]
        return found[:] if isinstance(found, LargeArray) else found

    def __delitem__(self, name: str) -> None:
        del self._arrays[name]

    def __contains__(self, name: object) -> bool:
        return name in self._arrays  # that of MutableMapping would read the array

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)
