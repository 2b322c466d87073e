"""Functions that write hostile and broken checkpoints.

A builder takes the path to write and the path of a canary, a file that exists afterwards only if code was executed.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Builder = Callable[[Path, Path], None]
REFUSED: dict[str, tuple[Builder, str]] = {}
"""Attacks that must be refused, each with a part of the error message."""


def refused_with(message: str) -> Callable[[Builder], Builder]:
    def register(builder: Builder) -> Builder:
        REFUSED[builder.__name__] = (builder, message)
        return builder

    return register


# pickles


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


@refused_with("posix.system")
def system_in_zip(path: Path, canary: Path) -> None:
    torch.save({"weight": torch.ones(2), "bomb": Bomb(canary)}, path)


@refused_with("posix.system")
def system_in_legacy(path: Path, canary: Path) -> None:
    torch.save({"bomb": Bomb(canary)}, path, _use_new_zipfile_serialization=False)


@refused_with("posix.system")
def system_in_bare_pickle(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(canary), protocol=2))


@refused_with("posix.system")
def system_in_protocol_four(path: Path, canary: Path) -> None:
    write_zip(path, pickle.dumps(Bomb(canary), protocol=4))


@refused_with("builtins.eval")
def eval_by_stack_global(path: Path, canary: Path) -> None:
    call = text("builtins") + text("eval") + b"\x93" + text(f"open({str(canary)!r}, 'w')") + b"\x85R"
    write_zip(path, Opcodes(4).add(call).done())


@refused_with("subprocess.Popen")
def popen_by_newobj(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(name("subprocess", "Popen"), text(f"touch {canary}"), b"\x85\x81").done())


@refused_with("os.system")
def instance_of_protocol_zero(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"(", text(f"touch {canary}"), b"ios\nsystem\n").done())


@refused_with("torch.hub.load")
def call_of_torch(path: Path, canary: Path) -> None:
    call = name("torch.hub", "load") + text(str(canary)) + b"\x85R"
    write_zip(path, Opcodes().add(call).done())


@refused_with("torch.Tensor.tofile")
def bound_method(path: Path, canary: Path) -> None:
    call = name("builtins", "getattr") + b"(" + name("torch", "Tensor") + text("tofile") + b"tR" + text(str(canary))
    write_zip(path, Opcodes().add(call, b"\x85R").done())


@refused_with("torch._utils._rebuild_xla_tensor")
def unknown_rebuild_function(path: Path, canary: Path) -> None:
    call = name("torch._utils", "_rebuild_xla_tensor") + text(str(canary)) + b"\x85R"
    write_zip(path, Opcodes().add(call).done())


@refused_with("numpy.testing._private.utils.runstring")
def call_of_a_library_that_runs_code(path: Path, canary: Path) -> None:
    call = name("numpy.testing._private.utils", "runstring") + text(f"open({str(canary)!r}, 'w')") + b"}\x86R"
    write_zip(path, Opcodes().add(call).done())


@refused_with("os.system")
def partial_of_a_function(path: Path, canary: Path) -> None:
    call = name("functools", "partial") + name("os", "system") + text(f"touch {canary}") + b"\x86R"
    write_zip(path, Opcodes().add(call).done())


@refused_with("which is code, not data")
def attribute_of_a_class(path: Path, canary: Path) -> None:
    """``getattr(pathlib.PosixPath, "touch")(canary)``, from two names that are data on their own."""
    method = name("builtins", "getattr") + name("pathlib", "PosixPath") + text("touch") + b"\x86R"
    write_zip(path, Opcodes().add(method, text(str(canary)), b"\x85R").done())


@refused_with("its owner must be a class")
def attribute_of_a_value(path: Path, canary: Path) -> None:
    method = name("builtins", "getattr") + text("x") + text("format") + b"\x86R"
    write_zip(path, Opcodes().add(method, text(str(canary)), b"\x85R").done())


@refused_with("not a function")
def call_of_a_result(path: Path, canary: Path) -> None:
    call = name("torch", "Size") + b")R" + text(str(canary)) + b"\x85R"
    write_zip(path, Opcodes().add(call).done())


@refused_with("invalid class name")
def dotted_class(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes(4).add(text("torch"), text("serialization. os .system"), b"\x93").done())


@refused_with("hooks")
def backward_hooks(path: Path, canary: Path) -> None:
    hooks = b"}" + number(0) + name("torch", "save") + b"s"
    write_zip(path, tensor(2, 0, (2,), (1,), hooks), {"0": bytes(8)})


@refused_with("pickle opcode 0x82")
def extension_registry(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"\x82\x01").done())


@refused_with("pickle protocol 9")
def newer_protocol(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes(9).add(b"N").done())


# tensors that are not dense


def _quietly(value: Any, path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save({"weight": value()}, path)


@refused_with("sparse tensor")
def sparse_coo(path: Path, canary: Path) -> None:
    _quietly(lambda: torch.eye(3).to_sparse(), path)


@refused_with("sparse tensor")
def sparse_csr(path: Path, canary: Path) -> None:
    _quietly(lambda: torch.eye(3).to_sparse_csr(), path)


@refused_with("sparse tensor")
def sparse_csr_inconsistent(path: Path, canary: Path) -> None:
    """Indices beyond the columns: ``torch.load(weights_only=True)`` accepts it, and its first use is a segfault."""
    _quietly(
        lambda: torch.sparse_csr_tensor(
            torch.tensor([0, 1, 2]), torch.tensor([0, 1 << 40]), torch.ones(2), (2, 2), check_invariants=False
        ),
        path,
    )


@refused_with("sparse tensor")
def sparse_bsr(path: Path, canary: Path) -> None:
    _quietly(lambda: torch.eye(4).to_sparse_bsr((2, 2)), path)


@refused_with("sparse tensor")
def sparse_csc(path: Path, canary: Path) -> None:
    _quietly(lambda: torch.eye(4).to_sparse_csc(), path)


@refused_with("quantised tensor")
def quantised(path: Path, canary: Path) -> None:
    _quietly(lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8), path)


@refused_with("nested tensor")
def nested(path: Path, canary: Path) -> None:
    _quietly(lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), path)


@refused_with("meta tensor")
def meta(path: Path, canary: Path) -> None:
    torch.save({"weight": torch.ones(2, device="meta")}, path)


class Marked(torch.Tensor):
    """A subclass of Tensor."""


@refused_with("subclass of Tensor")
def subclass(path: Path, canary: Path) -> None:
    torch.save({"weight": torch.ones(2).as_subclass(Marked)}, path)


@refused_with("attributes")
def parameter_with_attributes(path: Path, canary: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    weight.note = "x"
    torch.save({"weight": weight}, path)


@refused_with("conjugate")
def conjugate_bit(path: Path, canary: Path) -> None:
    torch.save({"weight": torch.ones(2, dtype=torch.complex64).conj()}, path)


@refused_with("storage without a tensor")
def bare_storage(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(storage(2)).done(), {"0": bytes(8)})


@refused_with("big-endian")
def big_endian(path: Path, canary: Path) -> None:
    torch.save({"weight": torch.ones(2)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    members["model/byteorder"] = b"big"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)


# shapes


@refused_with("far larger than the file")
def stride_zero(path: Path, canary: Path) -> None:
    write_zip(path, tensor(1, 0, (1 << 40,), (0,)), {"0": bytes(4)})


@refused_with("far larger than the file")
def many_views(path: Path, canary: Path) -> None:
    """4,000 views, each of the whole of one storage of 64 kB."""
    view = Opcodes().add(b"](")
    head = name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage(16_384) + number(0)
    for _ in range(4000):
        view.add(head, numbers((16_384,)), numbers((1,)), b"\x89", EMPTY_HOOKS, b"tR")
    write_zip(path, view.add(b"e").done(), {"0": bytes(65_536)})


def _misfit(
    *, count: int = 4, offset: int = 0, shape: tuple[int, ...] = (4,), strides: tuple[int, ...] = (1,)
) -> Builder:
    return lambda path, canary: write_zip(path, tensor(count, offset, shape, strides), {"0": bytes(4 * 4)})


for _title, _attack, _message in (
    ("shape_beyond_storage", _misfit(shape=(5,)), "beyond its storage"),
    ("offset_beyond_storage", _misfit(offset=1), "beyond its storage"),
    ("stride_beyond_storage", _misfit(shape=(2,), strides=(4,)), "beyond its storage"),
    ("negative_size", _misfit(shape=(-4,)), "negative or enormous"),
    ("negative_stride", _misfit(strides=(-1,)), "negative or enormous"),
    ("negative_offset", _misfit(offset=-1), "negative or enormous"),
    ("size_overflow", _misfit(shape=(1 << 62, 4), strides=(4, 1)), "negative or enormous"),
    ("product_overflow", _misfit(shape=(1 << 40, 1 << 40), strides=(0, 0)), "negative or enormous"),
    ("empty_with_overflow", _misfit(shape=(0, 1 << 40, 1 << 40), strides=(1, 1, 1)), "negative or enormous"),
    ("fewer_strides_than_sizes", _misfit(shape=(2, 2), strides=(1,)), "2 sizes and 1 strides"),
    ("forty_dimensions", _misfit(shape=(1,) * 40, strides=(1,) * 40), "40 sizes"),
    ("negative_storage", _misfit(count=-1), "malformed storage"),
    ("storage_larger_than_member", _misfit(count=5), "storage of the wrong size"),
):
    REFUSED[_title] = (_attack, _message)


@refused_with("lacks a storage")
def missing_storage(path: Path, canary: Path) -> None:
    write_zip(path, tensor(4, 0, (4,), (1,)))


@refused_with("in two ways")
def storage_of_two_types(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"]", storage(2), storage(1, kind="DoubleStorage"), b"e").done(), {"0": bytes(8)})


@refused_with("reference that is not a storage")
def odd_persistent_id(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(text("module"), b"Q").done())


# nesting


@refused_with("nested too deeply")
def deep_lists(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"]" * 200_000, b"a" * 199_999).done())


@refused_with("nested too deeply")
def deep_marks(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"(" * 200_000, b"t" * 200_000).done())


@refused_with("nested too deeply")
def deep_tuples(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"N", b"\x85" * 200_000).done())


@refused_with("unsupported keys")
def deep_key(path: Path, canary: Path) -> None:
    """A dictionary whose key is a tuple 200,000 deep: hashing it would overflow the C stack."""
    write_zip(path, Opcodes().add(b"}N", b"\x85" * 200_000, b"Ns").done())


@refused_with("too much data besides tensors")
def laughs(path: Path, canary: Path) -> None:
    """Billion laughs: forty lists, each containing the one before twice."""
    doubling = b"".join(bytes([*b"](h", i, ord("h"), i, *b"eq", i + 1, ord("0")]) for i in range(40))
    write_zip(path, Opcodes().add(b"]q\x000", doubling, b"h\x28").done())


def _called_often(value: bytes, call: bytes, count: int) -> bytes:
    """A pickle that stores a value once and passes it to a call many times."""
    return Opcodes().add(value, b"q\x00", (call + b"0") * count, b"0N").done()


@refused_with("copied too often")
def copies_of_a_dictionary(path: Path, canary: Path) -> None:
    """``OrderedDict(table)``, 20,000 times: 100 MB of copies from 0.2 MB."""
    table = b"}(" + b"".join(b"M" + struct.pack("<H", i) + b"N" for i in range(9000)) + b"u"
    write_zip(path, _called_often(table, name("collections", "OrderedDict") + b"h\x00\x85R", 20_000))


@refused_with("copied too often")
def copies_of_a_list(path: Path, canary: Path) -> None:
    items = b"](" + b"N" * 19_000 + b"e"
    write_zip(path, _called_often(items, name("torch", "Size") + b"h\x00\x85R", 20_000))


@refused_with("copied too often")
def copies_of_a_text(path: Path, canary: Path) -> None:
    write_zip(path, _called_often(text("a" * 1_000_000), name("_codecs", "encode") + b"h\x00\x85R", 20_000))


@refused_with("copied too often")
def many_arguments(path: Path, canary: Path) -> None:
    """Tuples of 19,000 arguments, each of which is a list of 19,000 items."""
    items = b"](" + b"N" * 19_000 + b"eq\x010(" + b"h\x01" * 19_000 + b"t"
    write_zip(path, _called_often(items, name("pathlib", "Path") + b"h\x00R", 1000))


@refused_with("copied too often")
def paths_joined_over_and_over(path: Path, canary: Path) -> None:
    """Each path is the one before with a part of 1,000 characters: the file grows linearly, its value quadratically."""
    start = text("a" * 1000) + b"q\x00q\x020" + name("pathlib", "PurePosixPath") + b"q\x010"
    write_zip(path, Opcodes().add(start, b"h\x01h\x02h\x00\x86Rq\x020" * 20_000, b"N").done())


@refused_with("copied too often")
def paths_that_double(path: Path, canary: Path) -> None:
    start = text("a" * 1000) + b"q\x000" + name("pathlib", "PurePosixPath") + b"q\x010"
    write_zip(path, Opcodes().add(start, b"h\x01h\x00h\x00\x86Rq\x000" * 40, b"N").done())


@refused_with("copied too often")
def long_tuples_as_keys(path: Path, canary: Path) -> None:
    key = b"(" + b"N" * 19_000 + b"t"
    write_zip(path, Opcodes().add(key, b"q\x000}", b"h\x00Ns" * 20_000).done())


@refused_with("too much data besides tensors")
def tuple_of_one_dictionary(path: Path, canary: Path) -> None:
    table = b"}(" + b"".join(b"K" + bytes([i]) + b"N" for i in range(200)) + b"u"
    write_zip(path, Opcodes().add(table, b"q\x000(", b"h\x00" * 19_000, b"t").done())


@refused_with("too much data besides tensors")
def long_class_names(path: Path, canary: Path) -> None:
    """One name of 400 characters, 100,000 times."""
    write_zip(
        path,
        Opcodes()
        .add(
            name("library", "x" * 400), b"q\x000]", b"(" + b"h\x00" * 1000 + b"e", (b"(" + b"h\x00" * 1000 + b"e") * 99
        )
        .done(),
    )


@refused_with("nested too deeply")
def many_long_integers(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"](", (b"\x8b" + struct.pack("<i", 32) + b"\x7f" * 32) * 50_000, b"e").done())


@refused_with("too much data besides tensors")
def many_long_integers_in_parts(path: Path, canary: Path) -> None:
    part = b"(" + (b"\x8b" + struct.pack("<i", 32) + b"\x7f" * 32) * 1000 + b"e"
    write_zip(path, Opcodes().add(b"]", part * 201).done())


@refused_with("refers to itself")
def list_in_itself(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"]q\x00h\x00a").done())


@refused_with("pickle opcodes")
def million_opcodes(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"N0" * 600_000, b"N").done())


@refused_with("too long")
def long_text(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(text("x" * (2 << 20))).done())


@refused_with("is truncated")
def text_beyond_the_end(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"X" + struct.pack("<I", 1 << 19)).done())


@refused_with("too long")
def long_integer(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"\x8b" + struct.pack("<i", 1 << 19) + bytes(1 << 19)).done())


@refused_with("not UTF-8")
def odd_text(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"X\x02\x00\x00\x00\xff\xfe").done())


@refused_with("value from an empty stack")
def empty_stack(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"a").done())


@refused_with("never stored")
def unknown_memo(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"h\x07").done())


@refused_with("bytes after its end")
def bytes_after_the_pickle(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"N").done() + pickle.dumps(Bomb(canary)))


# archives


@refused_with("compressed member")
def zip_bomb(path: Path, canary: Path) -> None:
    """2 MB that unpack to 2 GiB, built from repetitions of one flushed block."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = block * 2047 + packer.compress(b"") + packer.flush()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", Opcodes().add(b"N").done())
        archive.writestr("archive/data/0", packed)
    raw = bytearray(path.read_bytes())
    for magic, method, size in ((b"PK\x03\x04", 8, 22), (b"PK\x01\x02", 10, 24)):
        at = raw.rindex(magic) if magic == b"PK\x01\x02" else raw.index(magic, 4)
        raw[at + method : at + method + 2] = struct.pack("<H", 8)
        raw[at + size : at + size + 4] = struct.pack("<I", 2047 << 20)
    path.write_bytes(raw)


