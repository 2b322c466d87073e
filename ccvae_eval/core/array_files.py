"""Untrusted .npz files: an array's header is checked before memory is taken for it, and large arrays stay on disk."""

from __future__ import annotations

import io
import math
import os
import shutil
import struct
import sys
import tempfile
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Self, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ccvae_eval.core.errors import InputError
from ccvae_eval.core.files import open_regular_file
from ccvae_eval.core.large_arrays import OpenFile

SUFFIX = ".npy"
UNLIMITED = sys.maxsize
"""Limit of an archive of which single arrays are read, each with its own limit."""
MAX_UNPACKED_BYTES = 8 * 2**30
"""Limit of a compressed array that is unpacked into a temporary file; one without compression may have any size."""
BLOCK_BYTES = 16 << 20
"""Size of the pieces in which a large array is read."""
MAX_ROW_BYTES = 64 << 20
"""Limit of one row of an array on disk."""
MAX_DIRECTORY_BYTES = 16 << 20
"""Limit of the directory of an archive, which is read whole before any of its entries."""
_END, _END64 = 22, 98
"""Size of the end record of an archive, and of it with the two zip64 records before it."""
_LOCAL = 30
"""Size of the record before each member, without its name and extra field, whose lengths end it."""
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}

Header = tuple[tuple[int, ...], bool, np.dtype[Any]]
"""Shape, True for Fortran order, and type of an array."""


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """Shape and type of an array in an archive, and its place.

    Args:
        shape: its shape, in the order of C.
        dtype: type of its numbers.
        offset: position of its first byte in the archive; None if it is compressed.
        checksum: CRC-32 of the member, as stated by the archive.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int | None
    checksum: int


class ArrayFile(Mapping[str, NDArray[Any]]):
    """The arrays of an .npz by name, each read when it is used. Members that are not ``NAME.npy`` are ignored.

    Args:
        source: path of a regular file, or its content.
        where: name of the file for errors, if only the content is given.
        limit: most bytes of all arrays together.
        error: class of the errors.
        only: names of the arrays to look at; all others, which may be damaged or hold objects, are ignored.

    Raises:
        InputError: of class ``error``, here or when an array is used: the file is not an archive or is damaged, an
            array holds objects or has another size than its header states, or the arrays exceed the limit.
    """

    def __init__(
        self,
        source: Path | bytes,
        where: str = "",
        *,
        limit: int,
        error: type[InputError] = InputError,
        only: Collection[str] | None = None,
    ) -> None:
        self.where, self.error = where if isinstance(source, bytes) else str(source), error
        if isinstance(source, Path):
            with open_regular_file(source, error):
                pass  # zipfile would wait for a pipe
        try:
            file: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
            with file:
                self._require_directory(file)
            self._archive = zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source)
        except (OSError, ValueError, struct.error, zipfile.BadZipFile, NotImplementedError) as damage:
            raise error("is not a readable .npz archive", where=self.where, why=str(damage)) from None
        entries = [entry for entry in self._archive.infolist() if entry.filename.endswith(SUFFIX)]
        if only is not None:
            entries = [entry for entry in entries if entry.filename.removesuffix(SUFFIX) in only]
        self._entries = {entry.filename.removesuffix(SUFFIX): entry for entry in entries}
        if len(self._entries) < len(entries):
            raise error("contains two arrays of the same name", where=self.where)
        size = sum(entry.file_size for entry in entries)
        if size > limit:
            why = f"{size:,} bytes unpacked, the limit is {limit:,}"
            raise error("contains arrays that are too large", where=self.where, why=why)
        self.headers: dict[str, str] = {name: self._read(name, _in_words) for name in self}
        """Type and shape of each array, in words."""

    @staticmethod
    def _require_directory(file: BinaryIO) -> None:
        """Refuses a directory that takes long to read, by both of the sizes that an archive may state."""
        file.seek(-min(file.seek(0, io.SEEK_END), _END64), io.SEEK_END)
        tail = file.read().rjust(_END64, b"\0")
        sizes = struct.unpack_from("<I", tail, _END64 - _END + 12) + struct.unpack_from("<Q", tail, 40)
        if not tail[_END64 - _END :].startswith(b"PK\x05\x06"):
            raise ValueError("the end of the zip archive is missing, or other bytes follow it")
        wide = tail.startswith(b"PK\x06\x06")
        if (sizes[1] if wide else sizes[0]) > MAX_DIRECTORY_BYTES:
            raise ValueError(f"its directory has more than {MAX_DIRECTORY_BYTES:,} bytes")

    def _read(self, name: str, use: Callable[[IO[bytes], Header, int], Any]) -> Any:
        """What ``use`` makes of a member, its header and the place where its content begins."""
        entry = self._entries[name]
        try:
            with self._archive.open(entry) as member:
                shape, is_fortran, dtype = _HEADERS[npy.read_magic(member)](member)
                size = math.prod(shape) * dtype.itemsize
                if dtype.hasobject:
                    raise ValueError("it holds Python objects, which are not loaded")
                if min(shape, default=0) < 0 or not dtype.itemsize or size != entry.file_size - member.tell():
                    raise ValueError(f"shape {shape} of type {dtype} does not fit its {entry.file_size:,} bytes")
                return use(member, (shape, is_fortran, dtype), member.tell())
        except self.error:
            raise
        except Exception as damage:  # a damaged member may raise anything in zipfile, zlib and the header's parser
            why = str(damage) or type(damage).__name__
            raise self.error("contains an unreadable array", where=f"{self.where}: {name}", why=why) from None

    def layout(self, name: str) -> ArrayLayout:
        """Shape, type and place of an array, to read parts of it."""
        entry = self._entries[name]

        def of(_member: IO[bytes], header: Header, start: int) -> ArrayLayout:
            shape, is_fortran, dtype = header
            if is_fortran and len(shape) > 1:
                where = f"{self.where}: {name}"
                raise self.error("is stored column by column", where=where, hint="Save it in C order.")
            is_stored = entry.compress_type == zipfile.ZIP_STORED
            return ArrayLayout(shape, dtype, self._place(entry) + start if is_stored else None, entry.CRC)

        found: ArrayLayout = self._read(name, of)
        return found

    def _place(self, entry: zipfile.ZipInfo) -> int:
        """Position of the first byte of an uncompressed member in the archive."""
        archive: Any = self._archive.fp
        archive.seek(entry.header_offset)
        name, extra = struct.unpack_from("<2H", archive.read(_LOCAL), _LOCAL - 4)
        return entry.header_offset + _LOCAL + int(name) + int(extra)

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """The bytes of an array after its header, to be read in order; damage becomes the error of the file."""
        try:
            with self._archive.open(self._entries[name]) as member:
                _HEADERS[npy.read_magic(member)](member)
                yield cast("BinaryIO", member)
        except InputError:
            raise
        except Exception as damage:  # as in _read
            why = str(damage) or type(damage).__name__
            raise self.error("contains an unreadable array", where=f"{self.where}: {name}", why=why) from None

    def size(self, name: str) -> int:
        """Unpacked size of an array in bytes."""
        return self._entries[name].file_size

    def on_disk(self, name: str) -> DiskArray:
        """A large array of numbers whose rows are read when they are used; the file must be given by its path.

        All bytes are read once, in pieces, to compare the checksum. A compressed array is unpacked into a temporary
        file without a name, which vanishes with the process.

        Raises:
            InputError: of class ``error``: the array is unreadable, holds text or has too large rows, or there is no
                space for it.
        """
        entry, where = self._entries[name], f"{self.where}: {name}"

        def rows(member: IO[bytes], header: Header, start: int) -> DiskArray:
            shape, is_fortran, dtype = header
            if dtype.kind not in "biuf" or not shape:
                raise self.error(f"must be an array of numbers, got {_in_words(member, header, start)}", where=where)
            row = math.prod(shape[1:]) * dtype.itemsize
            if row > MAX_ROW_BYTES:
                what = f"has {row:,} bytes for each of its {shape[0]:,} rows, the limit is {MAX_ROW_BYTES:,}"
                raise self.error(what, where=where)
            if entry.compress_type == zipfile.ZIP_STORED and not is_fortran:
                while member.read(BLOCK_BYTES):
                    pass  # the checksum is compared at the end
                archive: Any = self._archive.fp
                return DiskArray(archive.fileno(), self._place(entry) + start, shape, dtype, where, self.error)
            with self._space(where, entry.file_size) as unpacked:
                shutil.copyfileobj(member, unpacked, BLOCK_BYTES)
                unpacked.flush()
                stored = shape[::-1] if is_fortran else shape
                found = DiskArray(unpacked.fileno(), 0, stored, dtype, where, self.error)
            if not is_fortran:
                return found
            with self._space(where, entry.file_size) as transposed:
                for block in found.transposed_blocks():
                    transposed.write(block)
                transposed.flush()
                return DiskArray(transposed.fileno(), 0, shape, dtype, where, self.error)

        found: DiskArray = self._read(name, rows)
        return found

    def _space(self, where: str, size: int) -> IO[bytes]:
        """A temporary file without a name; refuses an array that is too large for it."""
        folder, limit = tempfile.gettempdir(), MAX_UNPACKED_BYTES
        free = shutil.disk_usage(folder).free
        if size > min(free, limit):
            why = f"the limit is {limit:,}" if size > limit else f"{folder} has {free:,} free"
            hint = "Save it without compression: numpy.savez(FILE, images=numpy.ascontiguousarray(images), ...)."
            raise self.error("is too large to be unpacked", where=where, why=f"{size:,} bytes, {why}", hint=hint)
        return tempfile.TemporaryFile()

    def __getitem__(self, name: str) -> NDArray[Any]:
        def content(member: IO[bytes], _header: Header, _start: int) -> NDArray[Any]:
            member.seek(0)
            return _with_unicode(npy.read_array(member, allow_pickle=False))

        found: NDArray[Any] = self._read(name, content)
        return found

    def __contains__(self, name: object) -> bool:
        return name in self._entries  # that of Mapping would read the array

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self),)

    def under(self, prefix: str, *without: str) -> ArrayFile:
        """The arrays ``prefix/NAME`` by NAME, but for those named ``without``."""
        found, start = object.__new__(ArrayFile), f"{prefix}/"
        found.where, found.error, found._archive = self.where, self.error, self._archive
        named = {name.removeprefix(start): entry for name, entry in self._entries.items() if name.startswith(start)}
        found._entries = {name: entry for name, entry in named.items() if name not in without}
        found.headers = {name: self.headers[start + name] for name in found._entries}
        return found


class DiskArray:
    """An array on disk, of which only the rows in use are in memory.

    Rows are read by their position, not mapped: mapped pages would count as memory of the process.

    Args:
        descriptor: of a file; it is duplicated, and closed with the last array of this file.
        place: position of the first row in the file.
        shape, dtype: of the array.
        where, error: name for errors, and their class.
    """

    def __init__(
        self,
        descriptor: int,
        place: int,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        where: str,
        error: type[InputError],
    ) -> None:
        self._file, self._place, self._raw, self._type = _UnchangedFile(descriptor), place, shape, dtype
        self._where, self._error = where, error
        self._convert: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray
        self.shape, self.dtype = shape, dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, ids: NDArray[np.int64]) -> NDArray[Any]:
        """The rows with these ids, as a new array.

        Raises:
            InputError: the file has changed.
        """
        return self._convert(self._rows((int(row), 1) for row in ids))

    def blocks(self) -> Iterator[NDArray[Any]]:
        """All rows in order, in pieces of about 16 MiB."""
        count = self._block_rows(self._raw)
        for start in range(0, len(self), count):
            yield self._convert(self._rows([(start, min(count, len(self) - start))]))

    def converted(self, convert: Callable[[NDArray[Any]], NDArray[Any]]) -> Self:
        """The array whose rows are those of this one after a function of several rows."""
        found = copy(self)
        found._convert = convert
        none = convert(self._rows([]))
        found.shape, found.dtype = (len(self), *none.shape[1:]), none.dtype
        return found

    def transposed_blocks(self) -> Iterator[bytes]:
        """The bytes of the transposed array in C order, in pieces of about 16 MiB."""
        *others, last = self._raw
        width, count = self._type.itemsize, self._block_rows(self._raw[::-1])
        for start in range(0, last, count):
            part = min(count, last - start)
            lines = range(math.prod(others))
            found = b"".join(self._bytes((line * last + start) * width, part * width) for line in lines)
            yield np.frombuffer(found, self._type).reshape(*others, part).T.tobytes()

    def _block_rows(self, shape: tuple[int, ...]) -> int:
        return max(1, BLOCK_BYTES // max(1, math.prod(shape[1:]) * self._type.itemsize))

    def _rows(self, ranges: Iterable[tuple[int, int]]) -> NDArray[Any]:
        """Consecutive rows, given by the first one and their number."""
        size = math.prod(self._raw[1:]) * self._type.itemsize
        found = bytearray().join(self._bytes(first * size, count * size) for first, count in ranges)
        return np.frombuffer(found, self._type).reshape(-1 if size else 0, *self._raw[1:])

    def _bytes(self, start: int, size: int) -> bytes:
        content = os.pread(self._file.descriptor, size, self._place + start)
        if len(content) != size or self._file.state() != self._file.opened:
            raise self._error("has changed since it was opened", where=self._where)
        return content


class _UnchangedFile(OpenFile):
    """An open file that nobody may write to."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor)
        self.opened = self.state()

    def state(self) -> tuple[int, int]:
        """Size and time of the file, which stay while nobody writes to it."""
        found = os.fstat(self.descriptor)
        return found.st_size, found.st_mtime_ns


def blocks_of(array: NDArray[Any] | DiskArray) -> Iterator[NDArray[Any]]:
    """All rows in order: an array in memory as a whole, one on disk in pieces."""
    return array.blocks() if isinstance(array, DiskArray) else iter([array])


def _in_words(_member: IO[bytes], header: Header, _start: int) -> str:
    shape, _, dtype = header
    return f"{dtype} {' x '.join(map(str, shape)) or 'number'}"


def _with_unicode(array: NDArray[Any]) -> NDArray[Any]:
    """The array; refuses characters that Python cannot represent, which would fail when they are used."""
    if array.dtype.kind == "U":
        characters = array.astype(array.dtype.newbyteorder("=")).ravel().view(np.uint32)
        if int(characters.max(initial=0)) > sys.maxunicode:
            raise ValueError("it holds characters that are not Unicode")
    return array
