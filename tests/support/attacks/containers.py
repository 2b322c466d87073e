"""Hostile containers of checkpoints: zip archives, the older formats of torch, safetensors, and other files."""

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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from tests.support.attacks.forging import (
    REFUSED,
    Bomb,
    Builder,
    Opcodes,
    name,
    number,
    refused_with,
    tensor,
    text,
    write_zip,
)

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