@refused_with("not one of torch.save")
def zip_in_zip(path: Path, canary: Path) -> None:
    inner = io.BytesIO()
    torch.save({"weight": torch.ones(1)}, inner)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/inner.pt", inner.getvalue())


@refused_with("same name")
def duplicate_member(path: Path, canary: Path) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("archive/data.pkl", Opcodes().add(b"N").done())
        archive.writestr("archive/data.pkl", pickle.dumps(Bomb(canary), protocol=2))


@refused_with("overlap")
def overlapping_members(path: Path, canary: Path) -> None:
    """Both entries of the directory point to the first member."""
    write_zip(path, Opcodes().add(b"N").done())
    raw = bytearray(path.read_bytes())
    first = raw.index(b"PK\x01\x02")
    second = raw.index(b"PK\x01\x02", first + 1)
    raw[second + 42 : second + 46] = raw[first + 42 : first + 46]
    path.write_bytes(raw)


@refused_with("bytes between members")
def hidden_bytes(path: Path, canary: Path) -> None:
    """A second archive before the one that the directory describes."""
    write_zip(path, Opcodes().add(b"N").done())
    inner = path.read_bytes()
    shift = len(inner)
    raw = bytearray(inner + inner)
    at, end = raw.index(b"PK\x01\x02", shift), raw.rindex(b"PK\x05\x06")
    while at < end and raw[at : at + 4] == b"PK\x01\x02":
        (offset,) = struct.unpack_from("<I", raw, at + 42)
        struct.pack_into("<I", raw, at + 42, offset + shift)
        at += 46 + struct.unpack_from("<H", raw, at + 28)[0]
    (start,) = struct.unpack_from("<I", raw, end + 16)
    struct.pack_into("<I", raw, end + 16, start + shift)
    path.write_bytes(raw)


