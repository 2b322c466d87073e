"""The content of an untrusted file: named tensors, plain metadata, and class names that are never looked up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ccvae_eval.checkpoint.formats import Envelope, open_pt, open_safetensors
from ccvae_eval.checkpoint.reader import Content, StoredTensor, read_content
from ccvae_eval.checkpoint.safe_reader.source import escaped
from ccvae_eval.core.errors import CheckpointError, listed
from ccvae_eval.core.types import Plain

if TYPE_CHECKING:
    from torch import Tensor

MAX_OMITTED = 6
"""Most omitted values that a note names."""
SINGLE_TENSOR = "tensor"
"""Name of a tensor that was saved without a container."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The name of a class or function in a file."""

    name: str


@dataclass(frozen=True, slots=True)
class Record:
    """An object of a file as inert data: the name of its class and the data of its construction."""

    class_name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: tuple[Any, ...] = ()
    pairs: Mapping[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Shape and type of a tensor; the type by torch's name, such as "float32"."""

    shape: tuple[int, ...]
    dtype: str

    def accepts(self, other: TensorInfo) -> bool:
        """True if the shapes are equal and both are real or both complex, in any precision."""
        return self.shape == other.shape and self.dtype.startswith("complex") == other.dtype.startswith("complex")

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype}"


TensorTable = Mapping[str, TensorInfo]


