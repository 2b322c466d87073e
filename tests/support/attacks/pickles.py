"""Hostile pickles: code, tensors that are not dense, contradictory shapes, nesting and copies."""

from __future__ import annotations

import pickle
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from tests.support.attacks.forging import (
    EMPTY_HOOKS,
    REFUSED,
    Bomb,
    Builder,
    Opcodes,
    name,
    number,
    numbers,
    refused_with,
    storage,
    tensor,
    text,
    write_zip,
)

# code


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
