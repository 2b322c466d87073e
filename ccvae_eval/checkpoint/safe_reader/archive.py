"""The directory of a zip archive, accepted only if all redundant fields agree.

``torch.save`` writes uncompressed members one after the other, from the first byte of the file to the directory. Only
this layout is accepted, which excludes overlapping, hidden, duplicate and compressed members.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from .source import RefusedError, Source, escaped, truncated

MAX_MEMBERS = 100_000
MAX_DIRECTORY_BYTES = 32 << 20
END, END64, LOCATOR64, CENTRAL, LOCAL, DESCRIPTOR = (
    b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02", b"PK\x03\x04", b"PK\x07\x08",
)  # fmt: skip
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
ENCRYPTED, HAS_DESCRIPTOR, UTF8 = 1, 8, 1 << 11
FOLDER = 0x10
"""Bit of the attributes of a folder on DOS. ``torch.load`` leaves the memory of such a member as it was."""


@dataclass(frozen=True)
class Member:
    """A member of the archive: name, position, size and checksum of its bytes."""

    name: str
    offset: int
    size: int
    crc: int


@dataclass(frozen=True)
class _Entry:
    name: str
    raw_name: bytes
    flags: int
    header: int
    size: int
    crc: int
    stored: bool


def _broken(why: str, member: str = "") -> NoReturn:
    raise RefusedError("is a broken zip archive", why=why, member=member)


def members(source: Source, recognise: Callable[[list[str]], None]) -> dict[str, Member]:
    """Returns the members by name, in file order, without reading their content.

    ``recognise`` is called with all names first and raises if they belong to another kind of archive.

    Raises:
        RefusedError: compressed, encrypted, duplicate, overlapping, misnamed or hidden members, contradicting headers,
            or bytes outside the archive.
    """
    start, size, count = _directory(source)
    directory = source.read(start, size)
    entries: list[_Entry] = []
    position = 0
    for _ in range(count):
        entry, position = _directory_entry(directory, position)
        entries.append(entry)
    if position != size:
        _broken("its directory is longer than its entries")
    recognise([entry.name for entry in entries])
    entries.sort(key=lambda entry: entry.header)
    found: dict[str, Member] = {}
    expected = 0
    for entry in entries:
        if not entry.stored:
            raise RefusedError(
                "contains a compressed member", why="torch.save never compresses; its content could fill the memory",
                member=entry.name, hint="If you trust the file, unpack it and save the tensors with torch.save.",
            )  # fmt: skip
        if entry.name in found:
            _broken("two members have the same name", entry.name)
        if entry.header != expected:
            _broken("members overlap" if entry.header < expected else "there are bytes between members", entry.name)
        member = _check_local_header(source, entry)
        found[entry.name] = member
        expected = _end_of_member(source, entry, member)
    if expected != start:
        _broken("its members do not end where its directory begins")
    return found


def verify(source: Source, member: Member) -> None:
    """Verifies the checksum of a member."""
    crc = 0
    for chunk in source.chunks(member.offset, member.size, member.name):
        crc = zlib.crc32(chunk, crc)
    if crc != member.crc:
        raise RefusedError(
            "is damaged", why="a checksum does not match", member=member.name, hint="Copy or download it again."
        )


def _directory(source: Source) -> tuple[int, int, int]:
    """Offset, size and number of entries of the directory."""
    if source.size < 22:
        raise truncated()
    end = source.size - 22
    tail = source.read(end, 22)
    if not tail.startswith(END):
        why = "the end of the zip archive is missing, or other bytes follow it"
        raise RefusedError("is truncated", why=why, hint="Copy or download it again.")
    disk, first, here, count, size, start, comment = struct.unpack("<4H2IH", tail[4:])
    if comment or disk or first or here != count:
        _broken("it has a comment or consists of several files")
    if end >= 20 and source.read(end - 20, 4) == LOCATOR64:
        end, wide = _zip64_end(source, end - 20)
        narrow = (count, size, start)
        if any(n not in (w, full) for n, w, full in zip(narrow, wide, (FULL16, FULL32, FULL32), strict=True)):
            _broken("its end record and its zip64 end record disagree")
        count, size, start = wide
    elif FULL32 in (size, start) or count == FULL16:
        _broken("its zip64 end record is missing")
    if start + size != end:
        _broken("its directory does not end where the archive does")
    if count == 0 or count > MAX_MEMBERS or size > MAX_DIRECTORY_BYTES:
        _broken(f"its directory has {count} members in {size} bytes")
    return start, size, count


def _zip64_end(source: Source, locator: int) -> tuple[int, tuple[int, int, int]]:
    """Offset of the zip64 end record; number of entries, size and offset of the directory from it."""
    disk, end, disks = struct.unpack("<IQI", source.read(locator + 4, 16))
    if disk or disks != 1 or end + 56 != locator:
        _broken("its zip64 locator does not point to the zip64 end record")
    record = source.read(end, 56)
    length, _, _, disk, first, here, count, size, start = struct.unpack("<Q2H2I4Q", record[4:])
    if not record.startswith(END64) or length != 44 or disk or first or here != count:
        _broken("its zip64 end record is malformed")
    return end, (count, size, start)


def _directory_entry(directory: bytes, position: int) -> tuple[_Entry, int]:
    """One entry of the directory, and the position of the next."""
    if position + 46 > len(directory) or directory[position : position + 4] != CENTRAL:
        _broken("an entry of its directory is malformed")
    fields = struct.unpack("<6H3I5H2I", directory[position + 4 : position + 46])
    flags, method, crc, packed, size = fields[2], fields[3], *fields[6:9]
    name_length, extra_length, comment_length, disk, header = *fields[9:13], fields[15]
    name_at = position + 46
    extra_at = name_at + name_length
    after = extra_at + extra_length + comment_length
    if after > len(directory):
        _broken("an entry of its directory is truncated")
    name = _name(directory[name_at:extra_at])
    if comment_length or disk:
        _broken("a member has a comment or lies in another file", name)
    if fields[14] & FOLDER:
        _broken("a member claims to be a folder, which torch would not read", name)
    size, packed, header = _zip64_sizes(directory[extra_at : extra_at + extra_length], (size, packed, header), name)
    if flags & ~(HAS_DESCRIPTOR | UTF8):
        _broken("a member is encrypted" if flags & ENCRYPTED else f"a member has the flags {flags:#x}", name)
    stored = method == 0 and packed == size
    return _Entry(name, directory[name_at:extra_at], flags, header, size, crc, stored), after


def _zip64_sizes(extra: bytes, narrow: tuple[int, int, int], name: str) -> tuple[int, int, int]:
    """Size, packed size and offset, with the 64-bit values in place of saturated 32-bit ones."""
    wanted = [value == FULL32 for value in narrow]
    position, long = 0, b""
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            long += extra[position + 4 : position + 4 + length]
        position += 4 + length
    if position != len(extra) or len(long) != 8 * sum(wanted):
        _broken("a member's zip64 sizes are malformed", name)
    values = iter(struct.unpack(f"<{len(long) // 8}Q", long))
    size, packed, header = (next(values) if far else value for value, far in zip(narrow, wanted, strict=True))
    return size, packed, header


def _name(raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        _broken("a member's name is not UTF-8")
    parts = name.split("/")
    if "\\" in name or not name.isprintable() or any(part in ("", ".", "..") for part in parts) or ":" in parts[0]:
        raise RefusedError("contains a member with a forbidden name", why=escaped(name))
    return name


def _check_local_header(source: Source, entry: _Entry) -> Member:
    """The position of the member's bytes, after checking that its own header agrees with the directory."""
    header = source.read(entry.header, 30, entry.name)
    _, flags, method, _, _, crc, packed, size, name_length, extra_length = struct.unpack("<5H3I2H", header[4:])
    name = source.read(entry.header + 30, name_length, entry.name)
    if not header.startswith(LOCAL) or name != entry.raw_name or flags != entry.flags or method != 0:
        _broken("a member's own header disagrees with the directory", entry.name)
    stated = (crc, packed, size)
    if stated != (0, 0, 0) or not flags & HAS_DESCRIPTOR:
        extra = source.read(entry.header + 30 + name_length, extra_length, entry.name)
        if FULL32 in (packed, size):
            size, packed, _ = _zip64_sizes(extra, (size, packed, 0), entry.name)
        if (crc, packed, size) != (entry.crc, entry.size, entry.size):
            _broken("a member's own sizes disagree with the directory", entry.name)
    offset = entry.header + 30 + name_length + extra_length
    if offset + entry.size > source.size:
        raise truncated(entry.name)
    return Member(entry.name, offset, entry.size, entry.crc)


def _end_of_member(source: Source, entry: _Entry, member: Member) -> int:
    """The end of the member: of its bytes, or of the data descriptor that may follow them."""
    end = member.offset + member.size
    if not entry.flags & HAS_DESCRIPTOR:
        return end
    for layout in ("<4s3I", "<4sI2Q"):
        length = struct.calcsize(layout)
        if end + length > source.size:
            break
        if struct.unpack(layout, source.read(end, length)) == (DESCRIPTOR, entry.crc, entry.size, entry.size):
            following = source.read(end + length, 4)
            if following in (LOCAL, CENTRAL):
                return end + length
    _broken("a member's data descriptor disagrees with the directory", entry.name)
