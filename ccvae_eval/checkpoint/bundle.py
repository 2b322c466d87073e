"""What an untrusted file turns into: tensors by name, plain data, and names of classes that were never looked up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from ccvae_eval.checkpoint.formats import Envelope, open_pt, open_safetensors
from ccvae_eval.checkpoint.reader import Content, read_content
from ccvae_eval.core.errors import CheckpointError
from ccvae_eval.core.types import Plain

NAMESPACES = ("argparse.Namespace", "types.SimpleNamespace")
LONE_TENSOR = "tensor"
"""The name of a tensor that was saved by itself."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The name of a class or function that a file mentions."""

    name: str


@dataclass(frozen=True, slots=True)
class Record:
    """An object of a file, inert: the name of its class and the data it would have been made from."""

    class_name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: tuple[Any, ...] = ()
    pairs: Mapping[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Bundle:
    """The content of a checkpoint.

    Args:
        tensors: dense, contiguous, on the CPU, in the file's order; the names of what encloses a tensor are joined
            by dots. A pickled module gives the names of its ``state_dict``.
        metadata: the plain data beside the tensors.
        records: everything as it stands in the file: dicts, lists, tuples, scalars, tensors, ``Record``, ``Reference``.
        path, size, sha256: which file it was, its bytes and their digest.
        format: "pt-zip", "pt-legacy" or "safetensors".
        globals: the names of all classes and functions that the file mentions.
        notes: what a user should know, one sentence each.
        envelope: format version and tool, if this toolkit wrote it.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Plain]
    records: Any
    path: Path
    size: int
    sha256: str
    format: str
    globals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    envelope: Envelope | None = None

    @property
    def parameter_count(self) -> int:
        return sum(tensor.numel() for tensor in self.tensors.values())


def read_bundle(path: str | Path) -> Bundle:
    """Reads a checkpoint of any supported format; nothing in it is executed.

    Raises:
        CheckpointError: it is missing, no checkpoint, damaged, written by a newer version, or not to be read without
            trusting it.
    """
    path = Path(path)
    content = read_content(path)
    description = content.description
    records = _decode(description["tree"], content.tensors)
    tensors, metadata, envelope = _sorted_out(records, content, path)
    return Bundle(
        MappingProxyType(tensors),
        MappingProxyType(metadata),
        records,
        path,
        description["size"],
        description["sha256"],
        description["format"],
        tuple(description["globals"]),
        tuple(description["notes"]),
        envelope,
    )


def _sorted_out(
    records: Any, content: Content, path: Path
) -> tuple[dict[str, Tensor], dict[str, Plain], Envelope | None]:
    """Tensors, plain data, and the envelope if the file is one of ours."""
    if content.description["format"] == "safetensors":
        return open_safetensors(records, content.description["metadata"], str(path))
    ours = open_pt(records, str(path))
    if ours is not None:
        return ours
    tensors: dict[str, Tensor] = {}
    for name, tensor in named_tensors(records):
        if name in tensors:
            raise CheckpointError("holds two tensors of the same name", where=str(path), why=name)
        tensors[name] = tensor
    return tensors, _plain_root(records), None


def _decode(tree: Any, tensors: list[Tensor]) -> Any:
    """The inverse of :mod:`.safe_reader.tree`."""
    if not isinstance(tree, list):
        return tree
    kind, *parts = tree
    if kind == "tensor":
        return tensors[parts[0]]
    if kind == "global":
        return Reference(parts[0])
    if kind == "bytes":
        return Record("bytes", (parts[0],))
    grown = [_decode(part, tensors) for part in parts]
    if kind == "dict":
        return dict(zip(grown[::2], grown[1::2], strict=True))
    if kind == "object":
        name, arguments, state, items, pairs = grown
        return Record(name, arguments, state, tuple(items), pairs)
    return tuple(grown) if kind == "tuple" else grown


def named_tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a record tree with their dotted names, in order."""
    if isinstance(value, Tensor):
        yield prefix or LONE_TENSOR, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from named_tensors(part, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple):
        yield from named_tensors(dict(enumerate(value)), prefix)
    elif isinstance(value, Record):
        if isinstance(value.state, dict) and isinstance(value.state.get("_parameters"), dict):
            yield from named_tensors(module_state(value), prefix)
        else:
            for part in (value.state, value.pairs, value.items):
                yield from named_tensors(part, prefix)


def module_state(module: Record) -> dict[str, Any]:
    """The ``state_dict`` of a pickled ``nn.Module``, nested: its parameters, its lasting buffers, its modules."""
    parts = {name: module.state.get(name) for name in ("_parameters", "_buffers", "_modules")}
    tables = {name: part if isinstance(part, dict) else {} for name, part in parts.items()}
    passing = module.state.get("_non_persistent_buffers_set")
    lasting = {n: b for n, b in tables["_buffers"].items() if not isinstance(passing, list) or n not in passing}
    return {**tables["_parameters"], **lasting, **tables["_modules"]}


_LEFT_OUT = object()


def _plain_root(records: Any) -> dict[str, Plain]:
    table = dict(enumerate(records)) if isinstance(records, list | tuple) else records
    plain = _plain(table)
    return plain if isinstance(plain, dict) else {}


def _plain(value: Any) -> Any:
    """The plain data of a record tree; what is none is left out, with the containers that held nothing else."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Reference):
        return value.name
    if isinstance(value, Record) and value.class_name in NAMESPACES:
        return _plain(value.state)
    if isinstance(value, dict):
        table = {str(key): _plain(part) for key, part in value.items()}
        kept = {key: part for key, part in table.items() if part is not _LEFT_OUT}
        return kept if kept or not table else _LEFT_OUT
    if isinstance(value, list | tuple):
        items = [_plain(part) for part in value]
        if items and all(item is _LEFT_OUT for item in items):
            return _LEFT_OUT
        return [None if item is _LEFT_OUT else item for item in items]
    return _LEFT_OUT
