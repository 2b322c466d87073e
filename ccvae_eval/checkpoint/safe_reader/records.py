"""Inert records of the objects in a pickle stream. No class of the file is ever looked up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

ITEM_SIZES = {
    "bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8, "uint16": 2, "uint32": 4, "uint64": 8,
    "float16": 2, "bfloat16": 2, "float32": 4, "float64": 8, "complex32": 4, "complex64": 8, "complex128": 16,
    "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "float8_e8m0fnu": 1,
}  # fmt: skip
"""Bytes of one element, by torch's name of the type."""


@dataclass(frozen=True)
class Global:
    """The name of a class or function."""

    name: str


@dataclass(eq=False)
class Instance:
    """An object of the file: the name of its class and the data of its construction."""

    class_name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)
    pairs: dict[Any, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Collection:
    """A set. Its items stay a list, because hashing them is not safe."""

    items: list[Any]


@dataclass(eq=False)
class Storage:
    """The bytes behind tensors; ``dtype`` is None if only the tensors state it."""

    key: str
    dtype: str | None
    count: int
    location: str

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.count * (ITEM_SIZES[self.dtype] if self.dtype else 1)


@dataclass(eq=False)
class Strided:
    """A dense tensor: a view of a storage, with offset and strides in elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
