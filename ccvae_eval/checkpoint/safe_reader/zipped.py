"""The format of ``torch.save`` since torch 1.6: a zip archive with a pickle and the bytes of each storage."""

from __future__ import annotations

from typing import Any

from .archive import Member, members, verify
from .builders import SAVE_STATE_DICT, STORAGE_TYPES
from .opcodes import Walker
from .records import Storage
from .source import RefusedError, Source, shown
from .tree import TreeEncoder, located_on, storage_of

LONGEST_PICKLE = 64 << 20
_EXPECTED = ("data.pkl", "version", "byteorder", ".format_version", ".storage_alignment", ".data/serialization_id")


def describe(source: Source) -> dict[str, Any]:
    """See :func:`.describing.describe`."""
    inside, notes = _contents(source)
    for member in inside.values():
        verify(source, member)
    if "byteorder" in inside and _content(source, inside["byteorder"]) != b"little":
        raise RefusedError("was saved on a big-endian machine", why="its numbers would have to be turned around")
    storages: dict[str, Storage] = {}
    walker = Walker(
        _content(source, inside["data.pkl"]),
        persistent=lambda identifier: storage_of(identifier, storages, STORAGE_TYPES),
        member=inside["data.pkl"].name,
    )
    root = walker.walk()
    if walker.position != len(walker.content):
        raise RefusedError("is a broken pickle", why="there are bytes after its end", member=inside["data.pkl"].name)
    for key, storage in storages.items():
        place = inside.get(f"data/{key}")
        if place is None:
            raise RefusedError("lacks a storage that it refers to", why=f"data/{shown(key)}")
        if place.size != storage.size:
            raise RefusedError(
                "holds a storage of another size than it says", why=f"{place.size:,} bytes", member=place.name
            )
    planter = TreeEncoder(source.size)
    tree = planter.encode(root)
    places = [inside[f"data/{storage.key}"] for storage in planter.storages]
    return {
        "storages": [[place.offset, place.size] for place in places],
        "tensors": planter.rows,
        "tree": tree,
        "globals": list(walker.globals),
        "notes": [*notes, *located_on(storages)],
    }


def _recognise(names: list[str]) -> None:
    """Refuses archives of other kinds by what they are."""
    inside = [name.partition("/")[2] for name in names]
    if any(name.startswith("code/") or name in ("constants.pkl", "bytecode.pkl") for name in inside):
        raise RefusedError("is a TorchScript archive", why="that is a program", hint=SAVE_STATE_DICT)
    if any(
        name.endswith(("archive_format", "serialized_exported_program.json")) or name.startswith("models/")
        for name in (*names, *inside)
    ):
        raise RefusedError("is an exported program (.pt2)", why="that is a program", hint=SAVE_STATE_DICT)
    if all(name.endswith(".npy") for name in names):
        raise RefusedError("is a NumPy archive (.npz) and no checkpoint")
    if len({name.partition("/")[0] for name in names}) != 1 or "data.pkl" not in inside:
        raise RefusedError("is a zip archive, but none that torch.save writes", why="no data.pkl in one folder")


def _contents(source: Source) -> tuple[dict[str, Member], list[str]]:
    """The members by their name inside the archive's one folder."""
    inside = {name.partition("/")[2]: member for name, member in members(source, _recognise).items()}
    if inside["data.pkl"].size > LONGEST_PICKLE:
        raise RefusedError("is too complicated", why=f"a pickle of {inside['data.pkl'].size:,} bytes")
    extra = [name for name in inside if name not in _EXPECTED and not name.startswith("data/")]
    return inside, [f"member {shown(name)} was not read" for name in extra[:4]]


def _content(source: Source, member: Member) -> bytes:
    return source.read(member.offset, member.size, member.name)
