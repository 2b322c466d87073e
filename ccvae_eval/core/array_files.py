"""Untrusted .npz files: the header of an array is checked before memory is taken for it."""

from __future__ import annotations

import io
import math
import struct
import sys
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ccvae_eval.core.errors import InputError
from ccvae_eval.core.files import open_regular_file

SUFFIX = ".npy"
MAX_ARCHIVE_BYTES = 8 * 2**30
"""Limit of the unpacked size of an archive of images or codes."""
MAX_DIRECTORY_BYTES = 16 << 20
"""Limit of the directory of an archive, which is read whole before any of its entries."""
_END, _END64 = 22, 98
"""Size of the end record of an archive, and of it with the two zip64 records before it."""
_LOCAL = 30
"""Size of the record before each member, without its name and extra field, whose lengths end it."""
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


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
        self.headers: dict[str, str] = {name: self._read(name, header_only=True) for name in self}
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

    def _read(self, name: str, *, header_only: bool = False) -> Any:
        entry = self._entries[name]
        try:
            with self._archive.open(entry) as member:
                shape, _, dtype = _HEADERS[npy.read_magic(member)](member)
                size = math.prod(shape) * dtype.itemsize
                if dtype.hasobject:
                    raise ValueError("it holds Python objects, which are not loaded")
                if min(shape, default=0) < 0 or not dtype.itemsize or size != entry.file_size - member.tell():
                    raise ValueError(f"shape {shape} of type {dtype} does not fit its {entry.file_size:,} bytes")
                if header_only:
                    return f"{dtype} {' x '.join(map(str, shape)) or 'number'}"
                member.seek(0)
                return _with_unicode(npy.read_array(member, allow_pickle=False))
        except Exception as damage:  # a damaged member may raise anything in zipfile, zlib and the header's parser
            why = str(damage) or type(damage).__name__
            raise self.error("contains an unreadable array", where=f"{self.where}: {name}", why=why) from None

    def layout(self, name: str) -> ArrayLayout:
        """Shape, type and place of an array, to read parts of it."""
        entry, offset = self._entries[name], None
        with self.opened(name) as member:
            start = member.tell()
            member.seek(0)
            shape, by_columns, dtype = _HEADERS[npy.read_magic(member)](member)
        if by_columns and len(shape) > 1:
            raise self.error("is stored column by column", where=f"{self.where}: {name}", hint="Save it in C order.")
        if entry.compress_type == zipfile.ZIP_STORED and self._archive.fp is not None:
            self._archive.fp.seek(entry.header_offset)
            lengths = struct.unpack_from("<HH", self._archive.fp.read(_LOCAL), _LOCAL - 4)
            offset = entry.header_offset + _LOCAL + sum(lengths) + start
        return ArrayLayout(shape, dtype, offset, entry.CRC)

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

    def __getitem__(self, name: str) -> NDArray[Any]:
        found: NDArray[Any] = self._read(name)
        return found

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


def _with_unicode(array: NDArray[Any]) -> NDArray[Any]:
    """The array; refuses characters that Python cannot represent, which would fail when they are used."""
    if array.dtype.kind == "U":
        characters = array.astype(array.dtype.newbyteorder("=")).ravel().view(np.uint32)
        if int(characters.max(initial=0)) > sys.maxunicode:
            raise ValueError("it holds characters that are not Unicode")
    return array