@refused_with("zip64")
def zip64_end_with_a_wrong_offset(path: Path, canary: Path) -> None:
    torch.save({"weight": torch.ones(1)}, path)
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"PK\x06\x06")
    struct.pack_into("<Q", raw, at + 48, 0)
    path.write_bytes(raw)


@refused_with("zip64")
def zip64_size_without_a_size(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"N").done())
    raw = bytearray(path.read_bytes())
    at = raw.index(b"PK\x01\x02")
    raw[at + 24 : at + 28] = b"\xff" * 4
    path.write_bytes(raw)


@refused_with("disagree")
def two_headers_two_sizes(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"N").done())
    raw = bytearray(path.read_bytes())
    raw[22] += 1
    path.write_bytes(raw)


@refused_with("encrypted")
def encrypted_member(path: Path, canary: Path) -> None:
    write_zip(path, Opcodes().add(b"N").done())
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)


@refused_with("claims to be a folder")
def member_with_the_attribute_of_a_folder(path: Path, canary: Path) -> None:
    """``torch.load`` gives a tensor of whatever is in memory."""
    write_zip(path, tensor(2, 0, (2,), (1,)), {"0": bytes(8)})
    raw = bytearray(path.read_bytes())
    place = raw.index(b"archive/data/0", raw.index(b"PK\x01\x02"))
    raw[place - 8] |= 0x10
    path.write_bytes(raw)


