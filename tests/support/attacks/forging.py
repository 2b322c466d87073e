"""The register of attacks, and the parts of which hostile pickles are made."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Builder = Callable[[Path, Path], None]
REFUSED: dict[str, tuple[Builder, str]] = {}
"""Attacks that must be refused, each with a part of the error message."""


def refused_with(message: str) -> Callable[[Builder], Builder]:
    def register(builder: Builder) -> Builder:
        REFUSED[builder.__name__] = (builder, message)
        return builder

    return register


class Opcodes:
    """A pickle stream made of single opcodes, which no pickler would write."""

    def __init__(self, protocol: int = 2) -> None:
        self.raw = bytes([0x80, protocol])

    def add(self, *parts: bytes) -> Opcodes:
        self.raw += b"".join(parts)
        return self

    def done(self) -> bytes:
        return self.raw + b"."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    raw = value.to_bytes(16, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def name(module: str, function: str) -> bytes:
    return f"c{module}\n{function}\n".encode()


def storage(count: int, key: str = "0", kind: str = "FloatStorage", location: str = "cpu") -> bytes:
    return b"(" + text("storage") + name("torch", kind) + text(key) + text(location) + number(count) + b"tQ"


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


EMPTY_HOOKS = name("collections", "OrderedDict") + b")R"


def tensor(
    count: int, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], hooks: bytes = EMPTY_HOOKS
) -> bytes:
    """``{"weight": _rebuild_tensor_v2(...)}`` over a storage of ``count`` floats."""
    call = name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage(count) + number(offset)
    return Opcodes().add(b"}", text("weight"), call, numbers(shape), numbers(strides), b"\x89", hooks, b"tRs").done()


def write_zip(path: Path, pickled: bytes, storages: Mapping[str, bytes] | None = None, **more: bytes) -> None:
    """Writes a zip archive in the layout of ``torch.save`` with any pickle."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", b"little")
        for key, raw in {**(storages or {}), **more}.items():
            archive.writestr(f"archive/data/{key}", raw)
        archive.writestr("archive/version", b"3\n")


class Bomb:
    """Pickles to a call of ``os.system`` that creates the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (f"touch {self.canary}",)
