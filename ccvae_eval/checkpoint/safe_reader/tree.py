"""Records as JSON: a tree of scalars and of lists that begin with their kind.

==================================  ====================================================
``["list", ...]``                   a list; ``tuple`` and ``set`` likewise
``["dict", key, value, ...]``       a dictionary, in its order
``["tensor", number]``              one of the tensors of the description
``["bytes", length]``               bytes, left out
``["global", name]``                a class or function, by name
``["object", name, arguments, state, items, pairs]``  an instance of a class, by name
==================================  ====================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .records import ITEM_SIZES, Collection, Global, Instance, Storage, Strided
from .source import RefusedError, shown

DEEPEST = 60
MOST_NODES = 200_000
MOST_TEXT = 16 << 20
SLACK = 64 << 20
"""Bytes that tensors may take beyond ``LARGEST_RATIO`` times the file: small views of small storages are no bomb."""
LARGEST_RATIO = 4


@dataclass
class TreeEncoder:
    """Writes the tree and collects the tensors that stand in it.

    Args:
        size: of the file in bytes; bounds what its tensors may take.
    """

    size: int
    storages: dict[Storage, int] = field(default_factory=dict)
    tensors: dict[Strided, int] = field(default_factory=dict)
    rows: list[list[Any]] = field(default_factory=list)
    nodes: int = 0
    letters: int = 0
    total: int = 0

    def encode(self, value: Any, depth: int = 0) -> Any:
        """The JSON of a record.

        Raises:
            RefusedError: more depth, nodes, text or tensor bytes than any checkpoint needs, or a cycle.
        """
        self._spend(value, depth)
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
            parts = (value.arguments, value.state, value.items, value.pairs)
            return ["object", value.class_name, *(self.encode(part, depth + 1) for part in parts)]
        raise RefusedError("holds a storage that is no tensor", hint="Save tensors, not storages.")

    def _spend(self, value: Any, depth: int) -> None:
        self.nodes += 1
        if isinstance(value, str):
            self.letters += len(value)
        if depth > DEEPEST:
            raise RefusedError("is nested too deeply or refers to itself", why=f"over {DEEPEST} levels")
        if self.nodes > MOST_NODES or self.letters > MOST_TEXT:
            raise RefusedError("holds too much besides tensors", why=f"over {MOST_NODES:,} values")

    def _tensor(self, tensor: Strided) -> int:
        if tensor in self.tensors:
            return self.tensors[tensor]
        count = 1
        for n in tensor.shape:
            count *= n
        self.total += count * ITEM_SIZES[tensor.dtype]
        allowed = LARGEST_RATIO * self.size + SLACK
        if self.total > allowed:
            raise RefusedError(
                "holds tensors that are far larger than the file",
                why=f"shape {tensor.shape} from a storage of {tensor.storage.size:,} bytes",
            )
        storage = self.storages.setdefault(tensor.storage, len(self.storages))
        self.tensors[tensor] = len(self.rows)
        self.rows.append([storage, tensor.dtype, tensor.offset, list(tensor.shape), list(tensor.strides)])
        return self.tensors[tensor]


def located_on(storages: dict[str, Storage]) -> list[str]:
    """A note where tensors were saved on another device; a refusal where they have no values."""
    places = sorted({storage.location for storage in storages.values()} - {"cpu"})
    if "meta" in places:
        raise RefusedError("holds meta tensors, which have no values")
    return [f"saved on {', '.join(places[:4])}; read onto the CPU"] if places else []


def storage_of(identifier: Any, known: dict[str, Storage], types: dict[str, str | None]) -> Storage | Global:
    """The storage that a persistent identifier means: ``("storage", type, key, location, number of elements)``.

    The old format names a module's class by ``("module", class, file, source code)``; the class's name is all we take.
    """
    if isinstance(identifier, tuple) and len(identifier) == 4 and identifier[0] == "module":
        if isinstance(identifier[1], Global):
            return identifier[1]
        raise RefusedError("refers to a malformed class")
    fits = isinstance(identifier, tuple) and len(identifier) in (5, 6) and identifier[0] == "storage"
    if not fits or (len(identifier) == 6 and identifier[5] is not None):
        raise RefusedError("refers to something else than a storage")
    _, kind, key, location, count = identifier[:5]
    strings = isinstance(key, str) and isinstance(location, str) and len(key) < 100 and len(location) < 100
    if not isinstance(kind, Global) or not strings or type(count) is not int or count < 0:
        raise RefusedError("refers to a malformed storage")
    if kind.name not in types:
        what = "a quantised tensor" if kind.name.startswith("torch.Q") else "values of an unknown type"
        raise RefusedError(f"holds {what}", why=shown(kind.name), hint="Save tensor.dequantize() or .float() instead.")
    storage = known.setdefault(key, Storage(key, types[kind.name], count, location))
    if (storage.dtype, storage.count) != (types[kind.name], count):
        raise RefusedError("describes one storage in two ways", why=key)
    return storage
