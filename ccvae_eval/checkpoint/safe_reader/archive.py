"""The directory of a zip archive, believed only where every copy of a fact says the same.

``torch.save`` writes members without compression, one after the other from the first byte to the directory. Exactly
this is accepted, so that there is no room for overlapping, hidden, doubled or compressed members.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from .source import RefusedError, Source, shown, truncated

MOST_MEMBERS = 100_000
LONGEST_DIRECTORY = 32 << 20
END, END64, LOCATOR64, CENTRAL, LOCAL, DESCRIPTOR = (
    b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02", b"PK\x03\x04", b"PK\x07\x08",
)  # fmt: skip
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
ENCRYPTED, DESCRIBED, UTF8 = 1, 8, 1 << 11


@dataclass(frozen=True)
class Member:
    """One member: its name, where its bytes lie, and their checksum."""

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
    """The members by name, in the order in which they lie; their content is not read yet.

    Args:
        source: the file.
        recognise: shown all names first; raises if they are those of another kind of archive.

    Raises:
        RefusedError: compressed, encrypted, doubled, overlapping, misnamed or hidden members; two headers that
            disagree; an archive that does not fill its file.
    """
    start, size, count = _directory(source)
    directory = source.read(start, size)
    entries: list[_Entry] = []
    position = 0
    for _ in range(count):
        entry, position = _central(directory, position)
        entries.append(entry)
    if position != size:
        _broken("its directory is longer than its members")
    recognise([entry.name for entry in entries])
    entries.sort(key=lambda entry: entry.header)
    found: dict[str, Member] = {}
    expected = 0
    for entry in entries:
        if not entry.stored:
            raise RefusedError(
                "holds a compressed member", why="torch.save never compresses; a small file could fill the memory",
                member=entry.name, hint="Unpack it yourself, if you trust it, and save the tensors with torch.save.",
            )  # fmt: skip
        if entry.name in found:
            _broken("two members have the same name", entry.name)
        if entry.header != expected:
            _broken("members overlap" if entry.header < expected else "there are bytes between its members", entry.name)
        member = _local(source, entry)
        found[entry.name] = member
        expected = _end_of(source, entry, member)
    if expected != start:
        _broken("its members do not end where its directory begins")
    return found


def verify(source: Source, member: Member) -> None:
    """Compares a member's bytes with its checksum."""
    crc = 0
    for chunk in source.chunks(member.offset, member.size, member.name):
        crc = zlib.crc32(chunk, crc)
    if crc != member.crc:
        raise RefusedError("is damaged", why="a checksum is wrong", member=member.name, hint="Copy it again.")


def _directory(source: Source) -> tuple[int, int, int]:
    """Offset, size and number of entries of the directory."""
    if source.size < 22:
        raise truncated()
    end = source.size - 22
    tail = source.read(end, 22)
    if not tail.startswith(END):
        raise RefusedError(
            "is truncated",
            why="a zip archive without its end, or with bytes after it",
            hint="Copy or download it again.",
        )
    disk, first, here, count, size, start, comment = struct.unpack("<4H2IH", tail[4:])
    if comment or disk or first or here != count:
        _broken("it has a comment or several parts")
    if end >= 20 and source.read(end - 20, 4) == LOCATOR64:
        end, wide = _wide_end(source, end - 20)
        narrow = (count, size, start)
        if any(n not in (w, full) for n, w, full in zip(narrow, wide, (FULL16, FULL32, FULL32), strict=True)):
            _broken("its two ends disagree (zip64)")
        count, size, start = wide
    elif FULL32 in (size, start) or count == FULL16:
        _broken("its zip64 end is missing")
    if start + size != end:
        _broken("its directory does not end where the archive does")
    if count == 0 or count > MOST_MEMBERS or size > LONGEST_DIRECTORY:
        _broken(f"{count} members in {size} bytes of directory")
    return start, size, count


def _wide_end(source: Source, locator: int) -> tuple[int, tuple[int, int, int]]:
    """Offset of the zip64 end; its number of entries, size and offset of the directory."""
    disk, end, disks = struct.unpack("<IQI", source.read(locator + 4, 16))
    if disk or disks != 1 or end + 56 != locator:
        _broken("its zip64 locator points elsewhere")
    record = source.read(end, 56)
    length, _, _, disk, first, here, count, size, start = struct.unpack("<Q2H2I4Q", record[4:])
    if not record.startswith(END64) or length != 44 or disk or first or here != count:
        _broken("its zip64 end is malformed")
    return end, (count, size, start)


