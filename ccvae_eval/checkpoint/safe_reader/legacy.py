"""The ``torch.save`` format before torch 1.6: a sequence of pickles, then the bytes of each storage."""

from __future__ import annotations

import struct
from functools import partial
from typing import Any

from .opcodes import PickleParser
from .records import Storage
from .source import RefusedError, Source, escaped, truncated
from .tree import described, storage_record
from .zipped import MAX_PICKLE_BYTES

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def describe(source: Source) -> dict[str, Any]:
    """See :func:`.summary.describe`."""
    content = source.read(0, min(source.size, MAX_PICKLE_BYTES))
    storages: dict[str, Storage] = {}
    names: dict[str, None] = {}
    position = 0

    def pickled(persistent: bool = False) -> Any:
        nonlocal position
        parser = PickleParser(content, position, partial(storage_record, storages) if persistent else None)
        value = parser.parse()
        position = parser.position
        names.update(parser.globals)
        return value

    magic = pickled()
    if type(magic) is not int or magic != MAGIC:
        raise RefusedError("is a pickle file, but not one of torch.save", why="the magic number is missing")
    version = pickled()
    if type(version) is not int or version != PROTOCOL:
        raise RefusedError("has an unsupported version of the legacy format", why=f"expected {PROTOCOL}")
    system = pickled()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise RefusedError("was saved on a big-endian machine", why="only little-endian files are supported")
    root = pickled(persistent=True)
    keys = pickled()
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys) or len(set(keys)) != len(keys):
        raise RefusedError("contains a malformed list of storages")
    if set(keys) != set(storages):
        raise RefusedError("lists other storages than its tensors use")
    offsets = _offsets(source, position, [storages[key] for key in keys])
    return described(source.size, root, offsets, storages, names)


def _offsets(source: Source, position: int, storages: list[Storage]) -> dict[str, int]:
    """The position of each storage. Its number of elements precedes it, and the storages fill the rest of the file."""
    found = {}
    for storage in storages:
        (count,) = struct.unpack("<q", source.read(position, 8))
        if count != storage.count:
            raise RefusedError("contains a storage of the wrong size", why=escaped(storage.key))
        found[storage.key] = position + 8
        position += 8 + storage.size
        if position > source.size:
            raise truncated()
    if position != source.size:
        raise RefusedError("has bytes after its end", why=f"{source.size - position:,} bytes")
    return found
