"""The format of ``torch.save`` before torch 1.6: pickles one after the other, then the bytes of each storage."""

from __future__ import annotations

import struct
from typing import Any

from .builders import STORAGE_TYPES
from .opcodes import Walker
from .records import Storage
from .source import RefusedError, Source, shown, truncated
from .tree import TreeEncoder, located_on, storage_of
from .zipped import LONGEST_PICKLE

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def describe(source: Source) -> dict[str, Any]:
    """See :func:`.describing.describe`."""
    content = source.read(0, min(source.size, LONGEST_PICKLE))
    storages: dict[str, Storage] = {}
    names: dict[str, None] = {}
    position = 0

    def pickled(persistent: bool = False) -> Any:
        nonlocal position
        known = (lambda identifier: storage_of(identifier, storages, STORAGE_TYPES)) if persistent else None
        walker = Walker(content, position, known)
        value = walker.walk()
        position = walker.position
        names.update(walker.globals)
        return value

    magic = pickled()
    if type(magic) is not int or magic != MAGIC:
        raise RefusedError("is a pickle, but none that torch.save writes", why="its magic number is missing")
    version = pickled()
    if type(version) is not int or version != PROTOCOL:
        raise RefusedError("is of an unknown version of the old format", why=f"expected {PROTOCOL}")
    system = pickled()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise RefusedError("was saved on a big-endian machine", why="its numbers would have to be turned around")
    root = pickled(persistent=True)
    keys = pickled()
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys) or len(set(keys)) != len(keys):
        raise RefusedError("has a malformed list of storages")
    if set(keys) != set(storages):
        raise RefusedError("lists other storages than it refers to")
    offsets = _offsets(source, position, [storages[key] for key in keys])
    planter = TreeEncoder(source.size)
    tree = planter.encode(root)
    return {
        "storages": [[offsets[storage.key], storage.size] for storage in planter.storages],
        "tensors": planter.rows,
        "tree": tree,
        "globals": list(names),
        "notes": located_on(storages),
    }


def _offsets(source: Source, position: int, storages: list[Storage]) -> dict[str, int]:
    """Where each storage's bytes begin: each has its number of elements before it, and they fill the file."""
    found = {}
    for storage in storages:
        (count,) = struct.unpack("<q", source.read(position, 8))
        if count != storage.count:
            raise RefusedError("holds a storage of another size than it says", why=shown(storage.key))
        found[storage.key] = position + 8
        position += 8 + storage.size
        if position > source.size:
            raise truncated()
    if position != source.size:
        raise RefusedError("has bytes after its end", why=f"{source.size - position:,}")
    return found