def _central(directory: bytes, position: int) -> tuple[_Entry, int]:
    """One entry of the directory, and where the next begins."""
    if position + 46 > len(directory) or directory[position : position + 4] != CENTRAL:
        _broken("an entry of its directory is malformed")
    fields = struct.unpack("<6H3I5H2I", directory[position + 4 : position + 46])
    flags, method, crc, packed, size = fields[2], fields[3], *fields[6:9]
    name_length, extra_length, comment_length, disk, header = *fields[9:13], fields[15]
    name_at = position + 46
    extra_at = name_at + name_length
    after = extra_at + extra_length + comment_length
    if after > len(directory):
        _broken("an entry of its directory is cut")
    name = _name(directory[name_at:extra_at])
    if comment_length or disk:
        _broken("a member has a comment or lies in another part", name)
    size, packed, header = _wide(directory[extra_at : extra_at + extra_length], (size, packed, header), name)
    if flags & ~(DESCRIBED | UTF8):
        _broken("a member is encrypted" if flags & ENCRYPTED else f"a member has the flags {flags:#x}", name)
    stored = method == 0 and packed == size
    return _Entry(name, directory[name_at:extra_at], flags, header, size, crc, stored), after


def _wide(extra: bytes, narrow: tuple[int, int, int], name: str) -> tuple[int, int, int]:
    """Size, packed size and offset, the 64-bit ones in place of those that say they did not fit."""
    wanted = [value == FULL32 for value in narrow]
    position, wide = 0, b""
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            wide += extra[position + 4 : position + 4 + length]
        position += 4 + length
    if position != len(extra) or len(wide) != 8 * sum(wanted):
        _broken("a member's zip64 sizes are malformed", name)
    values = iter(struct.unpack(f"<{len(wide) // 8}Q", wide))
    size, packed, header = (next(values) if far else value for value, far in zip(narrow, wanted, strict=True))
    return size, packed, header


def _name(raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        _broken("a member's name is not UTF-8")
    parts = name.split("/")
    if "\\" in name or not name.isprintable() or any(part in ("", ".", "..") for part in parts) or ":" in parts[0]:
        raise RefusedError("holds a member with a forbidden name", why=shown(name))
    return name


def _local(source: Source, entry: _Entry) -> Member:
    """Where the member's bytes begin, after checking that its own header agrees with the directory."""
    header = source.read(entry.header, 30, entry.name)
    _, flags, method, _, _, crc, packed, size, name_length, extra_length = struct.unpack("<5H3I2H", header[4:])
    name = source.read(entry.header + 30, name_length, entry.name)
    if not header.startswith(LOCAL) or name != entry.raw_name or flags != entry.flags or method != 0:
        _broken("a member's own header disagrees with the directory", entry.name)
    stated = (crc, packed, size)
    if stated != (0, 0, 0) or not flags & DESCRIBED:
        extra = source.read(entry.header + 30 + name_length, extra_length, entry.name)
        if FULL32 in (packed, size):
            size, packed, _ = _wide(extra, (size, packed, 0), entry.name)
        if (crc, packed, size) != (entry.crc, entry.size, entry.size):
            _broken("a member's own sizes disagree with the directory", entry.name)
    offset = entry.header + 30 + name_length + extra_length
    if offset + entry.size > source.size:
        raise truncated(entry.name)
    return Member(entry.name, offset, entry.size, entry.crc)


def _end_of(source: Source, entry: _Entry, member: Member) -> int:
    """Where the next member begins: after the bytes, and after the descriptor that may follow them."""
    end = member.offset + member.size
    if not entry.flags & DESCRIBED:
        return end
    for layout in ("<4s3I", "<4sI2Q"):
        length = struct.calcsize(layout)
        if end + length > source.size:
            break
        if struct.unpack(layout, source.read(end, length)) == (DESCRIPTOR, entry.crc, entry.size, entry.size):
            following = source.read(end + length, 4)
            if following in (LOCAL, CENTRAL):
                return end + length
    _broken("what follows a member disagrees with the directory", entry.name)
