"""The two formats of ``torch.save``.

Since torch 1.6 a file is a zip archive with a pickle and the bytes of each storage. Before, it was a sequence of
pickles (the legacy format), followed by the bytes of each storage.
"""

from __future__ import annotations

import struct
from functools import partial
from typing import Any

from .archive import Member, members, verify
from .builders import EXPORT_HINT, SCRIPT_HINT
from .opcodes import PickleParser
from .records import Storage
from .source import RefusedError, Source, escaped, truncated
from .tree import described, storage_record

MAX_PICKLE_BYTES = 64 << 20
_EXPECTED = ("data.pkl", "version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id")


def describe(source: Source) -> dict[str, Any]:
    """See :func:`.summary.describe`."""
    inside, notes = _contents(source)
    for member in inside.values():
        verify(source, member)
    if "byteorder" in inside and _content(source, inside["byteorder"]) != b"little":
        raise RefusedError("was saved on a big-endian machine", why="only little-endian files are supported")
    storages: dict[str, Storage] = {}
    parser = PickleParser(
        _content(source, inside["data.pkl"]),
        persistent=partial(storage_record, storages),
        member=inside["data.pkl"].name,
    )
    root = parser.parse()
    if parser.position != len(parser.content):
        raise RefusedError("is a broken pickle", why="there are bytes after its end", member=inside["data.pkl"].name)
    for key, storage in storages.items():
        place = inside.get(f"data/{key}")
        if place is None:
            raise RefusedError("lacks a storage of its tensors", why=f"data/{escaped(key)}")
        if place.size != storage.size:
            why = f"{place.size:,} bytes instead of {storage.size:,}"
            raise RefusedError("contains a storage of the wrong size", why=why, member=place.name)
    offsets = {key: inside[f"data/{key}"].offset for key in storages}
    description = described(source.size, root, offsets, storages, parser.globals)
    return {**description, "notes": [*notes, *description["notes"]]}


def _reject_other_archives(names: list[str]) -> None:
    """Refuses archives of other formats."""
    inside = [name.partition("/")[2] for name in names]
    if any(name.startswith("code/") or name in ("constants.pkl", "bytecode.pkl") for name in inside):
        raise RefusedError("is a TorchScript archive, not a checkpoint", why="TorchScript is code", hint=SCRIPT_HINT)
    if any(
        name.endswith(("archive_format", "serialized_exported_program.json")) or name.startswith("models/")
        for name in (*names, *inside)
    ):
        raise RefusedError("is an exported program (.pt2), not a checkpoint", hint=EXPORT_HINT)
    if all(name.endswith(".npy") for name in names):
        raise RefusedError("is a NumPy archive (.npz), not a checkpoint")
    if len({name.partition("/")[0] for name in names}) != 1 or "data.pkl" not in inside:
        raise RefusedError(
            "is a zip archive, but not one of torch.save", why="it must contain data.pkl in its only folder"
        )


def _contents(source: Source) -> tuple[dict[str, Member], list[str]]:
    """The members by their name inside the archive's only folder, and notes about unread members."""
    inside = {name.partition("/")[2]: member for name, member in members(source, _reject_other_archives).items()}
    if inside["data.pkl"].size > MAX_PICKLE_BYTES:
        raise RefusedError("is too complex", why=f"a pickle of {inside['data.pkl'].size:,} bytes")
    extra = [name for name in inside if name not in _EXPECTED and not name.startswith("data/")]
    return inside, [f"archive member {escaped(name)} was not read" for name in extra[:4]]


def _content(source: Source, member: Member) -> bytes:
    return source.read(member.offset, member.size, member.name)


MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001


def describe_legacy(source: Source) -> dict[str, Any]:
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