def tensor_table(tensors: Mapping[str, Any]) -> dict[str, TensorInfo]:
    """Returns shape and type of each tensor; builds no tensor of a file."""
    known: Mapping[str, Any] = tensors.stored if isinstance(tensors, FileTensors) else tensors
    return {name: TensorInfo(tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in known.items()}


class FileTensors(Mapping[str, "Tensor"]):
    """The tensors of a file by name, built when they are used; names, shapes and types need no torch."""

    def __init__(self, stored: Mapping[str, StoredTensor]) -> None:
        self.stored = MappingProxyType(dict(stored))

    def __getitem__(self, name: str) -> Tensor:
        return self.stored[name].tensor

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


@dataclass(frozen=True)
class Bundle:
    """The content of a checkpoint.

    Args:
        tensors: dense, contiguous, on the CPU, in the file's order. The keys of nested containers are joined by dots; a
            pickled module has the names of its ``state_dict``.
        metadata: the plain data beside the tensors.
        structure: the file's structure, with tensors that may not be built yet; ``records`` builds them.
        path, size, sha256: the file, its size in bytes and its digest.
        format: "pt-zip", "pt-legacy", "pt-tar", "safetensors" or "folder".
        globals: names of all classes and functions in the file.
        notes: remarks for the user, one sentence each.
        envelope: format version and tool if this toolkit wrote the file, else None.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Plain]
    structure: Any
    path: Path
    size: int
    sha256: str
    format: str
    globals: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    envelope: Envelope | None = None

    @cached_property
    def records(self) -> Any:
        """The structure with all tensors built."""
        return _with_tensors(self.structure)

    @cached_property
    def tensor_table(self) -> TensorTable:
        """Shape and type of each tensor. Adapters that use it recognise a file without importing torch."""
        return tensor_table(self.tensors)

    @property
    def parameter_count(self) -> int:
        """Number of elements of all tensors."""
        return sum(prod(info.shape) for info in self.tensor_table.values())


def read_bundle(path: str | Path) -> Bundle:
    """Reads a checkpoint file of any supported format without executing code from it.

    Raises:
        CheckpointError: the file is missing, not a checkpoint, damaged, from a newer version, or unsafe to read.
    """
    path = Path(path)
    content = read_content(path)
    description = content.description
    structure = _decode(description["tree"], [StoredTensor(content, i) for i in range(len(description["tensors"]))])
    tensors, metadata, envelope, notes = _split(structure, content, path)
    return Bundle(
        FileTensors(tensors),
        MappingProxyType(metadata),
        structure,
        path,
        description["size"],
        description["sha256"],
        description["format"],
        tuple(description["globals"]),
        (*description["notes"], *notes),
        envelope,
    )


def _split(
    records: Any, content: Content, path: Path
) -> tuple[dict[str, StoredTensor], dict[str, Plain], Envelope | None, list[str]]:
    """Tensors, plain metadata, the envelope if this toolkit wrote the file, and notes."""
    if content.description["format"] == "safetensors":
        return *open_safetensors(records, content.description["metadata"], str(path)), []
    unpacked = open_pt(records, str(path))
    if unpacked is not None:
        own, metadata, envelope = unpacked
        kept = _plain(metadata, "", [])  # a record that this toolkit wrote has nothing else
        return own, kept if isinstance(kept, dict) else {}, envelope, []
    tensors: dict[str, StoredTensor] = {}
    for name, tensor in named_tensors(records):
        if name in tensors:
            raise CheckpointError("contains two tensors with the same name", where=str(path), why=name)
        tensors[name] = tensor
    if isinstance(records, Record):  # a pickled module
        return tensors, {}, None, []
    omitted: list[str] = []
    plain = _plain(dict(enumerate(records)) if isinstance(records, list | tuple) else records, "", omitted)
    notes = [f"neither tensors nor plain data, not used: {listed(omitted, MAX_OMITTED)}"] if omitted else []
    return tensors, plain if isinstance(plain, dict) else {}, None, notes


def _decode(tree: Any, tensors: list[StoredTensor]) -> Any:
    """Inverse of :meth:`.safe_reader.tree.TreeEncoder.encode`."""
    if not isinstance(tree, list):
        return tree
    kind, *parts = tree
    if kind == "tensor":
        return tensors[parts[0]]
    if kind == "global":
        return Reference(parts[0])
    if kind == "bytes":
        return Record("bytes", (parts[0],))
    decoded = [_decode(part, tensors) for part in parts]
    if kind == "dict":
        return dict(zip(_keys(decoded[::2]), decoded[1::2], strict=True))
    if kind == "object":
        name, arguments, state, items, pairs = decoded
        return Record(name, arguments, state, tuple(items), pairs)
    return tuple(decoded) if kind == "tuple" else decoded


def _keys(keys: Sequence[Any]) -> list[Any]:
    """The keys of a table; anything but plain data is replaced by a name that no other key has."""
    taken = {key for key in keys if isinstance(key, str)}
    counts: Counter[str] = Counter()
    found = []
    for key in keys:
        parts = key if isinstance(key, tuple) else (key,)
        if not all(part is None or isinstance(part, str | int | float) for part in parts):
            name = key.name if isinstance(key, Reference) else key.class_name if isinstance(key, Record) else "key"
            key = name
            while key in taken:
                counts[name] += 1
                key = f"{name} {counts[name] + 1}"
            taken.add(key)
        found.append(key)
    return found


def _with_tensors(value: Any) -> Any:
    """A record tree with each ``StoredTensor`` replaced by its tensor."""
    if isinstance(value, StoredTensor):
        return value.tensor
    if isinstance(value, dict):
        return {_with_tensors(key): _with_tensors(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_with_tensors, value))
    if isinstance(value, Record):
        parts = (value.arguments, value.state, value.items, value.pairs)
        return Record(value.class_name, *map(_with_tensors, parts))
    return value


def named_tensors(value: Any, prefix: str = "") -> Iterator[tuple[str, StoredTensor]]:
    """Yields the tensors of a record tree with their dotted names, in order."""
    if isinstance(value, StoredTensor):
        yield prefix or SINGLE_TENSOR, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from named_tensors(part, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple):
        yield from named_tensors(dict(enumerate(value)), prefix)
    elif isinstance(value, Record):
        if isinstance(value.state, dict) and isinstance(value.state.get("_parameters"), dict):
            yield from named_tensors(module_state(value), prefix)
        else:
            for part in (value.state, value.pairs, value.items or value.arguments):
                yield from named_tensors(part, prefix)


def module_state(module: Record) -> dict[str, Any]:
    """Returns the ``state_dict`` of a pickled ``nn.Module``, nested: parameters, persistent buffers, submodules."""
    parts = {name: module.state.get(name) for name in ("_parameters", "_buffers", "_modules")}
    tables = {name: part if isinstance(part, dict) else {} for name, part in parts.items()}
    excluded = module.state.get("_non_persistent_buffers_set")
    buffers = {n: b for n, b in tables["_buffers"].items() if not isinstance(excluded, list) or n not in excluded}
    return {**tables["_parameters"], **buffers, **tables["_modules"]}


def names_only_modules(bundle: Bundle) -> bool:
    """True if all names of a file belong to its modules, to tensors or to built-in containers."""
    modules = {module.class_name for module in _modules(bundle.structure)}
    return all(
        name in modules or name.startswith(("torch.", "collections.", "builtins.", "__builtin__."))
        for name in bundle.globals
    )


def _modules(value: Any) -> Iterator[Record]:
    """The modules in a record tree."""
    if isinstance(value, Record):
        if isinstance(value.state, dict) and isinstance(value.state.get("_parameters"), dict):
            yield value
        value = (value.arguments, value.state, value.items, value.pairs)
    if isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _modules(part)


_OMITTED = object()


def _plain(value: Any, place: str, omitted: list[str]) -> Any:
    """The plain data of a record tree; an object is the table of its attributes or of its items.

    Other values are omitted, and so are containers left empty by that. ``omitted`` receives the places and classes of
    values that are neither plain data nor contain tensors.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Reference):
        return value.name
    if isinstance(value, Record):
        attributes = value.state if isinstance(value.state, dict) and not value.items else {}
        if value.pairs or (attributes and not value.arguments and "_parameters" not in attributes):
            return _plain({**attributes, **value.pairs}, place, omitted)
        if next(named_tensors(value), None) is None:
            omitted.append(escaped(f"{place} ({value.class_name})"))
    if isinstance(value, dict):
        table = {str(key): _plain(part, f"{place}.{key}".lstrip("."), omitted) for key, part in value.items()}
        kept = {key: part for key, part in table.items() if part is not _OMITTED}
        return kept if kept or not table else _OMITTED
    if isinstance(value, list | tuple):
        items = [_plain(part, f"{place}.{index}", omitted) for index, part in enumerate(value)]
        if items and all(item is _OMITTED for item in items):
            return _OMITTED
        return [None if item is _OMITTED else item for item in items]
    return _OMITTED
