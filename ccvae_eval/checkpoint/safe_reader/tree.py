"""Records as JSON: a tree of scalars, and of lists whose first item names their kind.

==================================  ====================================================
``["list", ...]``                   a list; ``tuple`` and ``set`` likewise
``["dict", key, value, ...]``       a dictionary, in order
``["tensor", number]``              a tensor of the description
``["bytes", length]``               the length of omitted bytes
``["global", name]``                a class or function, by name
``["object", name, arguments, state, items, pairs]``  an instance of a class, by name
==================================  ====================================================
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

from .builders import STORAGE_TYPES
from .records import ITEM_SIZES, Collection, Global, Instance, Storage, Strided
from .source import RefusedError, escaped

MAX_DEPTH = 60
MAX_NODES = 200_000
MAX_TEXT, MAX_STRING = 16 << 20, 1 << 20
SLACK = 64 << 20
"""Bytes that tensors may occupy beyond ``MAX_RATIO`` times the file, so that small files may have repeated views."""
MAX_RATIO = 4


@dataclass
class TreeEncoder:
    """Encodes records as a tree and collects its tensors, whose size is limited by that of the file in bytes."""

    size: int
    storages: dict[Storage, int] = field(default_factory=dict)
    tensors: dict[Strided, int] = field(default_factory=dict)
    rows: list[list[Any]] = field(default_factory=list)
    nodes: int = 0
    characters: int = 0
    total: int = 0
    open: set[int] = field(default_factory=set)

    def encode(self, value: Any, depth: int = 0) -> Any:
        """Returns a record as JSON.

        Raises:
            RefusedError: a cycle, or excessive depth, number of values, text or size of the tensors.
        """
        self._count(value, depth)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Strided):
            return ["tensor", self._tensor(value)]
        if isinstance(value, Global):
            return ["global", value.name]
        if isinstance(value, bytes):
            return ["bytes", len(value)]
        if isinstance(value, list | tuple):
            return [type(value).__name__, *(self.encode(item, depth + 1) for item in value)]
        if isinstance(value, Collection):
            return ["set", *(self.encode(item, depth + 1) for item in value.items)]
        if isinstance(value, dict):
            return ["dict", *(self.encode(part, depth + 1) for pair in value.items() for part in pair)]
        if isinstance(value, Instance):
            if id(value) in self.open:
                return ["global", value.class_name]  # a reference to an object around it, such as its parent
            self.open.add(id(value))
            parts = (value.arguments, value.state, value.items, value.pairs)
            encoded = [self.encode(part, depth + 1) for part in parts]
            self.open.remove(id(value))
            return ["object", value.class_name, *encoded]
        raise RefusedError("contains a storage without a tensor", hint="Save tensors, not storages.")

    def _count(self, value: Any, depth: int) -> None:
        self.nodes += 1
        text = value.name if isinstance(value, Global) else value.class_name if isinstance(value, Instance) else value
        if isinstance(text, str):
            self.characters += len(text)
            if len(text) > MAX_STRING:
                raise RefusedError("contains a string that is too long", why=f"{len(text):,} characters")
        if depth > MAX_DEPTH:
            raise RefusedError("is nested too deeply or refers to itself", why=f"over {MAX_DEPTH} levels")
        if self.nodes > MAX_NODES or self.characters > MAX_TEXT:
            raise RefusedError("contains too much data besides tensors", why=f"over {MAX_NODES:,} values")

    def _tensor(self, tensor: Strided) -> int:
        if tensor in self.tensors:
            return self.tensors[tensor]
        self.total += prod(tensor.shape) * ITEM_SIZES[tensor.dtype]
        if self.total > MAX_RATIO * self.size + SLACK:
            why = f"shape {tensor.shape} from a storage of {tensor.storage.size:,} bytes"
            raise RefusedError("contains tensors that are far larger than the file", why=why)
        storage = self.storages.setdefault(tensor.storage, len(self.storages))
        self.tensors[tensor] = len(self.rows)
        self.rows.append([storage, tensor.dtype, tensor.offset, list(tensor.shape), list(tensor.strides)])
        return self.tensors[tensor]


def described(
    size: int, root: Any, offsets: Mapping[str, int], storages: Mapping[str, Storage], names: Iterable[str] = ()
) -> dict[str, Any]:
    """Returns the description of a record tree in a file of ``size`` bytes, see :func:`.summary.describe`.

    ``offsets`` are the positions of the storages in the file; ``names`` are those of classes and functions.
    """
    encoder = TreeEncoder(size)
    tree = encoder.encode(root)
    return {
        "storages": [[offsets[storage.key], storage.size] for storage in encoder.storages],
        "tensors": encoder.rows,
        "tree": tree,
        "globals": list(names),
        "notes": _device_notes(storages),
    }


def _device_notes(storages: Mapping[str, Storage]) -> list[str]:
    """A note if tensors were saved on another device; the meta device is refused."""
    places = sorted({storage.location for storage in storages.values()} - {"cpu"})
    if "meta" in places:
        raise RefusedError("contains meta tensors, which have no values")
    return [f"saved on {', '.join(places[:4])}, loaded onto the CPU"] if places else []


def storage_record(known: dict[str, Storage], identifier: Any) -> Storage | Global:
    """Returns the storage of a persistent identifier ``("storage", type, key, location, number of elements)``.

    The legacy format names a module's class by ``("module", class, file, source code)``; only the name is used.
    """
    if isinstance(identifier, tuple) and len(identifier) == 4 and identifier[0] == "module":
        if isinstance(identifier[1], Global):
            return identifier[1]
        raise RefusedError("contains a malformed reference to a class")
    return stated_storage(known, identifier)


def stated_storage(known: dict[str, Storage], identifier: Any) -> Storage:
    """Returns the storage of a persistent identifier, and enters it into the known ones."""
    fits = isinstance(identifier, tuple) and len(identifier) in (5, 6) and identifier[0] == "storage"
    if not fits or (len(identifier) == 6 and identifier[5] is not None):
        raise RefusedError("contains a persistent reference that is not a storage")
    _, kind, key, location, count = identifier[:5]
    strings = isinstance(key, str) and isinstance(location, str) and len(key) < 100 and len(location) < 100
    if not isinstance(kind, Global) or not strings or type(count) is not int or count < 0:
        raise RefusedError("contains a malformed storage")
    if kind.name not in STORAGE_TYPES:
        what = "a quantised tensor" if kind.name.startswith("torch.Q") else "values of an unknown type"
        raise RefusedError(
            f"contains {what}", why=escaped(kind.name), hint="Save tensor.dequantize() or .float() instead."
        )
    storage = known.setdefault(key, Storage(key, STORAGE_TYPES[kind.name], count, location))
    if (storage.dtype, storage.count) != (STORAGE_TYPES[kind.name], count):
        raise RefusedError("describes one storage in two ways", why=escaped(key))
    return storage
