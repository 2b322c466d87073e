"""The safetensors format: length of the JSON header, header, and the bytes of the tensors without gaps."""

from __future__ import annotations

import json
import struct
from collections import Counter
from math import prod
from typing import Any, NoReturn

from .builders import MAX_DIMENSIONS, MAX_SIZE
from .records import ITEM_SIZES, Storage, Strided
from .source import RefusedError, Source, escaped, truncated
from .tree import described

MAX_HEADER_BYTES = 16 << 20
TYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "I16": "int16", "U16": "uint16", "I32": "int32", "U32": "uint32",
    "I64": "int64", "U64": "uint64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
METADATA = "__metadata__"


def _broken(why: str) -> NoReturn:
    raise RefusedError("has a malformed safetensors header", why=why)


def describe(source: Source) -> dict[str, Any]:
    """See :func:`.summary.describe`; also returns ``metadata``, a dictionary of strings."""
    (length,) = struct.unpack("<Q", source.read(0, 8))
    if length > MAX_HEADER_BYTES:
        _broken(f"it is {length:,} bytes long")
    header = _parsed(source.read(8, length))
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        _broken("its metadata must be strings")
    start = 8 + length
    named = {name: _tensor(name, entry) for name, entry in header.items()}
    offsets = {name: start + offset for name, (_, offset) in named.items()}
    description = described(source.size, {name: tensor for name, (tensor, _) in named.items()}, offsets, {})
    end = 0
    for name, (tensor, offset) in sorted(named.items(), key=lambda item: (item[1][1], item[1][0].storage.count)):
        if offset != end:
            _broken(f"{escaped(name)} {'overlaps another tensor' if offset < end else 'follows a gap'}")
        end += tensor.storage.size
    if start + end > source.size:
        raise truncated()
    if start + end != source.size:
        _broken(f"{source.size - start - end:,} bytes after the last tensor")
    return {**description, "metadata": metadata}


def _parsed(raw: bytes) -> dict[str, Any]:
    """The header's JSON. A duplicate key is refused, because parsers differ in which one they use."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            counts = Counter(name for name, _ in pairs)
            _broken(f"the key {escaped(max(counts, key=counts.__getitem__))} appears twice")
        return table

    def refused(number: str) -> NoReturn:
        _broken(f"{escaped(number)} is not a whole number")

    try:
        header = json.loads(
            raw.decode(), object_pairs_hook=unique, parse_constant=refused, parse_float=refused, parse_int=_whole
        )
        if b"\\u" in raw:
            json.dumps(header, ensure_ascii=False).encode()  # fails on a lone surrogate
    except UnicodeError:
        _broken("it is not UTF-8")
    except RecursionError:
        _broken("it is nested too deeply")
    except ValueError:
        _broken("it is not valid JSON")
    if not isinstance(header, dict):
        _broken("it is not a JSON object")
    return header


def _whole(digits: str) -> int:
    if len(digits) > 18:
        _broken("a number is too long")
    return int(digits)


def _tensor(name: str, entry: Any) -> tuple[Strided, int]:
    """A tensor, and the position of its bytes in the data."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _broken(f"{escaped(name)} must have the fields dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in TYPES:
        raise RefusedError("contains a tensor of unknown type", why=f"{escaped(name)}: {escaped(str(dtype)[:100])}")
    if not _sizes(shape) or len(shape) > MAX_DIMENSIONS or not _sizes(offsets) or len(offsets) != 2:
        _broken(f"{escaped(name)} has a malformed shape or data_offsets")
    count = prod(shape)
    if prod(n for n in shape if n) > MAX_SIZE or offsets[1] - offsets[0] != count * ITEM_SIZES[TYPES[dtype]]:
        _broken(f"{escaped(name)} has shape {shape[:8]} in {offsets[1] - offsets[0]:,} bytes")
    strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    storage = Storage(name, TYPES[dtype], count, "cpu")
    return Strided(storage, TYPES[dtype], 0, tuple(shape), tuple(strides)), offsets[0]


def _sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n <= MAX_SIZE for n in value)