@refused_with("other bytes follow it")
def bytes_after_the_archive(path: Path, canary: Path) -> None:
    torch.save({"weight": torch.ones(1)}, path)
    path.write_bytes(path.read_bytes() + b"more")


def _misnamed(member: str) -> Builder:
    def build(path: Path, canary: Path) -> None:
        placeholder = "x" * len(member)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", Opcodes().add(b"N").done())
            archive.writestr(placeholder, b"content")
        path.write_bytes(path.read_bytes().replace(placeholder.encode(), member.encode()))

    return build


for _title, _member in (
    ("parent_folder", "archive/../../canary"),
    ("absolute_name", "/tmp/canary"),
    ("backslash", "archive\\..\\canary"),
    ("nul", "archive/data\0.pkl"),
    ("drive_letter", "C:/canary"),
    ("terminal_escape", "archive/\x1b[31mred"),
    ("folder_entry", "archive/data/"),
):
    REFUSED[f"member_name_{_title}"] = (_misnamed(_member), "forbidden name")


@refused_with("NumPy archive")
def numpy_archive(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weight.npy", b"\x93NUMPY")


@refused_with("TorchScript")
def torchscript(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", Opcodes().add(b"N").done())
        archive.writestr("model/code/__torch__.py", "op_version_set = 1", zipfile.ZIP_DEFLATED)
        archive.writestr("model/constants.pkl", Opcodes().add(b")").done())


@refused_with("exported program")
def exported_program(path: Path, canary: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/archive_format", "pt2")
        archive.writestr("model/models/model.json", "{}")


# the legacy format


def legacy(root: bytes, keys: list[str], tail: bytes, system: Mapping[str, Any] | None = None) -> bytes:
    """A file of the legacy format with any pickle and any bytes."""
    head = [0x1950A86A20F9469CFC6C, 1001, system or {"little_endian": True, "protocol_version": 1001, "type_sizes": {}}]
    return b"".join(pickle.dumps(part, protocol=2) for part in head) + root + pickle.dumps(keys, protocol=2) + tail


@refused_with("storage of the wrong size")
def legacy_with_a_wrong_size(path: Path, canary: Path) -> None:
    path.write_bytes(legacy(tensor(4, 0, (4,), (1,)), ["0"], struct.pack("<q", 400) + bytes(16)))


@refused_with("is truncated")
def legacy_storage_beyond_the_end(path: Path, canary: Path) -> None:
    path.write_bytes(legacy(tensor(1 << 30, 0, (4,), (1,)), ["0"], struct.pack("<q", 1 << 30) + bytes(16)))


@refused_with("other storages")
def legacy_with_other_keys(path: Path, canary: Path) -> None:
    path.write_bytes(legacy(tensor(4, 0, (4,), (1,)), ["1"], struct.pack("<q", 4) + bytes(16)))


@refused_with("bytes after its end")
def legacy_with_more_bytes(path: Path, canary: Path) -> None:
    path.write_bytes(legacy(tensor(4, 0, (4,), (1,)), ["0"], struct.pack("<q", 4) + bytes(17)))


@refused_with("big-endian")
def legacy_big_endian(path: Path, canary: Path) -> None:
    path.write_bytes(legacy(Opcodes().add(b"N").done(), [], b"", {"little_endian": False}))


@refused_with("magic number")
def pickle_without_magic(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps({"weight": [1.0]}, protocol=2))


# the tar format of torch before 0.1.10


def tar_parts() -> dict[str, bytes]:
    """The members of a valid file with the tensor ``weight`` of four ones."""
    ones = struct.pack("<q", 4) + struct.pack("<4f", 1, 1, 1, 1)
    storages = [pickle.dumps(1, 2), _tar_part(7, b"X\x03\x00\x00\x00cpu", name("torch", "FloatStorage")), ones]
    place = struct.pack("<ii3q", 1, 0, 4, 1, 0)
    return {
        "storages": b"".join([*storages, pickle.dumps([], 2)]),
        "tensors": pickle.dumps(1, 2) + _tar_part(9, number(7), name("torch", "FloatTensor")) + place,
        "pickle": Opcodes().add(b"}", text("weight"), text("9"), b"Qs").done(),
    }


def _tar_part(key: int, second: bytes, third: bytes) -> bytes:
    return Opcodes().add(number(key), second, third, b"\x87").done()


def write_tar(path: Path, parts: Mapping[str, bytes], kinds: Mapping[str, bytes] | None = None) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for member, content in parts.items():
            header = tarfile.TarInfo(member)
            header.size, header.type = len(content), (kinds or {}).get(member, tarfile.REGTYPE)
            archive.addfile(header, io.BytesIO(content))


def _tar(member: str, old: bytes, new: bytes) -> Builder:
    def build(path: Path, canary: Path) -> None:
        parts = tar_parts()
        assert old in parts[member]
        write_tar(path, {**parts, member: parts[member].replace(old, new)})

    return build


def _tar_bomb(member: str) -> Builder:
    return lambda path, canary: write_tar(path, {**tar_parts(), member: pickle.dumps(Bomb(canary), protocol=2)})


def _more_tar(parts: Mapping[str, bytes], kinds: Mapping[str, bytes] | None = None) -> Builder:
    return lambda path, canary: write_tar(path, {**tar_parts(), **parts}, kinds)


_PLACE = struct.pack("<ii3q", 1, 0, 4, 1, 0)
for _title, _attack, _message in (
    ("system_in_pickle", _tar_bomb("pickle"), "posix.system"),
    ("system_in_storages", _tar_bomb("storages"), "posix.system"),
    ("system_in_tensors", _tar_bomb("tensors"), "posix.system"),
    ("another_archive", lambda path, canary: write_tar(path, {"pickle": b"N."}), "not one of torch.save"),
    ("parent_folder", _more_tar({"../canary": b"x"}), "a member that torch does not write"),
    ("absolute_name", _more_tar({"/tmp/canary": b"x"}), "a member that torch does not write"),
    ("link", _more_tar({"sys_info": b""}, {"sys_info": tarfile.SYMTYPE}), "a member that torch does not write"),
    ("device", _more_tar({"sys_info": b""}, {"sys_info": tarfile.CHRTYPE}), "a member that torch does not write"),
    ("changed_size", _more_tar({"h": b"13 size=1000\n"}, {"h": tarfile.XHDTYPE}), "changes a name or a size"),
    ("storage_beyond_the_end", _tar("storages", struct.pack("<q", 4), struct.pack("<q", 1 << 40)), "truncated"),
    ("negative_storage", _tar("storages", struct.pack("<q", 4), struct.pack("<q", -4)), "malformed storage"),
    ("shape_beyond_storage", _tar("tensors", _PLACE, struct.pack("<ii3q", 1, 0, 5, 1, 0)), "beyond its storage"),
    ("stride_zero", _tar("tensors", _PLACE, struct.pack("<ii3q", 1, 0, 1 << 40, 0, 0)), "far larger than the file"),
    ("negative_size", _tar("tensors", _PLACE, struct.pack("<ii3q", 1, 0, -4, 1, 0)), "negative or enormous"),
    ("many_dimensions", _tar("tensors", _PLACE, struct.pack("<ii", 1 << 30, 0)), "malformed tensor"),
    ("many_parts", _tar("tensors", pickle.dumps(1, 2), pickle.dumps(1 << 40, 2)), "malformed number of parts"),
    ("other_storage", _tar("tensors", number(7), number(8)), "malformed tensor"),
    ("other_tensor", _tar("pickle", text("9"), text("8")), "reference that is not a tensor"),
    ("bytes_after_storages", _tar("storages", pickle.dumps([], 2), pickle.dumps([], 2) + b"x"), "after its last part"),
    ("bytes_after_pickle", _tar("pickle", b"s.", b"s.x"), "after its end"),
):
    REFUSED[f"tar_{_title}"] = (_attack, _message)


@refused_with("a checksum does not match")
def tar_flipped_header(path: Path, canary: Path) -> None:
    write_tar(path, tar_parts())
    raw = bytearray(path.read_bytes())
    raw[130] ^= 1
    path.write_bytes(raw)


@refused_with("a member that torch does not write")
def tar_duplicate_member(path: Path, canary: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for member, content in [*tar_parts().items(), ("pickle", pickle.dumps(Bomb(canary), protocol=2))]:
            header = tarfile.TarInfo(member)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))


@refused_with("bytes after its end")
def tar_with_more_bytes(path: Path, canary: Path) -> None:
    write_tar(path, tar_parts())
    path.write_bytes(path.read_bytes() + b"x" * 10_240)


# safetensors


def safe(header: str | bytes | Mapping[str, Any], data: bytes = b"") -> bytes:
    raw = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(raw)) + raw + data


def entry(start: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


_ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
for _title, _raw, _message in (
    ("huge_header", struct.pack("<Q", 1 << 40) + b"{}", "bytes long"),
    ("header_beyond_the_end", struct.pack("<Q", 1000) + b"{}", "truncated"),
    ("overlap", safe({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12)), "overlaps"),
    ("same_place", safe({"a": entry(0, 8, [2]), "b": entry(0, 8, [2])}, bytes(8)), "overlaps"),
    ("gap", safe({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12)), "gap"),
    ("more_bytes", safe({"a": entry(0, 4, [1])}, bytes(8)), "after the last tensor"),
    ("fewer_bytes", safe({"a": entry(0, 8, [2])}, bytes(4)), "truncated"),
    ("overflow", safe({"a": entry(0, 4, [1 << 40, 1 << 40])}, bytes(4)), "has shape"),
    (
        "long_number",
        safe('{"a":{"dtype":"F32","shape":[' + "9" * 5000 + '],"data_offsets":[0,4]}}', bytes(4)),
        "too long",
    ),
    ("negative", safe({"a": entry(0, 4, [-1])}, bytes(4)), "malformed shape"),
    ("backwards", safe({"a": entry(4, 0, [1])}, bytes(4)), "has shape"),
    ("float_shape", safe('{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', bytes(4)), "not a whole number"),
    ("boolean_shape", safe({"a": entry(0, 4, [True])}, bytes(4)), "malformed shape"),
    ("duplicate_key", safe(f'{{"a":{_ENTRY},"a":{_ENTRY}}}', bytes(4)), "appears twice"),
    (
        "duplicate_field",
        safe('{"a":{"dtype":"F32","dtype":"I32","shape":[1],"data_offsets":[0,4]}}', bytes(4)),
        "twice",
    ),
    ("not_utf8", safe(b'{"\xff":' + _ENTRY.encode() + b"}", bytes(4)), "not UTF-8"),
    ("surrogate", safe(f'{{"\\ud800":{_ENTRY}}}', bytes(4)), "not UTF-8"),
    ("nested", safe('{"a":' * 100_000 + "1" + "}" * 100_000), "nested too deeply"),
    ("unknown_type", safe({"a": entry(0, 4, [1], "F4")}, bytes(4)), "unknown type"),
    ("further_field", safe({"a": {**entry(0, 4, [1]), "code": "x"}}, bytes(4)), "must have the fields"),
    ("metadata_of_numbers", safe({"__metadata__": {"a": 1}}), "must be strings"),
    ("no_json", safe("{'a': 1}"), "not valid JSON"),
):
    REFUSED[f"safetensors_{_title}"] = (lambda path, canary, raw=_raw: path.write_bytes(raw), _message)  # type: ignore[misc]


# other file formats

for _title, _raw, _message in (
    ("empty", b"", "is empty"),
    ("web_page", b"<!DOCTYPE html><html><title>404 Not Found</title>", "web page"),
    ("git_lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git-LFS"),
    ("random", bytes((37 * i * i + 11 * i + 200) % 256 for i in range(4096)), "no known format"),
    ("text", b"epoch,loss\n1,0.5\n", "text file"),
    ("json", b'{"weight": [1, 2]}', "a JSON file"),
    ("hdf5", b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    ("gzip", b"\x1f\x8b\x08" + bytes(100), "gzip"),
    ("image", b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
    ("mnist_images", struct.pack(">4I", 0x803, 1, 28, 28) + bytes(784), "IDX file of images"),
    ("webp", b"RIFF\x10\0\0\0WEBP" + bytes(100), "WebP"),
    ("zeros", bytes(4096), "no known format"),
    ("two_bytes", b"PK", "truncated"),
    ("protocol_byte", b"\x80", "truncated"),
):
    REFUSED[f"file_{_title}"] = (lambda path, canary, raw=_raw: path.write_bytes(raw), _message)  # type: ignore[misc]


def module(path: Path) -> torch.nn.Module:
    """Writes a pickled module, which the reader turns into inert records; returns the module."""
    network = torch.nn.Sequential(OrderedDict(first=torch.nn.Linear(2, 3), norm=torch.nn.BatchNorm1d(3)))
    torch.save(network, path)
    return network
