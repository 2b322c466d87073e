"""The format of torch before 0.1.10: a tar archive of the storages, the places of the tensors in them, and a pickle."""

from __future__ import annotations

import struct
from typing import Any, NoReturn

from .builders import build_record
from .opcodes import PickleParser
from .records import Global, Storage, Strided
from .source import RefusedError, Source, escaped, truncated
from .tree import described, stated_storage

BLOCK, RECORD = 512, 10_240
"""A member fills whole blocks, and the archive whole records."""
MEMBERS = ("sys_info", "pickle", "tensors", "storages")
MAX_PICKLE_BYTES = 64 << 20
MAX_RECORD_BYTES = 4096
"""Limit of the pickle that precedes each storage and each tensor."""
MAX_COUNT = 100_000
REBUILD = Global("torch._utils._rebuild_tensor")


def _broken(why: str, member: str = "") -> NoReturn:
    raise RefusedError("is a broken tar archive of torch", why=why, member=member)


class _Cursor:
    """Reads a member from its start to its end."""

    def __init__(self, source: Source, start: int, size: int, member: str) -> None:
        self.source, self.position, self.end, self.member = source, start, start + size, member

    def skip(self, length: int) -> int:
        """Moves on, and returns the position before."""
        if not 0 <= length <= self.end - self.position:
            raise truncated(self.member)
        self.position += length
        return self.position - length

    def numbers(self, layout: str) -> tuple[int, ...]:
        size = struct.calcsize(layout)
        return struct.unpack(layout, self.source.read(self.skip(size), size, self.member))

    def pickled(self) -> Any:
        length = min(MAX_RECORD_BYTES, self.end - self.position)
        parser = PickleParser(self.source.read(self.position, length, self.member), member=self.member)
        value = parser.parse()
        self.skip(parser.position)
        return value

    def count(self) -> int:
        value = self.pickled()
        if type(value) is not int or not 0 <= value <= MAX_COUNT:
            _broken("a malformed number of parts", self.member)
        return value

    def triple(self) -> tuple[Any, Any, Any]:
        value = self.pickled()
        if not isinstance(value, tuple) or len(value) != 3 or type(value[0]) is not int:
            _broken("a malformed part", self.member)
        return value

    def finish(self) -> None:
        if self.position != self.end:
            _broken("there are bytes after its last part", self.member)


def describe(source: Source) -> dict[str, Any]:
    """See :func:`.summary.describe`."""
    places = _members(source)
    missing = [name for name in MEMBERS[1:] if name not in places]
    if missing:
        raise RefusedError("is a tar archive, but not one of torch.save", why=f"it has no member {missing[0]}")
    storages, offsets = _storages(_Cursor(source, *places["storages"], "storages"))
    tensors = _tensors(_Cursor(source, *places["tensors"], "tensors"), storages)
    start, size = places["pickle"]
    if size > MAX_PICKLE_BYTES:
        raise RefusedError("is too complex", why=f"a pickle of {size:,} bytes")

    def referred(identifier: Any) -> Any:
        if isinstance(identifier, tuple) and identifier and isinstance(identifier[0], Global):
            return identifier[0]  # a class, with its source code
        if not isinstance(identifier, str) or identifier not in tensors:
            raise RefusedError("contains a persistent reference that is not a tensor", member="pickle")
        return tensors[identifier]

    parser = PickleParser(source.read(start, size, "pickle"), persistent=referred, member="pickle")
    root = parser.parse()
    if parser.position != size:
        _broken("there are bytes after its end", "pickle")
    return described(source.size, root, offsets, storages, parser.globals)


def _octal(digits: bytes) -> int:
    try:
        return int(digits.rstrip(b"\0 ") or b"0", 8)
    except ValueError:
        _broken("a malformed header")


def _members(source: Source) -> dict[str, tuple[int, int]]:
    """Position and size of each member. Links, folders, other names and overridden sizes are refused."""
    if source.size % RECORD:
        raise truncated()
    found: dict[str, tuple[int, int]] = {}
    position = 0
    while any(header := source.read(position, BLOCK)):
        stated, kind = header[148:156], header[156:157]
        if _octal(stated) != sum(header) - sum(stated) + 8 * ord(" "):
            _broken("a checksum does not match")
        name, size = escaped(header[:100].rstrip(b"\0").decode("latin1")), max(_octal(header[124:136]), 0)
        start, position = position + BLOCK, position + BLOCK + -(-size // BLOCK) * BLOCK
        if position > source.size:
            raise truncated(name)
        if kind == b"x":  # times of the next member with fractions of a second
            extra = source.read(start, size) if size <= MAX_RECORD_BYTES else b"size="
            if any(word in extra for word in (b"path=", b"size=", b"charset=", b"GNU.")):
                _broken("an extended header changes a name or a size", name)
        elif kind not in (b"0", b"\0") or name not in MEMBERS or name in found or any(header[345:500]):
            _broken("a member that torch does not write", name)
        else:
            found[name] = start, size
    if any(any(chunk) for chunk in source.chunks(position, source.size - position)):
        _broken("there are bytes after its end")
    return found


def _storages(cursor: _Cursor) -> tuple[dict[str, Storage], dict[str, int]]:
    """The storages by their key, and the positions of their bytes."""
    found: dict[str, Storage] = {}
    offsets = {}
    for _ in range(cursor.count()):
        key, location, kind = cursor.triple()
        (count,) = cursor.numbers("<q")
        storage = stated_storage({}, ("storage", kind, str(key), location, count))
        if storage.key in found:
            _broken("two storages have the same key", cursor.member)
        found[storage.key] = storage
        offsets[storage.key] = cursor.skip(storage.size)
    if cursor.pickled() != []:
        raise RefusedError("contains a view of a storage", why="only whole storages are read", member=cursor.member)
    cursor.finish()
    return found, offsets


def _tensors(cursor: _Cursor, storages: dict[str, Storage]) -> dict[str, Strided]:
    """The tensors by their key."""
    found: dict[str, Strided] = {}
    for _ in range(cursor.count()):
        key, storage, _ = cursor.triple()
        dimensions, _ = cursor.numbers("<ii")
        if not 0 <= dimensions <= 64 or str(storage) not in storages or str(key) in found:
            _broken("a malformed tensor", cursor.member)
        shape, strides = cursor.numbers(f"<{dimensions}q"), cursor.numbers(f"<{dimensions}q")
        (offset,) = cursor.numbers("<q")
        found[str(key)] = build_record(REBUILD, (storages[str(storage)], offset, shape, strides), cursor.member)
    cursor.finish()
    return found
